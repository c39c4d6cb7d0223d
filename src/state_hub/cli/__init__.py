"""The ``state-hub`` command."""

from __future__ import annotations

import logging
import sys
import time
from importlib import import_module

import click

from activity_plumbing.text import printable
from state_hub.cli.shared import EXIT_ERROR, Console
from state_hub.errors import StateHubError

_COMMANDS = {
    "serve": "state_hub.cli.serving:serve_command",
    "status": "state_hub.cli.serving:status_command",
    "token": "state_hub.cli.serving:token_command",
    "repos": "state_hub.cli.repos:repos_group",
    "workstreams": "state_hub.cli.plans:workstreams_command",
    "tasks": "state_hub.cli.plans:tasks_command",
    "set-status": "state_hub.cli.plans:set_status_command",
    "workplan": "state_hub.cli.plans:workplan_group",
    "sweep": "state_hub.cli.sweeping:sweep_command",
    "sweeps": "state_hub.cli.sweeping:sweeps_command",
    "findings": "state_hub.cli.findings:findings_command",
    "checks": "state_hub.cli.findings:checks_command",
    "writebacks": "state_hub.cli.findings:writebacks_command",
    "outbox": "state_hub.cli.findings:outbox_command",
    "cleanup": "state_hub.cli.cleaning:cleanup_command",
    "rebuild": "state_hub.cli.cleaning:rebuild_command",
    "hooks": "state_hub.cli.hooks:hooks_group",
}
"""Where each command stands; a command is imported when it is used."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", metavar="FILE", help="Settings file instead of the one that is looked for.")
@click.option("--state-dir", metavar="DIR", help="Where database, token and clones lie.")
@click.option("--database-url", metavar="URL", help="Database instead of the state folder's SQLite file.")
@click.version_option(package_name="activity-core", prog_name="state-hub")
@click.pass_context
def group(context: click.Context, config: str | None, state_dir: str | None, database_url: str | None) -> None:
    """The registry of repos, and the workplans in them: kept in step with a database."""
    context.obj = Console(config=config, state_dir=state_dir, database_url=database_url)


def run(command: click.Command, *, program: str) -> None:
    """Runs a command of ours to its exit: expected errors in one line on stderr."""
    formatter = logging.Formatter("%(asctime)sZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        command(prog_name=program)
    except StateHubError as failure:
        click.echo(f"{program}: {printable(str(failure))}", err=True)
        sys.exit(EXIT_ERROR)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_ERROR)
    except Exception as failure:
        from sqlalchemy.exc import SQLAlchemyError

        if not isinstance(failure, SQLAlchemyError):
            raise
        said = str(getattr(failure, "orig", None) or failure).strip().splitlines()[0]
        click.echo(f"{program}: the database failed: {printable(said)}; `state-hub status` looks at it", err=True)
        sys.exit(EXIT_ERROR)


def main() -> None:
    """The entry point ``state-hub``."""
    run(group, program="state-hub")
