"""What `make run` does: a small fleet of real git repos below .run/, the state hub that knows them, and the engine
that runs the hub's jobs.

The fleet is made once and kept. Nothing outside .run/ is touched, and nothing but loopback is spoken to.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from demo_fleet import PLANS, Fleet

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / ".run"
BIN = Path(sys.executable).parent
ENGINE_CONFIG = RUN / "activity-core.toml"
HUB_CONFIG = RUN / "state-hub.toml"
JOBS = ("state-hub-consistency-sweep", "state-hub-stale-task-cleanup")
FIRST_RUNS_S = 60.0


def hub(*words: str) -> str:
    """What a hub command prints."""
    done = subprocess.run(
        [BIN / "state-hub", "--config", HUB_CONFIG, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def engine(*words: str) -> str:
    """What an engine command prints."""
    command = [BIN / "activity-core", "--config", ENGINE_CONFIG, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def free_port() -> int:
    """8000, or any other where that is taken."""
    for wanted in (8000, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SystemExit("no port is free on 127.0.0.1")


def prepare(port: int) -> None:
    """Settings of both, the fleet, and what happened in it since the hub last looked."""
    RUN.mkdir(exist_ok=True)
    HUB_CONFIG.write_text(
        f'state_dir = "{RUN / "hub"}"\nport = {port}\nsweep_lock = "{RUN / "sweep.lock"}"\n', encoding="utf-8"
    )
    ENGINE_CONFIG.write_text(
        f'state_dir = "{RUN / "engine"}"\ndefinitions = ["{ROOT / "activity-definitions"}"]\n'
        f'state_hub_url = "http://127.0.0.1:{port}"\nstate_hub_token = "{hub("token").strip()}"\n\n'
        f'[environment]\nSTATE_HUB_HOME = "{ROOT}"\nSTATE_HUB_CONFIG = "{HUB_CONFIG}"\n',
        encoding="utf-8",
    )
    ENGINE_CONFIG.chmod(0o600)
    fleet = Fleet(RUN / "fleet")
    if not fleet.make():
        return
    for state in (RUN / "hub", RUN / "engine"):  # what they knew was of a fleet before this one
        for left in ("state-hub.db", "ledger.db", "output.db"):
            for path in state.glob(f"{left}*"):
                path.unlink()
    for name in PLANS:
        hub("repos", "add", str(fleet.clone(name)), "--slug", name)
    hub("sweep", "--all")
    fleet.disturb()
    hub("set-status", "FOU-WP-0001/T01", "done")
    fleet.finish()


def show() -> None:
    """What the first runs did."""
    for job in JOBS:
        print(f"\n$ activity-core logs {job}\n{engine('logs', job)}", end="")
    print(f"\n$ state-hub findings\n{hub('findings')}")
    print("look further, from another terminal in this folder:")
    print(f"  export PATH=$PWD/{BIN.relative_to(ROOT)}:$PATH ACTIVITY_CONFIG=.run/activity-core.toml", end="")
    print(" STATE_HUB_CONFIG=.run/state-hub.toml")
    for words in ("run state-hub-consistency-sweep", "history", "explain state-hub-consistency-sweep", "next"):
        print(f"  activity-core {words}")
    for words in ("tasks", "set-status ATL-WP-0001/T03 done", "repos list", "writebacks", "outbox"):
        print(f"  state-hub {words}")
    print("Ctrl-C ends both", flush=True)


def newest_run(job: str) -> int:
    """The number of a job's newest run; 0 when there is none."""
    printed = engine("history", job, "--json")
    return max((run["id"] for run in json.loads(printed)), default=0) if printed.strip() else 0


def first_runs_are_over(before: dict[str, int]) -> bool:
    """Whether each job has a run of this start that ended."""
    for job in JOBS:
        printed = engine("history", job, "--json")
        runs = json.loads(printed) if printed.strip() else []
        if not any(run["ended_at"] and run["id"] > before[job] for run in runs):
            return False
    return True


def main() -> None:
    """Makes what is missing, and keeps hub and engine running until Ctrl-C."""
    port = free_port()
    prepare(port)
    print(
        f"{len(PLANS)} git repos in .run/fleet, registered with the state hub on http://127.0.0.1:{port}\n", flush=True
    )
    children = [
        subprocess.Popen([BIN / "state-hub", "--config", HUB_CONFIG, "serve"], start_new_session=True),
    ]
    try:
        wait_for_hub(port, children[0])
        before = {job: newest_run(job) for job in JOBS}
        serve = [BIN / "activity-core", "--config", ENGINE_CONFIG, "serve", "--run-now"]
        children.append(subprocess.Popen(serve, start_new_session=True))
        deadline = time.monotonic() + FIRST_RUNS_S
        while time.monotonic() < deadline and not first_runs_are_over(before):
            if any(child.poll() is not None for child in children):
                break
            time.sleep(0.3)
        show()
        while all(child.poll() is None for child in children):
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        stop(children)


def wait_for_hub(port: int, child: subprocess.Popen[bytes]) -> None:
    """Waits until the hub answers."""
    while child.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the state hub did not start")


def stop(children: list[subprocess.Popen[bytes]]) -> None:
    """Lets the engine finish first, then the hub; a second Ctrl-C does not wait."""
    for child in reversed(children):
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        try:
            child.wait(timeout=35)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
