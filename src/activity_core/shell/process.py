"""Running one command: spawn, read both pipes, notice the end, and leave nothing behind.

The spawn is ``posix_spawn`` (vfork underneath: its cost does not grow with the engine's memory), the end is
a pidfd that becomes readable; both sit in the event loop, so a waiting command costs nothing. asyncio's own
subprocesses do the same for three times the CPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from activity_core.errors import CommandError
from activity_core.shell import tree
from activity_core.shell.capture import STDERR, STDOUT, Capture
from activity_plumbing.proc import read_stat

if TYPE_CHECKING:
    from collections.abc import Mapping

SHELL = "/bin/sh"
# One line, so that line numbers in the shell's messages stay those of the author's text. The folder is an
# argument and never part of the text.
PRELUDE = 'cd -- "$1" || exit 126; shift; '
READ_BYTES = 1 << 16
LISTEN_AFTER_S = 0.01
LINGER_S = 0.05
SWEEP_SOON_S = 0.1
SWEEP_APART_S = 0.5
SWEEP_WHILE_RUNNING_S = 5.0
STRAY_GRACE_S = 2.0
RUN_MARK = b"ACTIVITY_RUN_ID="
LEDGER_MARK = b"ACTIVITY_LEDGER="
_READS_AT_ONCE = 16
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores these; a shell expects them to kill


class Ending(StrEnum):
    """Why the engine ended a command itself."""

    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """What to run. `marks` are ``NAME=value`` strings of `environment` that identify the run's processes."""

    text: str
    folder: str
    environment: Mapping[str, str]
    marks: frozenset[bytes]
    timeout_us: int | None
    kill_grace_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How a command ended. Exactly one of `exit_status` and `signal` is set.

    `ending` is set when the engine ended it; `killed` counts processes that ignored the request to stop;
    `left_behind` is true when the command ended by itself and processes of it were still running.
    """

    exit_status: int | None
    signal: int | None
    ending: Ending | None
    killed: int
    left_behind: bool
    cpu_us: int
    max_rss_bytes: int


class Processes:
    """The commands in progress of this process, and the sweep for what they leave behind."""

    def __init__(self) -> None:
        tree.become_subreaper()
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
            with contextlib.suppress(OSError):  # the listing's own descriptor is gone by now
                if int(name) > 2:  # what the engine was started with is no business of its commands
                    os.set_inheritable(int(name), False)
        self.running: dict[int, RunningCommand] = {}
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._sweep: asyncio.TimerHandle | None = None
        self._swept_at = 0.0
        self._ending: set[int] = set()
        self._tasks: set[asyncio.Task[int]] = set()

    def start(self, spec: CommandSpec, capture: Capture) -> RunningCommand:
        """Starts a command. Raises CommandError when the system refuses."""
        command = RunningCommand(self, spec, capture)
        self._sweep_in(SWEEP_WHILE_RUNNING_S)
        return command

    def close(self) -> None:
        """Gives back the descriptors; commands must have ended."""
        if self._sweep is not None:
            self._sweep.cancel()
        os.close(self.null)

    def ended(self, command: RunningCommand) -> None:
        """A command is over: soon look for strays that left its session."""
        self.running.pop(command.pid, None)
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        since = asyncio.get_running_loop().time() - self._swept_at
        self._sweep_in(SWEEP_SOON_S if since > SWEEP_APART_S else SWEEP_APART_S)

    def sweep(self) -> None:
        """Reaps dead orphans, and ends living ones whose command is over.

        Orphans become children of this process. One that carries the marks of a command in progress is left
        alone; one without marks, which cleared its environment, goes when no command is left that it could
        belong to.
        """
        self._sweep = None
        self._swept_at = asyncio.get_running_loop().time()
        mine, session = os.getpid(), os.getsid(0)
        for pid in tree.all_pids():
            if pid in self.running:
                continue
            stat = read_stat(pid)
            if stat is None or stat.parent != mine:
                continue
            if not stat.is_alive:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            elif stat.session != session and pid not in self._ending:
                environment = tree.environment_of(pid)
                is_marked = any(entry.startswith(RUN_MARK) for entry in environment)
                if is_marked and not any(each.spec.marks <= environment for each in self.running.values()):
                    marks = frozenset(entry for entry in environment if entry.startswith((RUN_MARK, LEDGER_MARK)))
                    self._end_later(pid, marks)
                elif not is_marked and not self.running:
                    self._end_later(pid, frozenset())
        if self.running:
            self._sweep_in(SWEEP_WHILE_RUNNING_S)

    def _sweep_in(self, delay_s: float) -> None:
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(delay_s, self.sweep)

    def _end_later(self, root: int, marks: frozenset[bytes]) -> None:
        self._ending.add(root)
        task: asyncio.Task[int] = asyncio.ensure_future(tree.end_tree(root, marks, STRAY_GRACE_S))
        self._tasks.add(task)

        def done(task: asyncio.Task[int]) -> None:
            self._tasks.discard(task)
            self._ending.discard(root)
            self._sweep_in(0.0)  # to reap what was killed

        task.add_done_callback(done)

    async def settle(self) -> None:
        """Looks for strays until a look finds none, and waits for their end."""
        while True:
            if self._sweep is not None:
                self._sweep.cancel()
            self.sweep()
            if not self._tasks:
                return
            await asyncio.gather(*self._tasks, return_exceptions=True)


class RunningCommand:
    """One command from spawn to the end of its tree."""

    __slots__ = (
        "_capture",
        "_done",
        "_ending",
        "_expiry",
        "_killed",
        "_killer",
        "_left_behind",
        "_linger",
        "_listening",
        "_loop",
        "_pidfd",
        "_pipes",
        "_processes",
        "_status",
        "_usage",
        "pid",
        "spec",
    )

    def __init__(self, processes: Processes, spec: CommandSpec, capture: Capture) -> None:
        self._processes = processes
        self.spec = spec
        self._capture = capture
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[CommandResult] = self._loop.create_future()
        self._ending: Ending | None = None
        self._killer: asyncio.Task[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._killed = 0
        self._left_behind = False
        self._status: int | None = None
        self._usage = (0, 0)
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        self._pipes = {out_read: STDOUT, err_read: STDERR}
        try:
            self.pid = self._spawn(out_write, err_write)
        except (OSError, ValueError) as failure:
            os.close(out_read)
            os.close(err_read)
            raise CommandError(_spawn_problem(failure)) from failure
        finally:
            os.close(out_write)
            os.close(err_write)
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as failure:  # without it the end could not be noticed: take the start back
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(out_read)
            os.close(err_read)
            raise CommandError(f"the command cannot be watched: {failure.strerror}") from failure
        processes.running[self.pid] = self
        os.set_blocking(out_read, False)
        os.set_blocking(err_read, False)
        # most commands end before this and are read once, when they have
        self._listening: asyncio.TimerHandle | None = self._loop.call_later(LISTEN_AFTER_S, self._listen)
        self._loop.add_reader(self._pidfd, self._exited)
        if spec.timeout_us is not None:
            self._expiry = self._loop.call_later(spec.timeout_us / 1e6, self.end, Ending.TIMEOUT)

    def _spawn(self, out_write: int, err_write: int) -> int:
        return os.posix_spawn(
            SHELL,
            ("sh", "-c", PRELUDE + self.spec.text, "sh", self.spec.folder),
            self.spec.environment,
            file_actions=(
                (os.POSIX_SPAWN_DUP2, self._processes.null, 0),
                (os.POSIX_SPAWN_DUP2, out_write, 1),
                (os.POSIX_SPAWN_DUP2, err_write, 2),
            ),
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )

    async def wait(self) -> CommandResult:
        """The result, once the command, its tree and its pipes are done. Cancelling the wait ends nothing."""
        return await asyncio.shield(self._done)

    def end(self, why: Ending) -> None:
        """Ends the command and its tree: SIGTERM, then after the grace SIGKILL. The first reason stands."""
        if self._ending is None and not self._done.done():
            if self._status is None:
                self._ending = why
            self._start_killing()

    def end_at_once(self) -> None:
        """Kills the tree without waiting for the grace, because whoever asked has asked twice."""
        if not self._done.done():
            if self._killer is not None:
                self._killer.cancel()
            self._killer = asyncio.ensure_future(self._kill(0.0))

    def _start_killing(self) -> None:
        if self._killer is None:
            self._killer = asyncio.ensure_future(self._kill(self.spec.kill_grace_us / 1e6))

    async def _kill(self, grace_s: float) -> None:
        self._killed += await tree.end_tree(self.pid, self.spec.marks, grace_s)
        if self._status is not None:
            self._drain()
            self._finish()

    def _listen(self) -> None:
        """From now on both pipes are read as they fill."""
        self._listening = None
        for pipe in tuple(self._pipes):
            self._loop.add_reader(pipe, self._read, pipe)

    def _read(self, pipe: int) -> None:
        for _ in range(_READS_AT_ONCE):
            try:
                data = os.read(pipe, READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._close_pipe(pipe)
                self._finish_if_over()
                return
            self._capture.add(self._pipes[pipe], data)
            if len(data) < READ_BYTES:
                return

    def _close_pipe(self, pipe: int) -> None:
        if self._listening is None:
            self._loop.remove_reader(pipe)
        os.close(pipe)
        del self._pipes[pipe]

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        _, self._status, usage = os.wait4(self.pid, 0)
        self._usage = (round((usage.ru_utime + usage.ru_stime) * 1e6), usage.ru_maxrss * 1024)
        self._drain()
        self._finish_if_over()
        if self._listening is not None and self._pipes:
            self._listening.cancel()
            self._listen()

    def _drain(self) -> None:
        """Reads what is in the pipes now, without waiting for more, and never more than a pipe can hold."""
        for pipe in tuple(self._pipes):
            for _ in range(_READS_AT_ONCE):
                if pipe not in self._pipes:
                    break
                try:
                    data = os.read(pipe, READ_BYTES)
                except BlockingIOError:
                    break
                if not data:
                    self._close_pipe(pipe)
                else:
                    self._capture.add(self._pipes[pipe], data)

    def _finish_if_over(self) -> None:
        """The command has exited: done, unless processes of it live on or hold its pipes."""
        if self._status is None:
            return
        if self._killer is not None:
            if self._killer.done():
                self._finish()
            return
        tree.reap_group(self.pid)
        if not self._pipes and not tree.group_is_alive(self.pid):
            self._finish()
        elif self._linger is None:
            # what is just exiting beside the shell gets a moment; then the rest is ended, as systemd does
            self._linger = self._loop.call_later(LINGER_S, self._end_leftovers)

    def _end_leftovers(self) -> None:
        if self._done.done() or self._killer is not None:
            return
        tree.reap_group(self.pid)
        if not self._pipes and not tree.group_is_alive(self.pid):
            self._finish()
            return
        self._left_behind = True
        self._start_killing()

    def _finish(self) -> None:
        if self._done.done():
            return
        for pipe in tuple(self._pipes):
            self._close_pipe(pipe)
        for timer in (self._expiry, self._linger, self._listening):
            if timer is not None:
                timer.cancel()
        self._capture.finish()
        self._processes.ended(self)
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        self._done.set_result(
            CommandResult(
                exit_status=code if code >= 0 else None,
                signal=-code if code < 0 else None,
                ending=self._ending,
                killed=self._killed,
                left_behind=self._left_behind,
                cpu_us=self._usage[0],
                max_rss_bytes=self._usage[1],
            )
        )


def _spawn_problem(failure: OSError | ValueError) -> str:
    if isinstance(failure, ValueError):
        return f"the environment or command holds what no process can take: {failure}"
    if failure.errno == 7:  # E2BIG
        return "command and environment together are larger than the system allows (E2BIG); shorten env or cmd"
    return f"{SHELL} could not be started: {failure.strerror}"
