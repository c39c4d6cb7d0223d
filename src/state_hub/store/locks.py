"""One lock per repo, in the database: hook, sweep and writeback exclude each other, on one machine or several.

A lock is a lease. Whoever finds it expired, or its holder dead on this machine, takes it over; every write for
the repo checks in its own transaction that the lock still is its own, so a late former holder changes nothing.
"""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from activity_plumbing.proc import boot_id, read_stat
from state_hub.errors import LockLostError
from state_hub.store.schema import repo_locks

if TYPE_CHECKING:
    from activity_plumbing.clock import Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoLock:
    """A lock held by this process."""

    repo_id: int
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBy:
    """Somebody else holds the lock."""

    holder: str


def take_lock(connection: sa.Connection, repo_id: int, role: str, now: Instant, lease_us: int) -> RepoLock | HeldBy:
    """Takes the lock of a repo, or says who has it. Give a writing transaction."""
    pid = os.getpid()
    own = read_stat(pid)
    assert own is not None
    values: dict[str, Any] = {
        "token": uuid.uuid4().hex,
        "holder": f"{role}, pid {pid} on {socket.gethostname()}",
        "boot_id": boot_id(),
        "pid": pid,
        "pid_started": own.started,
        "taken_at": now,
        "expires_at": now + lease_us,
    }
    row = connection.execute(
        sa.select(repo_locks).where(repo_locks.c.repo_id == repo_id).with_for_update()
    ).one_or_none()
    if row is None:
        try:
            with connection.begin_nested():
                connection.execute(sa.insert(repo_locks), {"repo_id": repo_id, **values})
        except sa.exc.IntegrityError:
            return HeldBy(holder="another process that was a moment quicker")
        return RepoLock(repo_id=repo_id, token=values["token"])
    if row.expires_at > now and not _is_dead(row.boot_id, row.pid, row.pid_started):
        return HeldBy(holder=row.holder)
    connection.execute(sa.update(repo_locks).where(repo_locks.c.repo_id == repo_id).values(values))
    return RepoLock(repo_id=repo_id, token=values["token"])


def _is_dead(boot: str, pid: int, started: int) -> bool:
    """True for a process of this machine that is gone. Of another machine, or boot, only the lease tells."""
    if boot != boot_id():
        return False
    stat = read_stat(pid)
    return stat is None or stat.started != started or not stat.is_alive


def hold_lock(connection: sa.Connection, lock: RepoLock) -> None:
    """Makes sure, for the rest of this transaction, that the lock is ours. Raises LockLostError."""
    token = connection.execute(
        sa.select(repo_locks.c.token).where(repo_locks.c.repo_id == lock.repo_id).with_for_update()
    ).scalar()
    if token != lock.token:
        raise LockLostError("another process took over the lock of this repo; what was under way is dropped")


def release_lock(connection: sa.Connection, lock: RepoLock) -> None:
    """Gives the lock back; one that was taken over stays with the other."""
    connection.execute(
        sa.delete(repo_locks).where(repo_locks.c.repo_id == lock.repo_id, repo_locks.c.token == lock.token)
    )


def abandoned_locks(connection: sa.Connection, now: Instant) -> list[RepoLock]:
    """Locks that anybody could take over: their lease has run out, or their holder is dead."""
    return [
        RepoLock(repo_id=row.repo_id, token=row.token)
        for row in connection.execute(sa.select(repo_locks))
        if row.expires_at <= now or _is_dead(row.boot_id, row.pid, row.pid_started)
    ]
