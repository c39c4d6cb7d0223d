"""The ``state-hub`` command. So far it asks a running hub how it is; the hub's own server comes next."""

from __future__ import annotations

import asyncio
import json
import sys

import click

from activity_plumbing.http_guard import Endpoint, GuardedClient, HttpGuardError

DEFAULT_URL = "http://127.0.0.1:8000"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="activity-core", prog_name="state-hub")
def main() -> None:
    """The registry of repos and the workplans in them."""


@main.command(epilog="\b\nExample:\n  state-hub status --url http://127.0.0.1:8000")
@click.option(
    "--url",
    default=DEFAULT_URL,
    show_default=True,
    envvar="ACTIVITY_STATE_HUB_URL",
    help="The hub's base URL.",
)
def status(url: str) -> None:
    """Print a running hub's health (GET /state/health); exit status 1 if it is not ok."""
    try:
        answer = asyncio.run(_health(url))
    except (HttpGuardError, ValueError) as failure:
        click.echo(f"state-hub: {failure}", err=True)
        sys.exit(2)
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    if not (isinstance(answer, dict) and answer.get("status") == "ok"):
        sys.exit(1)


async def _health(url: str) -> object:
    client = GuardedClient([Endpoint.of(url)], user_agent="state-hub")
    try:
        answer = await client.get(url.rstrip("/") + "/state/health", timeout_s=5.0)
        if answer.status != 200:
            raise HttpGuardError(f"{url} answered with status {answer.status}")
        return answer.value()
    finally:
        await client.close()
