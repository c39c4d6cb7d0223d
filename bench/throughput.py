"""Durable runs per second and CPU per run, with more runs due than may run at once.

3,000 definitions are due at one instant; each run has its context asked, its rule evaluated, its start and its
end on disk, its output captured. CPU is that of the engine and all its children, from shortly before the slot
to the last end; so deciding and recording the slots is in it. The floor spawns the same command without an
engine, four alive, in the same round.
"""

from __future__ import annotations

from dataclasses import dataclass

from figures import Figure, Of, Target
from fleet import Fleet, is_in_time, next_slot
from floors import spawn_floor

RUNS = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One measured round: rates over the time from the first start, and from the slot, to the last end."""

    per_s: float
    from_slot_per_s: float
    cpu_ms: float


def measure(rounds: int, *, quick: bool) -> list[Figure]:
    """At most four and at most sixteen commands at once; and sixteen that print a line."""
    figures = []
    for max_parallel, cmd, what in ((4, "true", ""), (16, "true", ""), (16, "echo done", ", each printing a line")):
        figures += _loaded(max_parallel, cmd, what, rounds)
    return figures


def _loaded(max_parallel: int, cmd: str, what: str, rounds: int) -> list[Figure]:
    floor_name = "spawn, four alive"
    name = f"{RUNS:,} runs, {max_parallel} at once{what}"
    rate = Figure(
        name=f"{name}: rate",
        unit="/s",
        floor_name=floor_name,
        target=Target(of=Of.VALUE, at_least=1000, floor_at_least=2000),
    )
    whole = Figure(name=f"{name}: rate from the slot on", unit="/s", floor_name=floor_name)
    cpu = Figure(name=f"{name}: CPU per run", unit="ms", floor_name=floor_name, target=Target(of=Of.RATIO, at_most=1.6))
    for _ in range(rounds):
        floor = spawn_floor(4)
        load = _one_load(max_parallel, cmd, name)
        rate.add(load.per_s, floor.per_s)
        whole.add(load.from_slot_per_s, floor.per_s)
        cpu.add(load.cpu_ms, floor.cpu_ms)
    return [rate, whole, cpu]


def _one_load(max_parallel: int, cmd: str, name: str) -> Load:
    patience = 1.0
    while True:
        with Fleet(max_parallel=max_parallel) as fleet:
            slot = next_slot(RUNS, patience=patience)
            fleet.write(RUNS, cmd, every="30d", anchor=slot)
            with fleet.serve() as engine:
                if not is_in_time(engine, slot):
                    patience *= 2
                    continue
                before = engine.cpu_s()
                engine.wait_for_ends(RUNS, limit_s=120.0)
                used = engine.cpu_s() - before
            runs = fleet.checked_runs(RUNS, name)
        started = [run.started_at for run in runs if run.started_at is not None]
        last = max(run.ended_at for run in runs if run.ended_at is not None)
        return Load(
            per_s=RUNS / ((last - min(started)) / 1e6),
            from_slot_per_s=RUNS / (last / 1e6 - slot),
            cpu_ms=used / RUNS * 1e3,
        )
