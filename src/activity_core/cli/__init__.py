"""The command line. Heavy modules are imported inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import sys

import click

from activity_core import __version__
from activity_core.cli import definitions, engine, history, operate
from activity_core.cli.shared import EXIT_ERROR, Console
from activity_core.errors import ActivityCoreError
from activity_plumbing.database import DatabaseError

_EPILOG = """
\b
Examples:
  activity-core validate activity-definitions     check files, without running anything
  activity-core serve                             run the engine in the foreground
  activity-core explain my.activity               why did it run, or why not
"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="activity-core")
@click.option("--config", type=click.Path(dir_okay=False), help="Settings file (default: see docs/settings.md).")
@click.option("--state-dir", type=click.Path(file_okay=False), help="State folder, overriding the settings.")
@click.option(
    "--definitions",
    "-d",
    multiple=True,
    type=click.Path(),
    help="Folder of definitions; may be given several times.",
)
@click.pass_context
def cli(context: click.Context, config: str | None, state_dir: str | None, definitions: tuple[str, ...]) -> None:
    """Run checked-in maintenance on time, and explain every decision."""
    context.obj = Console(config=config, state_dir=state_dir, definitions=definitions)


for command in (
    definitions.validate,
    definitions.schema,
    definitions.list_,
    definitions.next_,
    engine.serve,
    engine.run,
    history.history,
    history.show,
    history.logs,
    history.explain,
    operate.pause,
    operate.resume,
    operate.cancel,
    operate.doctor,
    operate.prune,
    operate.completion,
):
    cli.add_command(command)


def main() -> None:
    """The console command: errors meant for people go to stderr as one line, with exit status 2."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.ClickException as failure:
        failure.show()
        sys.exit(failure.exit_code)
    except (ActivityCoreError, DatabaseError) as failure:
        click.echo(f"activity-core: {failure}", err=True)
        sys.exit(EXIT_ERROR)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
