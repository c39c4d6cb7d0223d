"""What an engine costs that has nothing to do: CPU and memory with 0, 1,000 and 10,000 definitions.

Nothing is due for hours. Memory is taken after a first start (files never seen) and after a second one (known
to the ledger); CPU over 60 s of the second, which holds one turn of the once-a-minute housekeeping. The engines
idle side by side, with a Python process that only sleeps in asyncio as the floor.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from dataclasses import dataclass, field

from figures import Figure, Of, Target
from fleet import Fleet, memory_of, own_cpu_s

SIZES = (0, 1000, 10_000)
SETTLE_S = 5.0
WINDOW_S = 60.0
QUICK_WINDOW_S = 20.0
_FAR = 40 * 86_400
_SLEEPER = "import asyncio; asyncio.run(asyncio.sleep(100_000))"


@dataclass(slots=True)
class _Size:
    """The figures of one number of definitions."""

    count: int
    cpu: Figure = field(init=False)
    memory: dict[tuple[str, str], Figure] = field(init=False)

    def __post_init__(self) -> None:
        what = f"idle with {self.count:,} definitions: "
        self.cpu = Figure(
            name=f"{what}CPU", unit="%", floor_name="asyncio sleeper", target=Target(of=Of.VALUE, at_most=0.05)
        )
        self.memory = {
            (start, kind): Figure(name=f"{what}{kind}, {start} start", unit="MB", floor_name="asyncio sleeper")
            for start in ("first", "second")
            for kind in ("RSS", "PSS", "private")
        }
        if self.count == max(SIZES):
            for start in ("first", "second"):
                self.memory[start, "RSS"].target = Target(of=Of.VALUE, at_most=70)

    def add_memory(self, start: str, pid: int, floor_pid: int) -> None:
        mine, floor = memory_of(pid), memory_of(floor_pid)
        self.memory[start, "RSS"].add(mine.rss, floor.rss)
        self.memory[start, "PSS"].add(mine.pss, floor.pss)
        self.memory[start, "private"].add(mine.private, floor.private)


def measure(rounds: int, *, quick: bool) -> list[Figure]:
    """Memory and CPU of idle engines."""
    sizes = [_Size(count) for count in SIZES]
    for _ in range(rounds):
        _one_round(sizes, QUICK_WINDOW_S if quick else WINDOW_S)
    return [figure for size in sizes for figure in (size.cpu, *size.memory.values())]


def _one_round(sizes: list[_Size], window_s: float) -> None:
    with contextlib.ExitStack() as stack:
        fleets = [stack.enter_context(Fleet()) for _ in sizes]
        for size, fleet in zip(sizes, fleets, strict=True):
            fleet.write(size.count, "true", every="80d", anchor=time.time() + _FAR)
        floor = subprocess.Popen([sys.executable, "-c", _SLEEPER])
        stack.callback(_end, floor)
        with contextlib.ExitStack() as first:
            engines = [first.enter_context(fleet.serve()) for fleet in fleets]
            time.sleep(SETTLE_S)
            for size, engine in zip(sizes, engines, strict=True):
                size.add_memory("first", engine.pid, floor.pid)
        engines = [stack.enter_context(fleet.serve()) for fleet in fleets]
        time.sleep(SETTLE_S)
        pids = [floor.pid, *(engine.pid for engine in engines)]
        before, began = [own_cpu_s(pid) for pid in pids], time.monotonic()
        time.sleep(window_s)
        used = [own_cpu_s(pid) - earlier for pid, earlier in zip(pids, before, strict=True)]
        took_s = time.monotonic() - began
        for size, engine, cpu_s in zip(sizes, engines, used[1:], strict=True):
            size.cpu.add(cpu_s / took_s * 100, used[0] / took_s * 100)
            size.add_memory("second", engine.pid, floor.pid)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()
