"""What the machine itself costs: spawning a shell, stamping the time in one, syncing a small write.

Run beside the product in the same rounds, so that figures can be told as ratios on a noisy machine.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from figures import Figure, percentile
from fleet import read_stamps

SHELL = "/bin/sh"
DATE_AT_ONCE = 16
_BLOCK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnFloor:
    """Spawning `/bin/sh -c true` and waiting for it."""

    cpu_ms: float
    per_s: float


def spawn(cmd: str) -> int:
    """Starts one shell in a session of its own, the cheapest way Python has."""
    return os.posix_spawn(SHELL, [SHELL, "-c", cmd], os.environ, setsid=True)


def spawn_many(cmd: str, count: int, alive: int) -> None:
    """Starts `count` shells with at most `alive` of them at a time, and waits for all."""
    running = 0
    for _ in range(count):
        if running == alive:
            os.waitpid(-1, 0)
            running -= 1
        spawn(cmd)
        running += 1
    for _ in range(running):
        os.waitpid(-1, 0)


def spawn_floor(alive: int, count: int = 1500) -> SpawnFloor:
    """CPU (this process and the children, from getrusage) and rate of `count` spawns of `true`."""
    cpu, began = _cpu_s(), time.monotonic()
    spawn_many("true", count, alive)
    took_s, used_s = time.monotonic() - began, _cpu_s() - cpu
    return SpawnFloor(cpu_ms=used_s / count * 1e3, per_s=count / took_s)


def date_burst_s(count: int) -> float:
    """Seconds from the first to the last stamp of `count` shells that stamp the time, 16 alive."""
    with tempfile.TemporaryDirectory(prefix="activity-bench-") as folder:
        stamps = Path(folder) / "stamps"
        spawn_many(f"date +%s.%N >> {stamps}", count, DATE_AT_ONCE)
        moments = read_stamps(stamps)
    return moments[-1] - moments[0]


def woken_late_s(count: int) -> list[float]:
    """How late a shell stamps the time that was started by a sleeper woken at the instant: no engine can be earlier."""
    late = []
    with tempfile.TemporaryDirectory(prefix="activity-bench-") as folder:
        for number in range(count):
            stamps = Path(folder) / f"stamp-{number}"
            instant = int(time.time() * 5 + 2) / 5
            time.sleep(instant - time.time())
            pid = spawn(f"date +%s.%N >> {stamps}")
            os.waitpid(pid, 0)
            late.append(read_stamps(stamps)[0] - instant)
    return late


def sync_ms(count: int = 200) -> float:
    """The median time of an fdatasync after a 4 KiB append, where state folders of the bench lie."""
    took = []
    with tempfile.NamedTemporaryFile(prefix="activity-bench-") as file:
        for _ in range(count):
            os.write(file.fileno(), b"\0" * _BLOCK)
            began = time.monotonic()
            os.fdatasync(file.fileno())
            took.append(time.monotonic() - began)
    return percentile(took, 50) * 1e3


def measure(rounds: int, *, quick: bool) -> list[Figure]:
    """The floors alone."""
    count = 500 if quick else 1500
    one_cpu = Figure(name="spawn of `sh -c true`, one alive: CPU", unit="ms")
    one_rate = Figure(name="spawn of `sh -c true`, one alive", unit="/s")
    four_cpu = Figure(name="spawn of `sh -c true`, four alive: CPU", unit="ms")
    four_rate = Figure(name="spawn of `sh -c true`, four alive", unit="/s")
    date = Figure(name="1,000 shells that stamp the time, 16 alive: burst", unit="ms")
    sync = Figure(name="fdatasync of a 4 KiB append, p50", unit="ms")
    for _ in range(rounds):
        one, four = spawn_floor(1, count), spawn_floor(4, count)
        one_cpu.add(one.cpu_ms)
        one_rate.add(one.per_s)
        four_cpu.add(four.cpu_ms)
        four_rate.add(four.per_s)
        date.add(date_burst_s(1000) * 1e3)
        sync.add(sync_ms())
    return [one_cpu, one_rate, four_cpu, four_rate, date, sync]


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
