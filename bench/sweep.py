"""The state hub's sweep over 200 repos behind smart HTTP with 20 ms delay, against `git fetch` with as many at once."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from activity_plumbing.clock import SystemClock
from figures import Figure, Of, Target
from state_hub.git.clone import Clone
from state_hub.reconcile import FileEntry, Sides, reconcile
from state_hub.registration import Request, register
from state_hub.settings import Settings
from state_hub.store import plans, repos
from state_hub.store.store import Store
from state_hub.workplan import read_workplan

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "consistency_check.py"
REPOS = 200
QUICK_REPOS = 40
TASKS = 50
JOBS = 8
DELAY_S = 0.02
CHANGED = 0.05
IDENTITY = {
    "GIT_AUTHOR_NAME": "Bench",
    "GIT_AUTHOR_EMAIL": "bench@example.org",
    "GIT_COMMITTER_NAME": "Bench",
    "GIT_COMMITTER_EMAIL": "bench@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


def measure(rounds: int, *, quick: bool = False) -> list[Figure]:
    """Seconds and CPU of sweeps with nothing new and with 5 % changed; the merge of 10,000 tasks by itself."""
    count = QUICK_REPOS if quick else REPOS
    at_most = Target(of=Of.RATIO, at_most=1.15)
    nothing = Figure(name=f"{count} repos, nothing new", unit="s", floor_name="parallel git fetch", target=at_most)
    nothing_cpu = Figure(name="  its CPU", unit="s", floor_name="parallel git fetch")
    per_repo = Figure(name="  CPU per repo", unit="ms", floor_name="git fetch")
    changed = Figure(name=f"{count} repos, {CHANGED:.0%} changed", unit="s", floor_name="parallel git fetch")
    unread = Figure(
        name=f"merge of {count * TASKS:,} unchanged tasks", unit="s", target=Target(of=Of.VALUE, at_most=1.0)
    )
    parsed = Figure(name="  with every file parsed again", unit="s")
    with tempfile.TemporaryDirectory(prefix="bench-sweep-") as scratch:
        fleet = _Fleet(Path(scratch), count)
        with fleet.served():
            fleet.make()
            fleet.sweep()
            for _ in range(rounds):
                floor_s, floor_cpu_s = fleet.fetch()
                took_s, cpu_s = fleet.sweep()
                nothing.add(took_s, floor_s)
                nothing_cpu.add(cpu_s, floor_cpu_s)
                per_repo.add(cpu_s / count * 1000, floor_cpu_s / count * 1000)
                fleet.change()
                floor_s, _ = fleet.fetch()
                fleet.change()
                took_s, _ = fleet.sweep()
                changed.add(took_s, floor_s)
                unread.add(fleet.merge(parses=False))
                parsed.add(fleet.merge(parses=True))
    return [nothing, nothing_cpu, per_repo, changed, unread, parsed]


class _Fleet:
    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.names = [f"repo-{number:03}" for number in range(count)]
        self.port = 0
        self.random = random.Random(40)
        self.settings = Settings(state_dir=folder / "hub", sweep_lock=folder / "lock", jobs=JOBS, jobs_per_host=JOBS)

    @contextmanager
    def served(self) -> Iterator[None]:
        server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("git_http.py"), self.folder / "remotes", str(DELAY_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert server.stdin is not None and server.stdout is not None
        try:
            self.port = int(server.stdout.readline())
            yield
        finally:
            server.stdin.close()
            server.wait(10)

    def git(self, folder: Path, *arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=folder, env={**os.environ, **IDENTITY}, check=True)

    def make(self) -> None:
        (self.folder / "remotes").mkdir(exist_ok=True)
        (self.folder / "clones").mkdir()
        store = Store.open(self.settings.database)
        for number, name in enumerate(self.names):
            remote, clone = self.folder / "remotes" / f"{name}.git", self.folder / "clones" / name
            self.git(self.folder, "init", "--quiet", "--initial-branch=main", str(clone))
            (clone / "workplans").mkdir()
            (clone / "workplans" / "plan.md").write_text(_plan(number), encoding="utf-8")
            self.git(clone, "add", "--all")
            self.git(clone, "commit", "--quiet", "--message", "Write the plan")
            self.git(self.folder, "clone", "--quiet", "--bare", str(clone), str(remote))
            self.git(clone, "remote", "add", "origin", f"http://127.0.0.1:{self.port}/{name}.git")
            self.git(clone, "update-ref", "refs/remotes/origin/main", "HEAD")
            request = Request(path=clone, slug=name)
            register(request, self.settings, store, SystemClock().now(), below_roots_only=False)
        store.close()

    def change(self) -> None:
        """One more commit on the remotes of one repo in twenty, by way of a scratch clone."""
        for name in self.random.sample(self.names, max(1, round(len(self.names) * CHANGED))):
            with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                self.git(self.folder, "clone", "--quiet", str(self.folder / "remotes" / f"{name}.git"), scratch)
                plan = Path(scratch) / "workplans" / "plan.md"
                text = plan.read_text(encoding="utf-8")
                old, new = (
                    ("status: todo", "status: wait") if self.random.random() < 0.5 else ("status: wait", "status: todo")
                )
                plan.write_text(text.replace(old, new, 1) + "\nOne more line.\n", encoding="utf-8")
                self.git(Path(scratch), "commit", "--quiet", "--all", "--message", "Change the plan")
                self.git(Path(scratch), "push", "--quiet", "origin", "main")

    def fetch(self) -> tuple[float, float]:
        """Wall and CPU seconds of fetching every clone, as many at once as the sweep visits."""
        names = "\0".join(str(self.folder / "clones" / name) for name in self.names)
        return _timed(["xargs", "-0", "-P", str(JOBS), "-I{}", "git", "-C", "{}", "fetch", "--quiet", "origin"], names)

    def sweep(self) -> tuple[float, float]:
        """Wall and CPU seconds of one sweep, the start of its process included."""
        return _timed([sys.executable, str(SCRIPT), "--remote", "--all"], "", self._environment())

    def _environment(self) -> dict[str, str]:
        return {
            "STATE_HUB_STATE_DIR": str(self.settings.state_dir),
            "STATE_HUB_SWEEP_LOCK": str(self.settings.sweep_lock),
            "STATE_HUB_JOBS": str(JOBS),
            "STATE_HUB_JOBS_PER_HOST": str(JOBS),
        }

    def merge(self, *, parses: bool) -> float:
        """Seconds to read the rows of all repos and merge them with their files."""
        store = Store.open(self.settings.database)
        began = time.perf_counter()
        with store.reading() as connection:
            for repo in repos.list_repos(connection):
                rows = plans.read_rows(connection, repo.id)
                with Clone(Path(repo.path)) as clone:
                    assert repo.base_commit is not None
                    entries = clone.entries(repo.base_commit, repo.workplans)
                    files = {
                        path: FileEntry(
                            blob=entry.blob,
                            reading=read_workplan(clone.blob(entry.blob, most=1 << 20), path) if parses else None,
                        )
                        for path, entry in entries.items()
                    }
                plan = reconcile(Sides(files=files, rows=rows))
                assert not plan.changes and not plan.found, plan
        took = time.perf_counter() - began
        store.close()
        return took


def _plan(number: int) -> str:
    head = f"---\nid: REPO-WP-{number:04}\ntype: workplan\ntitle: Plan {number}\nstatus: active\n---\n\n# Plan\n"
    return head + "".join(
        f"\n## Task {task}\n\n```task\nid: T{task:02}\nstatus: {('todo', 'wait', 'done')[task % 3]}\n```\n"
        for task in range(1, TASKS + 1)
    )


def _timed(command: list[str], given: str, environment: dict[str, str] | None = None) -> tuple[float, float]:
    """Wall and CPU seconds of a command and all it started. Raises when it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        command,
        input=given.encode(),
        env={**os.environ, **IDENTITY, **(environment or {})},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}"
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    from figures import print_figures

    print_figures("The state hub's sweep", measure(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
