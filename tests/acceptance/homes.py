"""Installed commands on temporary folders, and engines that can be killed by the hundred."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from activity_core.ledger.store import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMAND = Path(sys.executable).parent / "activity-core"
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("ACTIVITY_")}

# Imports once, then forks an engine per line of its input: real processes for a fraction of the start-up.
FORKER = """
import os, sys
import activity_core.engine, activity_core.serve, activity_core.cli.engine, activity_core.cli
import activity_core.ledger.store, activity_core.catalog.watch, watchfiles
for line in sys.stdin:
    arguments = line.split()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(arguments[0], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
        os.dup2(2, 1)
        sys.argv = ["activity-core", *arguments[1:]]
        os.setsid()
        activity_core.cli.main()
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    """Polls until the condition holds. Fails naming `what` when it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


class Home:
    """A definitions folder, a state folder, and the commands on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.definitions = folder / "definitions"
        self.definitions.mkdir(parents=True)
        self.state = folder / "state"
        self.log = folder / "log"

    @property
    def options(self) -> list[str]:
        return ["--state-dir", str(self.state), "-d", str(self.definitions)]

    def define(self, name: str, text: str) -> Path:
        path = self.definitions / f"{name}.yaml"
        path.write_text(f"id: {name}\n{text}")
        return path

    def run(self, *arguments: str, check: bool = False, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(COMMAND), *self.options, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=CLEAN,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def ledger(self) -> Ledger:
        return Ledger.open(self.state)

    @contextlib.contextmanager
    def serving(self, *arguments: str, config: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """An engine that is ready; ended with SIGTERM if it still runs at the end."""
        given = [] if config is None else ["--config", str(config)]
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [str(COMMAND), *given, *self.options, "serve", *arguments],
                stdout=log,
                stderr=log,
                env=CLEAN,
                stdin=subprocess.DEVNULL,
            )
        try:
            wait_for(lambda: b"ready after" in self.log.read_bytes()[before:] or process.poll() is not None, "ready")
            assert process.poll() is None, self.log.read_text()
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)
