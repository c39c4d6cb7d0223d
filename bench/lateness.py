"""How late runs start: many definitions due at one instant, and one definition due every second.

Lateness is `started_at - slot` as the ledger tells it, which is taken just before the start is committed; so
the moment that the command itself stamps (`date` in the shell) is measured beside it. A burst lasts from the
first start to the last; its floor is the same number of shells spawned as fast as Python can, 16 alive.
"""

from __future__ import annotations

import math
import time

from figures import Figure, Of, Target, percentile
from fleet import Fleet, is_in_time, next_slot
from floors import date_burst_s, woken_late_s

SIZES = (1, 100, 1000)
SLOTS = 40
"""Slots of the one definition over all rounds."""


def measure_burst(rounds: int, *, quick: bool) -> list[Figure]:
    """1, 100 and 1,000 definitions due at one instant."""
    figures = []
    for count in SIZES:
        figures += _burst_of(count, rounds)
    return figures


def _burst_of(count: int, rounds: int) -> list[Figure]:
    due = f"{count:,} due at once: "
    p50, p99, most = (Figure(name=f"{due}lateness {what}", unit="ms") for what in ("p50", "p99", "max"))
    stamped = Figure(name=f"{due}commands' own stamps, max", unit="ms")
    starts = Figure(name=f"{due}burst of starts", unit="ms", floor_name="date burst")
    stamps = Figure(name=f"{due}burst of stamps", unit="ms", floor_name="date burst")
    if count == max(SIZES):
        stamps.target = Target(of=Of.RATIO, at_most=1.3)
    for _ in range(rounds):
        floor_ms = date_burst_s(count) * 1e3 if count > 1 else None
        started, stamped_late = _one_burst(count)
        p50.add(percentile(started, 50))
        p99.add(percentile(started, 99))
        most.add(max(started))
        stamped.add(max(stamped_late))
        starts.add(max(started) - min(started), floor_ms)
        stamps.add(max(stamped_late) - min(stamped_late), floor_ms)
    return [p50, p99, most, stamped] if count == 1 else [p50, p99, most, stamped, starts, stamps]


def _one_burst(count: int) -> tuple[list[float], list[float]]:
    """Milliseconds after the slot: of every start as recorded, and of every stamp."""
    patience = 1.0
    while True:
        with Fleet() as fleet:
            slot = next_slot(count, patience=patience)
            fleet.write(count, fleet.stamp_command(), every="30d", anchor=slot)
            with fleet.serve() as engine:
                if not is_in_time(engine, slot):
                    patience *= 2
                    continue
                engine.wait_for_ends(count, limit_s=60.0)
            runs = fleet.checked_runs(count, f"{count} due at once")
            started = [(run.lateness_us or 0) / 1e3 for run in runs]
            return started, [(moment - slot) * 1e3 for moment in fleet.stamped_at()]


def measure_one(rounds: int, *, quick: bool) -> list[Figure]:
    """One definition every second."""
    late = Figure(name="one due: lateness p50", unit="ms", target=Target(of=Of.VALUE, at_most=10))
    late_p99 = Figure(name="one due: lateness max", unit="ms")
    stamped = Figure(name="one due: command's own stamp p50", unit="ms", floor_name="woken sleeper's stamp")
    slots = math.ceil(SLOTS / rounds)
    for _ in range(rounds):
        floor = woken_late_s(slots)
        started, stamps = _every_second(slots)
        late.add(percentile(started, 50))
        late_p99.add(max(started))
        stamped.add(percentile(stamps, 50), percentile(floor, 50) * 1e3)
    return [late, late_p99, stamped]


def _every_second(slots: int) -> tuple[list[float], list[float]]:
    """Milliseconds after each of `slots` slots: of its start as recorded, and of its stamp."""
    with Fleet() as fleet:
        fleet.write(1, fleet.stamp_command(), every="1s", anchor=0)
        with fleet.serve() as engine:
            engine.wait_for_ends(slots + 1, limit_s=slots + 30.0)
            time.sleep(0.3)
        runs = fleet.checked_runs(len(fleet.stamped_at()), "one due every second")
        stamps = fleet.stamped_at()
    late = [(run.lateness_us or 0) / 1e3 for run in runs]
    stamped = [(moment - run.slot / 1e6) * 1e3 for moment, run in zip(stamps, runs, strict=False)]
    return late[1:], stamped[1:]  # the first one also pays for modules that are loaded at first use
