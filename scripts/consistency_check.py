"""Pull every registered repo, bring workplan files and database together, write back: `--help` tells how."""

from __future__ import annotations

from state_hub.cli import run
from state_hub.cli.sweeping import sweep_command

if __name__ == "__main__":
    run(sweep_command, program="consistency_check.py")
