"""A temporary fleet of definition files and the installed `activity-core serve` that runs it.

Every definition asks a context query, evaluates a rule and captures output; the engine keeps its defaults, full
durability included. History is read through the ledger once the engine has stopped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from activity_core.ledger.store import Ledger
from activity_core.run import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from activity_core.ledger.records import RunRecord

COMMAND = Path(sys.executable).parent / "activity-core"
START_LIMIT_S = 180.0
STOP_LIMIT_S = 60.0
_POLL_S = 0.002
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")

problems: list[str] = []
"""Whatever the product did that it must not do, in any part of the bench; told at the end."""


def definition(name: str, cmd: str, *, every: str, anchor: float) -> str:
    """The YAML of one interval definition; `anchor` in seconds since the epoch."""
    at = datetime.fromtimestamp(anchor, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"""id: bench.{name}
trigger:
  trigger_type: interval
  every: {every}
  anchor: "{at}"
context:
  - {{kind: host.status, bind: host}}
rule:
  when: ["host.cpus >= 1"]
instruction:
  kind: shell
  cmd: "{cmd}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Megabytes (10^6 bytes) of one process, from smaps_rollup."""

    rss: float
    pss: float
    private: float


class Fleet:
    """A temporary folder with definitions, settings and state; removed at the end of the `with`."""

    def __init__(self, *, max_parallel: int = 16) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="activity-bench-"))
        self.definitions = self.folder / "definitions"
        self.state = self.folder / "state"
        self.stamps = self.folder / "stamps"
        self.definitions.mkdir()
        (self.folder / "activity-core.toml").write_text(
            f'state_dir = "state"\ndefinitions = ["definitions"]\nmax_parallel = {max_parallel}\n', encoding="utf-8"
        )

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder)

    def write(self, count: int, cmd: str, *, every: str, anchor: float) -> None:
        """Writes `count` definitions that are due together."""
        for number in range(count):
            text = definition(f"d{number:05d}", cmd, every=every, anchor=anchor)
            (self.definitions / f"d{number:05d}.yaml").write_text(text, encoding="utf-8")

    def stamp_command(self) -> str:
        """A command that appends the moment it runs to `stamps`."""
        return f"date +%s.%N >> {self.stamps}"

    def stamped_at(self) -> list[float]:
        """The moments the commands wrote, in seconds, in order."""
        return read_stamps(self.stamps)

    def serve(self) -> Engine:
        """Starts the installed command on this folder and waits until it is ready."""
        return Engine(self)

    def runs(self) -> list[RunRecord]:
        """Every row of the history, oldest first. For a stopped engine."""
        ledger = Ledger.open(self.state)
        try:
            return ledger.history(limit=1_000_000)[::-1]
        finally:
            ledger.close()

    def checked_runs(self, expected: int, what: str) -> list[RunRecord]:
        """The runs, after a look whether each definition ran once and well; what is wrong goes to `problems`."""
        runs = self.runs()
        good = [run for run in runs if run.state is State.SUCCEEDED and run.started_at is not None]
        if len(runs) != expected or len(good) != expected:
            states = sorted({f"{run.state.value}/{run.reason.value if run.reason else '-'}" for run in runs})
            problems.append(f"{what}: {expected} runs due, {len(runs)} rows, {len(good)} succeeded; states {states}")
        if any(run.context_json is None or run.rule_json is None for run in good):
            problems.append(f"{what}: runs without the context or the rule that decided them")
        return good


class Engine:
    """One `activity-core serve` process. Always `stop` it; `ready_s` is the time from exec to its ready line."""

    def __init__(self, fleet: Fleet) -> None:
        self._log_path = fleet.folder / f"log-{time.monotonic_ns()}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ACTIVITY_")}
        with self._log_path.open("wb") as log:
            began = time.monotonic()
            self._process = subprocess.Popen(
                [COMMAND, "serve"],
                cwd=fleet.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid
        self._log = self._log_path.open("rb")
        self._ended = 0
        self._text = b""
        while b" ready after " not in self._text:
            if self._process.poll() is not None or time.monotonic() - began > START_LIMIT_S:
                self.stop()
                raise RuntimeError(f"the engine did not get ready:\n{self._log_path.read_text()[-2000:]}")
            time.sleep(_POLL_S)
            self._text += self._log.read()
        self.ready_s = time.monotonic() - began

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait_for_ends(self, count: int, *, limit_s: float) -> None:
        """Returns when the log has told the end of `count` runs; past the limit that is noted as a problem.

        The log is followed, not the ledger, so that the wait takes nothing from what is measured.
        """
        give_up = time.monotonic() + limit_s
        while self._ended < count:
            if time.monotonic() > give_up:
                problems.append(f"only {self._ended} of {count} runs had ended after {limit_s:.0f} s")
                return
            time.sleep(0.05)
            self._ended += self._log.read().count(b" bench.d")

    def stop(self) -> None:
        """SIGTERM, wait, and a look at the log."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
            problems.append(f"the engine was still there {STOP_LIMIT_S:.0f} s after SIGTERM")
        if status != 0:
            problems.append(f"the engine's exit status was {status}")
        self._log.close()
        lines = self._log_path.read_text(encoding="utf-8").splitlines()
        bad = [line for line in lines if _is_trouble(line)]
        problems.extend(f"log: {line}" for line in bad[:5])

    def cpu_s(self) -> float:
        """CPU seconds so far of the engine and of every child it has waited for, from /proc/PID/stat."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) * _TICK_S

    def own_cpu_s(self) -> float:
        """CPU seconds of the engine's own process so far, to the nanosecond."""
        return own_cpu_s(self.pid)

    def memory(self) -> Memory:
        """What it holds in memory now."""
        return memory_of(self.pid)


def _is_trouble(line: str) -> bool:
    """A warning, an error or a traceback; not what an empty folder and a second start rightly report."""
    is_gap = "nothing could start between" in line and line.endswith("engine_down")
    is_expected = is_gap or "no definition is in force" in line
    return not is_expected and (" warning " in line or " error " in line or "Traceback" in line)


def own_cpu_s(pid: int) -> float:
    """CPU seconds of the living threads of a process, from /proc/PID/task/*/schedstat (no 10 ms ticks)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def memory_of(pid: int) -> Memory:
    """RSS, PSS and private memory of a process."""
    sizes = dict(_sizes(Path(f"/proc/{pid}/smaps_rollup").read_text()))
    return Memory(rss=sizes["Rss"], pss=sizes["Pss"], private=sizes["Private_Clean"] + sizes["Private_Dirty"])


def _sizes(text: str) -> Iterator[tuple[str, float]]:
    for line in text.splitlines()[1:]:
        name, size, *_ = line.split()
        yield name.rstrip(":"), int(size) * 1024 / 1e6


def read_stamps(path: Path) -> list[float]:
    """What `date +%s.%N` wrote, in order."""
    return sorted(map(float, path.read_text(encoding="ascii").split()))


def next_slot(count: int, *, patience: float = 1.0) -> float:
    """A whole second by which an engine that starts now on `count` unknown definitions will be waiting."""
    return float(int(time.time() + patience * (3.0 + count * 0.003)) + 1)


def is_in_time(engine: Engine, slot: float) -> bool:
    """Whether the engine was ready and at rest before the slot; if so, returns shortly before it."""
    left = slot - time.time()
    if left < 1.0:
        return False
    time.sleep(left - 0.5)
    return True
