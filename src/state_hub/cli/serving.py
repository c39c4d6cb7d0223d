"""``state-hub serve``, ``status`` and ``token``."""

from __future__ import annotations

import asyncio
import sys

import click

from activity_plumbing.http_guard import Endpoint, GuardedClient, HttpGuardError
from state_hub.cli.shared import EXIT_ERROR, Console, echo_json, json_option
from state_hub.errors import ConfigurationError


@click.command("serve", epilog="\b\nExample:\n  state-hub serve --port 8000")
@click.option("--host", help="Address to listen on (default: the setting, 127.0.0.1).")
@click.option("--port", type=click.IntRange(1, 65535), help="Port (default: the setting, 8000).")
@click.pass_obj
def serve_command(console: Console, host: str | None, port: int | None) -> None:
    """Serve the HTTP API in the foreground."""
    from state_hub.api.serve import serve

    serve(console.settings(host=host, port=port))


@click.command("status", epilog="\b\nExamples:\n  state-hub status\n  state-hub status --url http://127.0.0.1:8000")
@click.option("--url", metavar="URL", help="Ask a running hub instead of looking at the database.")
@json_option
@click.pass_obj
def status_command(console: Console, url: str | None, as_json: bool) -> None:
    """How the hub is: its database, what waits, what is wrong. Exit status 1 if it is not well."""
    from state_hub.health import health

    if url is not None:
        answer = asyncio.run(_asked(url))
    else:
        with console.store() as store:
            answer = health(store)
    if as_json or url is not None:
        echo_json(answer)
    else:
        for name, value in answer.items():
            shown = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else value
            click.echo(f"{name + ':':<20}{shown if shown not in ('', None) else 'none'}")
    sys.exit(0 if answer.get("status") == "ok" else EXIT_ERROR)


async def _asked(url: str) -> dict[str, object]:
    try:
        client = GuardedClient([Endpoint.of(url)], user_agent="state-hub")
    except ValueError as failure:
        raise ConfigurationError(f"{url}: {failure}") from failure
    try:
        answer = await client.get(url.rstrip("/") + "/state/health", timeout_s=5.0)
        value = answer.value()
        if isinstance(value, dict) and "status" in value:
            return value
        raise ConfigurationError(f"{url} answered with status {answer.status}, and not as a state hub does")
    except HttpGuardError as failure:
        raise ConfigurationError(str(failure)) from failure
    finally:
        await client.close()


@click.command(
    "token", epilog='\b\nExample:\n  curl -H "Authorization: Bearer $(state-hub token)" http://127.0.0.1:8000/repos/'
)
@click.pass_obj
def token_command(console: Console) -> None:
    """Print the token that the API asks for; made if there is none yet."""
    from state_hub.settings import load_token

    click.echo(load_token(console.settings(), create=True))
