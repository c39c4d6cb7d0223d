"""How long from exec to the engine's ready line, on files never seen and on files known to the ledger.

The floor is a bare Python process that reads the same files.
"""

from __future__ import annotations

import subprocess
import sys
import time

from figures import Figure, Of, Target
from fleet import Fleet

SIZES = (1000, 10_000)
_FAR = 40 * 86_400
_READER = "import os, sys; [open(entry.path, 'rb').read() for entry in os.scandir(sys.argv[1])]"


def measure(rounds: int, *, quick: bool) -> list[Figure]:
    """First and second starts."""
    figures = []
    for count in SIZES:
        pair = [
            Figure(name=f"{which} start with {count:,} definitions", unit="s", floor_name="python reads them")
            for which in ("first", "second")
        ]
        if count == min(SIZES):
            for figure in pair:
                figure.target = Target(of=Of.VALUE, at_most=1.0)
        for _ in range(rounds):
            with Fleet() as fleet:
                fleet.write(count, "true", every="80d", anchor=time.time() + _FAR)
                for figure in pair:
                    floor_s = _reading_s(fleet)
                    with fleet.serve() as engine:
                        figure.add(engine.ready_s, floor_s)
        figures += pair
    return figures


def _reading_s(fleet: Fleet) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", _READER, fleet.definitions], check=True)
    return time.monotonic() - began
