"""The clock of a running engine is set a day ahead and back again: no slot twice, none silently gone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.acceptance.homes import CLEAN, wait_for

from activity_core.run import Reason, State
from activity_plumbing.clock import DAY_US, SECOND_US

if TYPE_CHECKING:
    from tests.acceptance.homes import Home

# The installed engine on a clock that reads its distance from the machine's from a file, as nobody wants the
# clock of the testing machine to be set. Its alarm stays the machine's, so SIGHUP makes it look.
ENGINE = """
import asyncio, logging, pathlib, sys
from activity_core.serve import serve_until_stopped
from activity_core.settings import Settings
from activity_plumbing.clock import SystemClock
state, definitions, offset = map(pathlib.Path, sys.argv[1:])
logging.basicConfig(level=logging.INFO)
class Shifted(SystemClock):
    def now(self):
        return super().now() + int(offset.read_text())
asyncio.run(serve_until_stopped(Settings(state_dir=state, definitions=(definitions,)), clock=Shifted()))
"""


def test_a_clock_set_a_day_ahead_and_back_runs_each_slot_once(home: Home) -> None:
    effects, offset = home.folder / "effects", home.folder / "offset"
    offset.write_text("0")
    home.define(
        "t.a",
        "trigger: {trigger_type: interval, every: 1s, misfire_policy: run_all, overlap_policy: allow}\n"
        f"instruction: {{kind: shell, cmd: 'echo $ACTIVITY_SLOT >> {effects}'}}\n",
    )
    command = [sys.executable, "-c", ENGINE, str(home.state), str(home.definitions), str(offset)]
    with home.log.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=CLEAN, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: b"ready after" in home.log.read_bytes(), "the engine")
        ledger = home.ledger()

        def ran(count: int) -> bool:
            process.send_signal(signal.SIGHUP)
            return effects.exists() and len(effects.read_text().split()) >= count

        wait_for(lambda: ran(2), "runs before")
        offset.write_text(str(DAY_US))
        wait_for(lambda: ran(5), "runs a day ahead")
        jumped = [row for row in ledger.history(limit=500) if row.reason is Reason.CLOCK_STEP]
        assert sum(row.slot_count for row in jumped) > 86_000
        offset.write_text("0")
        process.send_signal(signal.SIGHUP)
        began = time.time_ns() // 1000
        wait_for(lambda: ran(9), "runs after")
    finally:
        process.terminate()
        process.wait(30)
    lines = Counter(effects.read_text().split())
    assert max(lines.values()) == 1
    covered: Counter[int] = Counter()
    for row in ledger.history(limit=1_000):
        covered.update(range(row.slot, row.last_slot + 1, SECOND_US))
        assert row.state in (State.SUCCEEDED, State.MISSED, State.PENDING)  # pending: recorded as the stop came
    assert max(covered.values()) == 1
    last = max(slot for slot in covered if slot < began + DAY_US // 2)
    near = [slot for slot in covered if slot <= last]
    assert sorted(near) == list(range(min(near), last + 1, SECOND_US))
