"""A machine as the seed describes it: its home path, its port; run by ``unshare --mount --net``.

    seed_machine.py ROOT FOLDER [--in-place]

With --in-place, for machines that allow no namespaces, the seed's path is a link for as long as this runs.
Below FOLDER lie the definitions; hub and engine run here, both jobs are asked for once, and what became of them is
printed as JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

SEED_HOME = Path("/home/worsch/state-hub")
JOBS = ("the-custodian.state-hub-consistency-sweep", "the-custodian.state-hub-stale-task-cleanup")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def mount_home(root: Path, folder: Path) -> None:
    """Shows `root` under the seed's path, and everything else in /home where it was."""
    before = folder / "home-before"
    before.mkdir()
    mount("--rbind", "/home", str(before))
    shown = folder / "root"
    shown.mkdir()
    mount("--rbind", str(root), str(shown))
    mount("-t", "tmpfs", "tmpfs", "/home")
    for entry in before.iterdir():
        if entry.is_dir() and entry.name != "worsch":
            (Path("/home") / entry.name).mkdir()
            mount("--rbind", str(entry), f"/home/{entry.name}")
    SEED_HOME.mkdir(parents=True)
    mount("--rbind", str(shown), str(SEED_HOME))
    mount("-t", "tmpfs", "tmpfs", "/var/tmp")


def loopback_up() -> None:
    """A new network namespace has a loopback device that is down (netdevice(7))."""
    up = 0x1 | 0x40  # IFF_UP | IFF_RUNNING
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, 0x8914, struct.pack("16sh14x", b"lo", up))  # SIOCSIFFLAGS


def wait_until(condition: object, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.02)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def main() -> None:
    root, folder = Path(sys.argv[1]), Path(sys.argv[2])
    if "--in-place" in sys.argv:
        SEED_HOME.parent.mkdir(parents=True)  # fails where somebody lives there
        SEED_HOME.symlink_to(root)
    else:
        loopback_up()
        mount_home(root, folder)
    bin_folder = SEED_HOME / ".venv" / "bin"
    hub = [str(bin_folder / "state-hub"), "--config", str(folder / "state-hub.toml")]
    engine = [str(bin_folder / "activity-core"), "--config", str(folder / "activity-core.toml")]
    children = [subprocess.Popen([*hub, "serve"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
    try:
        wait_until(lambda: answers(8000), "the hub")
        with (folder / "engine.log").open("wb") as log:
            children.append(subprocess.Popen([*engine, "serve"], stdout=log, stderr=log))
        wait_until(lambda: b"ready after" in (folder / "engine.log").read_bytes(), "the engine")
        found = {}
        for job in JOBS:  # `run` comes back when the run is over
            done = subprocess.run([*engine, "run", job], capture_output=True, text=True, check=False)
            shown = subprocess.run([*engine, "history", job, "--json"], capture_output=True, text=True, check=True)
            logs = subprocess.run([*engine, "logs", job], capture_output=True, text=True, check=False)
            found[job] = {"status": done.returncode, "runs": json.loads(shown.stdout), "output": logs.stdout}
        sys.stdout.write(json.dumps(found))
    finally:
        for child in reversed(children):
            child.send_signal(signal.SIGTERM)
            child.wait(60)
        if SEED_HOME.is_symlink():
            SEED_HOME.unlink()
            SEED_HOME.parent.rmdir()


if __name__ == "__main__":
    os.umask(0o022)
    main()
