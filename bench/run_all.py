"""Measures engine and state hub against floors of the same run, and prints figures, ratios and verdicts.

    bench/run_all.py                    # everything, some twenty minutes
    bench/run_all.py --only burst       # one part; may be repeated
    bench/run_all.py --quick            # fewer rounds and shorter windows: a smoke test, not a verdict
    bench/run_all.py --json FILE        # also every round as JSON

Every figure is the median over rounds in which floor and product took turns. The exit status is 1 when the
product misbehaved (lost or failed runs, errors in its log); a missed target only shows in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import floors
import idle
import lateness
import start
import sweep
import throughput
from figures import Figure, print_figures
from fleet import COMMAND, problems

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS: dict[str, tuple[str, Callable[..., list[Figure]]]] = {
    "floors": ("Floors", floors.measure),
    "one-due": ("Lateness of one", lateness.measure_one),
    "burst": ("Lateness of many", lateness.measure_burst),
    "throughput": ("Throughput", throughput.measure),
    "start": ("Start to ready", start.measure),
    "idle": ("Idle", idle.measure),
    "sweep": ("The state hub's sweep", sweep.measure),
}
ROUNDS = 5
QUICK_ROUNDS = 2


def main() -> int:
    options = _options()
    if not COMMAND.exists():
        print(f"{COMMAND} is not there; run `make install`", file=sys.stderr)
        return 2
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    machine = _machine()
    print(" · ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"medians of {rounds} rounds" + (" (quick: not a verdict)" if options.quick else ""))
    report: dict[str, object] = {"machine": machine, "rounds": rounds, "quick": options.quick}
    parts: dict[str, object] = {}
    for name in options.only or PARTS:
        title, measure = PARTS[name]
        began = time.monotonic()
        load = os.getloadavg()[0]
        figures = measure(rounds, quick=options.quick)
        took_s = time.monotonic() - began
        print_figures(f"{title} (load before {load:.1f}, took {took_s:.0f} s)", figures)
        parts[name] = {"load_before": load, "took_s": took_s, "figures": [figure.as_json() for figure in figures]}
    report.update(parts=parts, problems=problems)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for problem in problems:
        print(f"PROBLEM {problem}")
    return 1 if problems else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the engine against floors of the same run.")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="measure this part; may be repeated")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds and shorter windows")
    parser.add_argument("--rounds", type=int, help=f"rounds per figure (default {ROUNDS})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round as JSON")
    return parser.parse_args()


def _machine() -> dict[str, str]:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "commit": described or "unknown",
        "Python": platform.python_version(),
        "Linux": platform.release(),
        "CPUs": str(os.cpu_count()),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


if __name__ == "__main__":
    sys.exit(main())
