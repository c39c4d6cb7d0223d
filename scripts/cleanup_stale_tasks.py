"""Cancel tasks that are still open in finished or archived workstreams: `--help` tells how."""

from __future__ import annotations

from state_hub.cli import run
from state_hub.cli.cleaning import cleanup_command

if __name__ == "__main__":
    run(cleanup_command, program="cleanup_stale_tasks.py")
