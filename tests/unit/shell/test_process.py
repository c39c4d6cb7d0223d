"""Commands of a real shell: how they start, what they say, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from activity_core.errors import CommandError
from activity_core.run import RunId
from activity_core.shell.capture import STDERR, STDOUT, Capture
from activity_core.shell.environment import base_environment, data_variables
from activity_core.shell.process import CommandResult, CommandSpec, Ending, Processes, RunningCommand

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

CAP = 1 << 20
DEADLINE_S = 10.0


class Command:
    """One command with marks of its own, as the executor would make it."""

    def __init__(
        self,
        processes: Processes,
        text: str,
        folder: Path | str = "/",
        *,
        timeout_s: float | None = None,
        grace_s: float = 5.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.ledger = f"test-{uuid.uuid4().hex}"
        marks = {"ACTIVITY_RUN_ID": "1", "ACTIVITY_LEDGER": self.ledger}
        self.capture = Capture(RunId(1), 1, CAP)
        spec = CommandSpec(
            text=text,
            folder=str(folder),
            environment={**base_environment(), **(environment or {}), **marks},
            marks=frozenset(f"{name}={value}".encode() for name, value in marks.items()),
            timeout_us=None if timeout_s is None else round(timeout_s * 1e6),
            kill_grace_us=round(grace_s * 1e6),
        )
        self.running: RunningCommand = processes.start(spec, self.capture)
        self._printed: dict[int, bytes] = {STDOUT: b"", STDERR: b""}

    async def result(self) -> CommandResult:
        async with asyncio.timeout(DEADLINE_S):
            return await self.running.wait()

    def printed(self, stream: int = STDOUT) -> str:
        for chunk in self.capture.unsaved()[0]:
            self._printed[chunk.stream] += chunk.data
        return self._printed[stream].decode()

    async def says(self, word: str) -> None:
        """Waits until the command has printed the word."""
        await until(lambda: word in self.printed(), f"the command did not print {word!r}")

    def survivors(self) -> list[int]:
        """Living processes that carry this command's mark."""
        mark = f"ACTIVITY_LEDGER={self.ledger}".encode()
        return [pid for pid in living() if mark in environ_of(pid)]


async def until(is_so: Callable[[], object], complaint: str) -> None:
    """Polls something observable until it is so, at most for the deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not is_so():
        assert loop.time() < deadline, complaint
        await asyncio.sleep(0.01)


def environ_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def state_of(pid: int) -> str:
    """The letter of proc_pid_stat(5), X for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1].decode()
    except OSError:
        return "X"


def is_living(pid: int) -> bool:
    return state_of(pid) not in "XZ"


def living() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and is_living(int(path.name))]


def zombies_of_this_process() -> int:
    count = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_bytes().rpartition(b") ")[2].split()
            count += fields[0] == b"Z" and int(fields[1]) == os.getpid()
    return count


@contextlib.asynccontextmanager
async def processes() -> AsyncIterator[Processes]:
    each = Processes()
    try:
        yield each
        await each.settle()
    finally:
        for command in tuple(each.running.values()):  # a test has failed in the middle
            command.end_at_once()
            await command.wait()
        each.close()


def run(text: str, folder: Path | str = "/", **options: object) -> tuple[CommandResult, Command]:
    """One command from start to end, checked to leave nothing behind."""

    async def go() -> tuple[CommandResult, Command]:
        async with processes() as each:
            command = Command(each, text, folder, **options)  # type: ignore[arg-type]
            result = await command.result()
            await each.settle()
            assert command.survivors() == []
            assert not each.running
            return result, command

    return asyncio.run(go())


# -- how it ends, what it says --


@pytest.mark.parametrize("status", [0, 1, 75, 126, 127, 255])
def test_the_exit_status_is_the_shells(status: int) -> None:
    result, _ = run(f"exit {status}")

    assert (result.exit_status, result.signal, result.ending) == (status, None, None)
    assert (result.killed, result.left_behind) == (0, False)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGPIPE, signal.SIGHUP, signal.SIGXFSZ])
def test_a_shell_that_dies_of_a_signal_has_that_signal_and_no_exit_status(number: signal.Signals) -> None:
    result, _ = run(f"kill -{number.value} $$")

    assert (result.exit_status, result.signal, result.ending) == (None, number, None)


def test_both_streams_are_kept_apart_and_in_order() -> None:
    _, command = run("for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done")

    assert command.printed(STDOUT) == "".join(f"out {i}\n" for i in range(1, 6))
    assert command.printed(STDERR) == "".join(f"err {i}\n" for i in range(1, 6))


def test_what_one_stream_says_after_the_other_was_read_comes_after_it(tmp_path: Path) -> None:
    async def go() -> None:
        async with processes() as each:
            command = Command(each, "echo first; while [ ! -e go ]; do sleep 0.01; done; echo second >&2", tmp_path)
            seen: list[int] = []

            def is_read() -> bool:
                seen.extend(chunk.stream for chunk in command.capture.unsaved()[0])
                return STDOUT in seen

            await until(is_read, "the first line was not read")
            (tmp_path / "go").touch()
            await command.result()
            seen.extend(chunk.stream for chunk in command.capture.unsaved()[0])
            assert seen == [STDOUT, STDERR]

    asyncio.run(go())


def test_a_large_output_on_both_streams_arrives_whole() -> None:
    async def go() -> None:
        async with processes() as each:
            command = Command(each, "head -c 5000000 /dev/zero & head -c 3000000 /dev/zero >&2; wait")
            assert (await command.result()).exit_status == 0
            assert (command.capture.stdout_bytes, command.capture.stderr_bytes) == (5_000_000, 3_000_000)

    asyncio.run(go())


def test_what_is_printed_can_be_read_while_the_command_runs(tmp_path: Path) -> None:
    async def go() -> None:
        async with processes() as each:
            command = Command(each, "echo hello; while [ ! -e go ]; do sleep 0.01; done", tmp_path)
            await command.says("hello")
            assert command.running.pid in each.running
            (tmp_path / "go").touch()
            assert (await command.result()).exit_status == 0

    asyncio.run(go())


def test_the_command_sees_its_environment_and_nothing_else() -> None:
    _, command = run("env", environment={"NAME": "value"})

    seen = dict(line.split("=", 1) for line in command.printed().splitlines())
    for made_by_the_shell in ("PWD", "OLDPWD", "_", "SHLVL"):
        seen.pop(made_by_the_shell, None)
    assert seen == {**base_environment(), "NAME": "value", "ACTIVITY_RUN_ID": "1", "ACTIVITY_LEDGER": command.ledger}


@pytest.mark.parametrize("title", ["$(touch x)", "`touch x`", '";touch x;"', "'; touch x;'", "x\ntouch x"])
def test_an_event_title_is_only_ever_text_to_the_command(title: str, tmp_path: Path) -> None:
    variables = data_variables("ACTIVITY_EVENT", {"title": title})

    _, command = run('echo "$ACTIVITY_EVENT_TITLE"', tmp_path, environment=variables)

    assert command.printed() == f"{title}\n"
    assert list(tmp_path.iterdir()) == []


def test_it_runs_in_its_folder_whatever_the_folder_is_called(tmp_path: Path) -> None:
    for name in ("plain", "-P", "with space", "$(touch x)", 'quo"te', "'", "new\nline", "*"):
        folder = tmp_path / name
        folder.mkdir()
        result, command = run('echo "$PWD$#"', folder)
        assert result.exit_status == 0
        assert command.printed() == f"{folder}0\n"


def test_a_folder_that_is_missing_is_exit_126_and_nothing_of_the_command_runs(tmp_path: Path) -> None:
    result, command = run("echo ran", tmp_path / "missing")

    assert result.exit_status == 126
    assert command.printed() == ""
    assert "missing" in command.printed(STDERR)


def test_stdin_is_dev_null() -> None:
    result, command = run("cat; readlink /proc/self/fd/0; read line || echo nothing to read")

    assert result.exit_status == 0
    assert command.printed() == "/dev/null\nnothing to read\n"


def test_no_descriptor_that_the_engine_opened_reaches_a_command(tmp_path: Path) -> None:
    given: set[int] = set()  # what whoever started this process left open is not the engine's
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are what is asked for
        with contextlib.suppress(OSError):
            given |= {int(name)} if os.get_inheritable(int(name)) else set()
    with (tmp_path / "open").open("w") as opened:
        own = opened.fileno()
        _, command = run("ls /proc/$$/fd")

    seen = {int(line) for line in command.printed().split()}
    assert own not in seen
    assert {0, 1, 2} <= seen <= {0, 1, 2} | given


def test_no_signal_is_ignored_or_blocked_that_a_shell_expects_to_kill() -> None:
    _, command = run("grep -E '^Sig(Blk|Ign)' /proc/self/status")

    masks = {line.split(":")[0]: int(line.split()[1], 16) for line in command.printed().splitlines()}
    assert masks["SigBlk"] == 0
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGCHLD):
        assert not masks["SigIgn"] >> (number - 1) & 1


def test_a_writer_whose_reader_has_gone_ends_by_sigpipe() -> None:
    result, command = run("(yes; echo $? >&2) | head -n 1")

    assert result.exit_status == 0
    assert command.printed() == "y\n"
    assert command.printed(STDERR) == "141\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [("fi", 1), ("true\nfi\n", 2), ("true\n\n# comment\nif true; then\n)\n", 5), ("echo $(\n\n)\n;;\n", 4)],
)
def test_a_syntax_error_names_the_line_of_the_authors_text(text: str, line: int) -> None:
    result, command = run(text)

    assert result.exit_status == 2
    assert f"sh: {line}: Syntax error" in command.printed(STDERR)


def test_an_error_at_run_time_names_the_line_of_the_authors_text() -> None:
    _, command = run("true\n\nno-such-command\n")

    assert command.printed(STDERR) == "sh: 3: no-such-command: not found\n"


@pytest.mark.parametrize(
    ("environment", "text"),
    [({f"V{number}": "x" * 100_000 for number in range(64)}, "true"), ({}, ": " + "x" * 200_000)],
)
def test_more_than_the_system_takes_is_an_error_that_names_e2big(environment: dict[str, str], text: str) -> None:
    with pytest.raises(CommandError, match=r"E2BIG.*shorten env or cmd"):
        run(text, environment=environment)


@pytest.mark.parametrize("environment", [{"V": "a\0b"}, {"A=B": "x"}, {"": "x"}, {"V": "\ud800"}])
def test_an_environment_that_no_process_can_take_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(CommandError, match="what no process can take"):
        run("true", environment=environment)


def test_a_command_that_cannot_start_leaves_no_descriptor_and_no_entry() -> None:
    async def go() -> None:
        async with processes() as each:
            before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are what is compared
            for _ in range(3):
                with pytest.raises(CommandError):
                    Command(each, "true", environment={"V": "\0"})
            assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
            assert not each.running

    asyncio.run(go())


def test_forty_commands_at_once_leave_no_descriptor_and_no_zombie() -> None:
    async def go() -> None:
        async with processes() as each:
            await Command(each, "true").result()
            before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
            commands = [Command(each, f"echo {number}; exit {number}") for number in range(40)]
            results = await asyncio.gather(*(command.result() for command in commands))
            assert [result.exit_status for result in results] == list(range(40))
            assert [command.printed() for command in commands] == [f"{number}\n" for number in range(40)]
            assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
            await each.settle()
            assert zombies_of_this_process() == 0

    asyncio.run(go())


def test_the_result_has_the_cpu_time_and_the_memory_of_the_shell() -> None:
    result, _ = run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")

    assert 0 < result.cpu_us < 5_000_000
    assert 100_000 < result.max_rss_bytes < 1 << 30


# -- ending it --


def test_a_timeout_asks_with_sigterm_and_what_obeys_is_not_killed() -> None:
    result, command = run("trap 'echo bye; exit 3' TERM; echo on; while :; do sleep 0.02; done", timeout_s=0.3)

    assert (result.exit_status, result.ending, result.killed) == (3, Ending.TIMEOUT, 0)
    assert command.printed().endswith("bye\n")


def test_what_ignores_sigterm_is_killed_after_the_grace() -> None:
    async def go() -> None:
        async with processes() as each:
            command = Command(each, "trap '' TERM; echo on; while :; do sleep 0.02; done", timeout_s=0.3, grace_s=0.4)
            loop = asyncio.get_running_loop()
            began = loop.time()
            result = await command.result()
            took = loop.time() - began
            assert (result.signal, result.ending) == (signal.SIGKILL, Ending.TIMEOUT)
            assert result.killed >= 1
            assert 0.7 <= took < 3
            assert command.survivors() == []

    asyncio.run(go())


def test_a_stopped_process_gets_the_request_too() -> None:
    result, _ = run("kill -STOP $$", timeout_s=0.2)

    assert (result.signal, result.ending, result.killed) == (signal.SIGTERM, Ending.TIMEOUT, 0)


def test_a_timeout_that_is_not_reached_leaves_no_mark() -> None:
    result, _ = run("true", timeout_s=5.0)

    assert (result.exit_status, result.ending) == (0, None)


def test_a_cancelled_command_and_its_children_end() -> None:
    async def go() -> None:
        async with processes() as each:
            command = Command(each, "sleep 300 & sleep 300 & echo on; wait")
            await command.says("on")
            command.running.end(Ending.CANCELLED)
            result = await command.result()
            assert (result.ending, result.killed) == (Ending.CANCELLED, 0)  # the shell may see its children end first
            assert command.survivors() == []

    asyncio.run(go())


def test_the_first_reason_to_end_a_command_stands() -> None:
    async def go() -> None:
        async with processes() as each:
            command = Command(each, "echo on; sleep 300")
            await command.says("on")
            command.running.end(Ending.STOPPED)
            command.running.end(Ending.CANCELLED)
            assert (await command.result()).ending is Ending.STOPPED
            command.running.end(Ending.TIMEOUT)
            assert (await command.result()).ending is Ending.STOPPED

    asyncio.run(go())


def test_asking_twice_does_not_wait_for_the_grace() -> None:
    async def go() -> None:
        async with processes() as each:
            command = Command(each, "trap '' TERM; echo on; while :; do sleep 0.02; done", grace_s=300)
            await command.says("on")
            command.running.end(Ending.STOPPED)
            command.running.end_at_once()
            result = await command.result()
            assert (result.signal, result.ending) == (signal.SIGKILL, Ending.STOPPED)

    asyncio.run(go())


def test_giving_up_the_wait_ends_nothing() -> None:
    async def go() -> None:
        async with processes() as each:
            command = Command(each, "echo on; sleep 0.2; exit 4")
            waiting = asyncio.ensure_future(command.running.wait())
            await command.says("on")
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert (await command.result()).exit_status == 4

    asyncio.run(go())


def test_two_commands_at_once_do_not_touch_each_others_processes(tmp_path: Path) -> None:
    async def go() -> None:
        async with processes() as each:
            text = "setsid sh -c 'echo on; exec sleep 300' & sleep 300 & while [ ! -e go ]; do sleep 0.01; done"
            kept, ended = Command(each, text, tmp_path), Command(each, text, tmp_path)
            await kept.says("on")
            await ended.says("on")
            before = set(kept.survivors())
            ended.running.end(Ending.CANCELLED)
            assert (await ended.result()).ending is Ending.CANCELLED
            each.sweep()
            await until(lambda: not ended.survivors(), "the cancelled command has survivors")
            # the shell itself and what does not come and go with its loop
            sleepers = {pid for pid in before if command_line(pid) == b"sleep\000300\0"}
            assert len(sleepers) == 2
            assert {kept.running.pid, *sleepers} <= set(kept.survivors())
            (tmp_path / "go").touch()
            result = await kept.result()
            assert (result.exit_status, result.ending, result.left_behind) == (0, None, True)
            await each.settle()
            assert kept.survivors() == []

    asyncio.run(go())


# -- what it leaves behind --


def test_a_background_child_that_holds_the_pipe_does_not_hold_up_the_result() -> None:
    result, command = run("echo before; sleep 300 & exit 5")

    assert (result.exit_status, result.ending, result.left_behind) == (5, None, True)
    assert command.printed() == "before\n"


def test_a_background_child_that_keeps_writing_does_not_hold_up_the_result() -> None:
    result, command = run("yes & yes >&2 & exit 0")

    assert (result.exit_status, result.left_behind) == (0, True)
    assert command.capture.stdout_bytes > 0


def test_a_background_child_that_ends_by_itself_at_once_is_not_left_behind() -> None:
    result, command = run("(echo late) & exit 0")

    assert (result.exit_status, result.left_behind, result.killed) == (0, False, 0)
    assert command.printed() == "late\n"


def test_a_background_child_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    result, _ = run("(trap '' TERM; echo on; while :; do sleep 0.02; done) & sleep 0.1; exit 0", grace_s=0.3)

    assert (result.exit_status, result.ending, result.left_behind) == (0, None, True)
    assert result.killed >= 1


def test_a_child_in_a_session_of_its_own_that_holds_the_pipe_is_gone_with_the_result() -> None:
    async def go() -> None:
        async with processes() as each:
            command = Command(each, "setsid sh -c 'echo on; exec sleep 300' & sleep 0.1")
            result = await command.result()
            assert (result.exit_status, result.left_behind) == (0, True)
            assert command.survivors() == []

    asyncio.run(go())


DAEMON = """\
import os, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
with open("pid.new", "w") as file:
    file.write(str(os.getpid()))
os.rename("pid.new", "pid")
nothing = os.open("/dev/null", os.O_RDWR)
for fd in (0, 1, 2):
    os.dup2(nothing, fd)
time.sleep(300)
"""
AWAIT_PID = "while [ ! -s pid ]; do sleep 0.01; done"


@pytest.mark.parametrize("is_timed_out", [False, True])
def test_a_daemon_that_forked_twice_into_its_own_session_and_closed_the_pipes_is_gone(
    is_timed_out: bool, tmp_path: Path
) -> None:
    (tmp_path / "daemon.py").write_text(DAEMON)
    last = "sleep 300" if is_timed_out else "exit 0"

    async def go() -> None:
        async with processes() as each:
            command = Command(
                each, f"/usr/bin/env python3 daemon.py; {AWAIT_PID}; cat pid; echo; {last}", tmp_path,
                environment={"PATH": os.environ["PATH"]}, timeout_s=2.0 if is_timed_out else None, grace_s=1.0,
            )  # fmt: skip
            result = await command.result()
            pid = int(command.printed())
            if is_timed_out:
                assert result.ending is Ending.TIMEOUT
                assert not is_living(pid)  # its mark gives it away, whoever its parent is
            else:
                assert result.exit_status == 0
            await each.settle()
            assert not is_living(pid)
            assert command.survivors() == []
            assert state_of(pid) == "X"  # reaped too

    asyncio.run(go())


def test_a_background_child_in_its_own_session_that_closed_its_pipes_is_gone_after_settling(tmp_path: Path) -> None:
    detached = "setsid sh -c 'exec >/dev/null 2>&1; echo $$ >pid; exec sleep 300' &"
    result, _ = run(f"{detached} {AWAIT_PID}", tmp_path)

    assert (result.exit_status, result.ending, result.left_behind) == (0, None, False)
    assert state_of(int((tmp_path / "pid").read_text())) == "X"


def test_a_detached_child_that_ignores_sigterm_is_gone_after_settling(tmp_path: Path) -> None:
    text = "trap '' TERM; exec >/dev/null 2>&1; echo $$ >pid; while :; do sleep 0.02; done"
    result, _ = run(f'setsid sh -c "{text.replace("$", chr(92) + "$")}" & {AWAIT_PID}', tmp_path, grace_s=0.3)

    assert result.exit_status == 0
    assert state_of(int((tmp_path / "pid").read_text())) == "X"


@pytest.mark.parametrize("output", ["/dev/null", "/dev/stdout"])
def test_a_daemon_that_cleared_its_environment_is_gone_after_settling(output: str, tmp_path: Path) -> None:
    daemon = f"env -i /usr/bin/setsid /bin/sh -c 'echo $$ >pid; exec /bin/sleep 300' >{output} 2>&1 &"
    result, _ = run(f"{daemon} {AWAIT_PID}", tmp_path)

    assert (result.exit_status, result.ending) == (0, None)
    assert state_of(int((tmp_path / "pid").read_text())) == "X"


def test_a_daemon_that_cleared_its_environment_is_gone_after_a_timeout(tmp_path: Path) -> None:
    daemon = "env -i /usr/bin/setsid /bin/sh -c 'trap \"\" TERM; echo $$ >pid; while :; do /bin/sleep 0.02; done' &"
    result, _ = run(f"({daemon}); {AWAIT_PID}; sleep 300", tmp_path, timeout_s=0.5, grace_s=0.3)

    assert result.ending is Ending.TIMEOUT
    assert state_of(int((tmp_path / "pid").read_text())) == "X"


# Each hop lives for a moment and starts the next, so a list of process numbers grows old. The file is the rope:
# without it the hops end, should the test itself fail.
HOP = "hop() { [ -e rope ] || exit; sleep 0.3; hop & }; i=0; while [ $i -lt 40 ]; do hop & i=$((i+1)); done"
HOP_AWAY = "#!/bin/sh\n[ -e rope ] || exit\nsleep 0.3\nsetsid ./hop-away &\n"


@pytest.mark.parametrize("way", ["timeout", "left behind"])
def test_of_a_fork_bomb_nothing_survives(way: str, tmp_path: Path) -> None:
    (tmp_path / "rope").touch()
    try:
        last = "sleep 300" if way == "timeout" else "exit 0"
        result, _ = run(f"trap '' TERM; {HOP}; {last}", tmp_path, timeout_s=0.5, grace_s=0.2)
    finally:
        (tmp_path / "rope").unlink()

    assert result.killed > 10
    assert (result.ending is Ending.TIMEOUT) == (way == "timeout")
    assert result.left_behind == (way == "left behind")
    assert zombies_of_this_process() == 0


def test_of_a_fork_bomb_whose_every_process_leaves_its_session_nothing_survives(tmp_path: Path) -> None:
    script = tmp_path / "hop-away"
    script.write_text(HOP_AWAY)
    script.chmod(0o755)
    (tmp_path / "rope").touch()
    try:
        text = "i=0; while [ $i -lt 15 ]; do ./hop-away & i=$((i+1)); done; sleep 300"
        result, _ = run(text, tmp_path, timeout_s=0.4, grace_s=0.2)
    finally:
        (tmp_path / "rope").unlink()

    assert result.ending is Ending.TIMEOUT
    assert zombies_of_this_process() == 0
