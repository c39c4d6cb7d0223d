"""Finding and ending a command's whole tree of processes, those that left its session too.

A process belongs to a run if it is in the run's session or group, descends from its first process, or carries
the run's marks in its environment; then everything below it belongs as well. The engine is a subreaper
(prctl(2), PR_SET_CHILD_SUBREAPER), so orphans stay below it and can be found and reaped.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal

from activity_plumbing.proc import ProcessStat, read_stat

_PR_SET_CHILD_SUBREAPER = 36
_FREEZE_ROUNDS = 50
_KILL_ROUNDS = 400
_EMPTY_LOOKS = 3
_POLL_S = 0.01
_LONGEST_POLL_S = 0.1


def become_subreaper() -> None:
    """Makes orphaned descendants children of this process. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def all_pids() -> list[int]:
    """Every process number of the machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - on a hot path


def snapshot() -> dict[int, ProcessStat]:
    """Every process, by number."""
    found = (read_stat(pid) for pid in all_pids())
    return {stat.pid: stat for stat in found if stat is not None}


def environment_of(pid: int) -> frozenset[bytes]:
    """The ``NAME=value`` strings a process was started with; empty where they may not be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return frozenset(file.read().split(b"\0"))
    except OSError:
        return frozenset()


def members(root: int, marks: frozenset[bytes]) -> dict[int, ProcessStat]:
    """The living processes of a run. `root`: its first process (0: unknown); `marks`: its environment strings."""
    processes = snapshot()
    mine = os.getpid()
    found = {
        pid
        for pid, stat in processes.items()
        if pid != mine
        and stat.is_alive
        and ((root and root in (pid, stat.session, stat.group)) or (marks and marks <= environment_of(pid)))
    }
    children: dict[int, list[int]] = {}
    for stat in processes.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    queue = [*found, root] if root else list(found)
    while queue:
        for child in children.get(queue.pop(), ()):
            if child not in found and child != mine:
                found.add(child)
                queue.append(child)
    return {pid: processes[pid] for pid in found if processes[pid].is_alive}


async def end_tree(root: int, marks: frozenset[bytes], grace_s: float) -> int:
    """Ends a run's processes: asks with SIGTERM, waits up to `grace_s`, then stops all and kills all.

    Returns how many had to be killed. Stopping first keeps a fork bomb from outrunning the kill.
    """
    loop = asyncio.get_running_loop()
    group = _Group(root)
    group.send(signal.SIGTERM)
    for pid in members(root, marks):
        _send(pid, signal.SIGTERM)
        _send(pid, signal.SIGCONT)  # a stopped process would not see the request
    deadline = loop.time() + grace_s
    pause = _POLL_S
    while loop.time() < deadline:
        if _is_gone(group, root, marks):
            return 0
        await asyncio.sleep(min(pause, max(0.0, deadline - loop.time())))
        pause = min(_LONGEST_POLL_S, pause * 1.5)
    killed: set[int] = set()
    for _ in range(_KILL_ROUNDS):
        group.send(signal.SIGSTOP)
        frozen: set[int] = set()
        for _ in range(_FREEZE_ROUNDS):
            fresh = members(root, marks).keys() - frozen
            if not fresh:
                break
            for pid in fresh:
                _send(pid, signal.SIGSTOP)
            frozen |= fresh
        group.send(signal.SIGKILL)
        for pid in frozen:
            _send(pid, signal.SIGKILL)
        killed |= frozen
        await asyncio.sleep(_POLL_S)
        if _is_gone(group, root, marks):
            break
    return len(killed)


class _Group:
    """The process group of a run's first process. A signal to it reaches all members at one instant."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._is_ours = bool(leader)

    def send(self, number: signal.Signals) -> None:
        """Signals the group; once it was found empty its number may belong to others, so never again."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._leader, number)

    def is_alive(self) -> bool:
        """True while any process of the group is left."""
        if self._is_ours:
            reap_group(self._leader)
            self._is_ours = group_is_alive(self._leader)
        return self._is_ours


def _is_gone(group: _Group, root: int, marks: frozenset[bytes]) -> bool:
    """True when looks one after the other find nothing: a process can fork and exit while one look goes on."""
    if group.is_alive() and not _only_zombie_leader(root):
        return False
    return not any(members(root, marks) for _ in range(_EMPTY_LOOKS))


def _only_zombie_leader(root: int) -> bool:
    """True when all that keeps the group is its dead leader, which whoever started it will reap."""
    stat = read_stat(root)
    return stat is not None and not stat.is_alive


def reap_group(group: int) -> None:
    """Collects dead orphans of a process group, so that they are not taken for the living."""
    if not group:
        return
    with contextlib.suppress(ChildProcessError):
        while True:
            # the group's leader is left to whoever waits for it
            peek = os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if peek is None or peek.si_pid == group:
                return
            os.waitpid(peek.si_pid, os.WNOHANG)


def group_is_alive(group: int) -> bool:
    """True while any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
