"""Finding a command's processes among all those of the machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from activity_core.shell import tree
from activity_plumbing.proc import ProcessStat, read_stat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 10.0


@contextlib.contextmanager
def shell(text: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A shell in a session of its own that has printed a line; its group is killed at the end."""
    started = subprocess.Popen(
        ["/bin/sh", "-c", text],
        env={"PATH": os.environ["PATH"], **(environment or {})},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert started.stdout is not None
        started.stdout.readline()
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        assert started.stdout is not None
        started.stdout.close()


async def until(is_so: Callable[[], object]) -> None:
    """Polls something observable until it is so, at most for the deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not is_so():
        assert loop.time() < deadline
        await asyncio.sleep(0.01)


def children_named(parent: int, name: str) -> list[ProcessStat]:
    return [
        stat
        for pid, stat in tree.snapshot().items()
        if stat.parent == parent and Path(f"/proc/{pid}/comm").read_text().strip() == name
    ]


def fresh_mark() -> tuple[dict[str, str], frozenset[bytes]]:
    value = f"test-{uuid.uuid4().hex}"
    return {"ACTIVITY_LEDGER": value, "ACTIVITY_RUN_ID": "1"}, frozenset(
        {b"ACTIVITY_RUN_ID=1", f"ACTIVITY_LEDGER={value}".encode()}
    )


def test_a_process_is_read_with_its_parent_group_session_and_start() -> None:
    with shell("echo on; sleep 300") as started:
        stat = read_stat(started.pid)

        assert stat is not None
        assert (stat.pid, stat.parent, stat.group, stat.session) == (
            started.pid, os.getpid(), started.pid, started.pid,
        )  # fmt: skip
        assert stat.is_alive
        mine = read_stat(os.getpid())
        assert mine is not None
        assert 0 < mine.started <= stat.started


def test_a_process_whose_name_holds_brackets_and_spaces_is_read_rightly(tmp_path: Path) -> None:
    odd = tmp_path / ") R 1 (x"
    odd.symlink_to("/bin/sleep")
    with shell(f"'{odd}' 300 & echo $!; wait") as started:
        asyncio.run(until(lambda: children_named(started.pid, ") R 1 (x")))

        found = children_named(started.pid, ") R 1 (x")
        assert [(stat.parent, stat.session) for stat in found] == [(started.pid, started.pid)]


def test_a_process_that_is_gone_is_none_and_one_that_waits_to_be_reaped_is_not_alive() -> None:
    started = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
    stat = read_stat(started.pid)
    assert stat is not None
    assert not stat.is_alive
    assert tree.members(started.pid, frozenset()) == {}
    started.wait()

    assert read_stat(started.pid) is None
    assert tree.environment_of(started.pid) == frozenset()


def test_this_process_is_among_all_of_them() -> None:
    assert os.getpid() in tree.all_pids()
    assert os.getpid() in tree.snapshot()
    assert f"PATH={os.environ['PATH']}".encode() in tree.environment_of(os.getpid())


def test_members_are_the_session_its_children_and_whoever_carries_every_mark() -> None:
    environment, marks = fresh_mark()
    away = "setsid sh -c 'echo on; exec sleep 300' & wait"
    with shell(f"sleep 300 & {away}", environment) as started, shell("echo on; sleep 300") as stranger:
        asyncio.run(until(lambda: len(tree.members(0, marks)) == 3))  # one that just executes shows no environment
        by_both = tree.members(started.pid, marks)

        assert started.pid in by_both
        assert tree.members(0, marks).keys() == by_both.keys()
        assert len({stat.session for stat in by_both.values()}) == 2
        assert stranger.pid not in by_both
        assert os.getpid() not in by_both
        assert tree.members(0, marks | {b"ACTIVITY_RUN_ID=2"}) == {}
        assert asyncio.run(tree.end_tree(0, marks, 5.0)) == 0
        assert stranger.poll() is None


def test_what_lost_its_marks_is_a_member_as_long_as_its_parent_is_one() -> None:
    environment, marks = fresh_mark()
    text = "env -i /usr/bin/setsid /bin/sh -c 'echo on; /bin/sleep 300; :' & wait"
    with shell(text, environment) as started:
        found = tree.members(0, marks)

        assert len(found) >= 2
        assert any(tree.environment_of(pid).isdisjoint(marks) for pid in found)
        assert asyncio.run(tree.end_tree(started.pid, marks, 5.0)) == 0
        assert tree.members(started.pid, marks) == {}


def test_without_root_and_marks_nobody_is_a_member() -> None:
    assert tree.members(0, frozenset()) == {}
    assert asyncio.run(tree.end_tree(0, frozenset(), 0.0)) == 0


def test_ending_asks_first_and_counts_only_what_had_to_be_killed() -> None:
    with shell("echo on; sleep 300 & wait") as obedient:
        assert asyncio.run(tree.end_tree(obedient.pid, frozenset(), 5.0)) == 0
        assert obedient.wait() in (0, -signal.SIGTERM)  # it may see its child end first
    with shell("trap '' TERM; (while :; do sleep 300; done) & echo on; while :; do sleep 300; done") as stubborn:
        assert asyncio.run(tree.end_tree(stubborn.pid, frozenset(), 0.1)) >= 2
        assert stubborn.wait() == -signal.SIGKILL
        assert tree.members(stubborn.pid, frozenset()) == {}


def test_a_group_is_alive_until_its_last_process_is_reaped() -> None:
    started = subprocess.Popen(["/bin/sh", "-c", "read line"], stdin=subprocess.PIPE, start_new_session=True)
    assert tree.group_is_alive(started.pid)
    assert started.stdin is not None
    started.stdin.close()
    os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
    tree.reap_group(started.pid)  # the leader is left to whoever waits for it
    assert started.wait() == 1
    assert not tree.group_is_alive(started.pid)


def test_orphans_become_children_of_a_subreaper_and_are_reaped_with_their_group() -> None:
    tree.become_subreaper()
    with shell("sh -c 'read line; exit 0' <&0 & echo $!; wait", None) as started:
        leader = read_stat(started.pid)
        assert leader is not None
        children = [stat for stat in tree.snapshot().values() if stat.parent == started.pid]
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
        orphans = [stat for each in children if (stat := read_stat(each.pid)) is not None]
        assert all(stat.parent == os.getpid() for stat in orphans)
        for stat in orphans:
            os.kill(stat.pid, signal.SIGKILL)
            os.waitid(os.P_PID, stat.pid, os.WEXITED | os.WNOWAIT)
        tree.reap_group(started.pid)
        assert all(read_stat(stat.pid) is None for stat in orphans)
        assert not tree.group_is_alive(started.pid)
