"""A fleet to sweep: bare remotes, people who push to them, registered clones, and a hub in this process.

Remotes are reached by path, or over git's smart HTTP on loopback, where a test may make any request fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from activity_plumbing.clock import SECOND_US, Instant
from state_hub.case import Options, Tools
from state_hub.git.remote import Remotes
from state_hub.registry import TaskStatus, WorkstreamStatus
from state_hub.settings import Settings
from state_hub.store import findings, plans, repos, workstreams
from state_hub.store.schema import metadata
from state_hub.sweep import Report, chosen_repos, sweep
from state_hub.workplan import read_workplan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from state_hub.case import Visit
    from state_hub.registry import Repo
    from state_hub.store.findings import Finding
    from state_hub.store.store import Store
    from state_hub.store.workstreams import Task, Workstream

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SWEEP = [sys.executable, str(PROJECT / "scripts" / "consistency_check.py")]
CLEANUP = [sys.executable, str(PROJECT / "scripts" / "cleanup_stale_tasks.py")]
HUB = [str(BIN / "state-hub")]
ISOLATED = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
BOT_NAME, BOT_EMAIL = "Fleet Bot", "bot@fleet.example"


def environment(**more: str) -> dict[str, str]:
    """The environment for git and for the hub's commands: nothing of this account's git gets in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "STATE_HUB_"))}
    person = {"NAME": "A Person", "EMAIL": "person@fleet.example"}
    identity = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in person.items()}
    return {**kept, **ISOLATED, **identity, "GIT_TERMINAL_PROMPT": "0", **more}


def git(folder: Path, *arguments: str, given: bytes | None = None, variables: Mapping[str, str] | None = None) -> str:
    """What git prints, in this folder. `variables` are added to its environment."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env=environment(**(variables or {})),
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr.decode()}"
    return done.stdout.decode()


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Polls until the condition holds. Fails naming `what` when it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def plan(name: str, tasks: Mapping[str, str] | None = None, *, status: str = "active", more: str = "") -> str:
    """The text of a workplan with these tasks and their statuses."""
    blocks = [
        f"\n## Step {task}\n\n```task\nid: {task}\nstatus: {state} # as of now\nowner: someone\n```\n"
        for task, state in ({"T01": "todo", "T02": "progress"} if tasks is None else tasks).items()
    ]
    return (
        f"---\nid: {name}\ntype: workplan\ntitle: Plan {name}\nstatus: {status}\n{more}---\n\n# Plan\n{''.join(blocks)}"
    )


class StepClock:
    """A wall clock that moves a second with every look, so that nothing is equal by chance."""

    def __init__(self) -> None:
        self._now = time.time_ns() // 1000
        self._lock = threading.Lock()

    def now(self) -> Instant:
        with self._lock:
            self._now += SECOND_US
            return Instant(self._now)

    def advance(self, microseconds: int) -> None:
        with self._lock:
            self._now += microseconds

    def boottime_us(self) -> int:
        return time.monotonic_ns() // 1000

    def monotonic_us(self) -> int:
        return time.monotonic_ns() // 1000


# -- what is on disk --


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Every file and folder below, with mode, time and content: refs, reflogs, HEAD, index and objects too."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted([folder, *folder.rglob("*")]):
        info = path.lstat()
        content = ""
        if stat.S_ISREG(info.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(info.st_mode):
            content = str(path.readlink())
        found[str(path.relative_to(folder))] = (info.st_mode, info.st_mtime_ns, content)
    return found


_FETCHED = (".git/objects", ".git/refs/remotes", ".git/logs/refs/remotes")


def standing(clone: Path) -> dict[str, tuple[object, ...]]:
    """What of a clone belongs to its owner: all but what a fetch brings."""
    return {
        name: entry
        for name, entry in snapshot(clone).items()
        if not name.startswith(_FETCHED) and not stat.S_ISDIR(int(str(entry[0])))
    }


# -- remotes over HTTP --

Fault = int | str | None
"""A status to answer with, ``stall``, ``drop``, or None to let the request through."""


class HttpRemotes:
    """``git http-backend`` on loopback. `hook` sees each request as ``"POST /a.git/git-upload-pack"``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hook: Callable[[str], Fault] = lambda _request: None
        self.requests: list[str] = []
        self.most_at_once = 0
        self.closing = threading.Event()
        self._at_once = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.remotes = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextlib.contextmanager
    def entered(self, request: str) -> Iterator[None]:
        with self._lock:
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1


class _Server(ThreadingHTTPServer):
    remotes: HttpRemotes
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is the tests' doing."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        remotes = self.server.remotes
        body = self._body()
        request = f"{self.command} {self.path}"
        with remotes.entered(request):
            fault = remotes.hook(request)
            if fault == "stall":
                remotes.closing.wait(60)
                fault = "drop"
            if fault == "drop":
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            if isinstance(fault, int):
                self._send(fault, [("WWW-Authenticate", 'Basic realm="x"')] if fault == 401 else [], b"no\n")
                return
            self._send(*self._cgi(body))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _cgi(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        parts = urlsplit(self.path)
        done = subprocess.run(
            ["git", "http-backend"],
            env=environment(
                GIT_PROJECT_ROOT=str(self.server.remotes.folder),
                GIT_HTTP_EXPORT_ALL="1",
                PATH_INFO=parts.path,
                QUERY_STRING=parts.query,
                REQUEST_METHOD=self.command,
                CONTENT_TYPE=self.headers.get("Content-Type") or "",
                CONTENT_LENGTH=str(len(body)),
                HTTP_CONTENT_ENCODING=self.headers.get("Content-Encoding") or "",
                HTTP_GIT_PROTOCOL=self.headers.get("Git-Protocol") or "",
                REMOTE_USER="fleet",
                REMOTE_ADDR="127.0.0.1",
            ),
            input=body,
            capture_output=True,
            timeout=60,
            check=False,
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in head.decode().split("\r\n"))]
        status = next((int(value[:3]) for name, value in headers if name == "Status"), 200)
        return status, [each for each in headers if each[0] not in ("Status", "")], content

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


# -- repos --


@dataclass(kw_only=True)
class Project:
    """One repo of the fleet: its bare remote, a person's clone that pushes, and the clone the hub knows."""

    slug: str
    remote: Path
    url: str
    work: Path
    clone: Path

    def publish(self, files: Mapping[str, str | bytes | None], message: str = "Edit") -> str:
        """A person's commit, pushed from elsewhere; None removes a file. The commit."""
        git(self.work, "fetch", "-q", "origin")
        if git(self.work, "branch", "-rl", "origin/main"):
            git(self.work, "reset", "-q", "--hard", "origin/main")
        made = commit(self.work, files, message)
        git(self.work, "push", "-q", "origin", "HEAD:main")
        return made

    @property
    def tip(self) -> str:
        return git(self.remote, "rev-parse", "main").strip()

    def read(self, path: str) -> bytes:
        """A file as the remote has it."""
        return git(self.remote, "show", f"main:{path}").encode()

    def log(self, what: str = "%an %s", *arguments: str) -> list[str]:
        """The remote's history, newest first."""
        return git(self.remote, "log", f"--format={what}", *arguments, "main").splitlines()

    def bot_commits(self) -> list[str]:
        return git(self.remote, "log", "--format=%H", f"--author={BOT_EMAIL}", "main").split()

    def hook(self, name: str, script: str) -> None:
        """A hook of the remote."""
        path = self.remote / "hooks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


def commit(folder: Path, files: Mapping[str, str | bytes | None], message: str = "Edit") -> str:
    """A commit in a clone, not pushed; its name."""
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", message)
    return git(folder, "rev-parse", "HEAD").strip()


@dataclass(kw_only=True)
class Fleet:
    """Projects, and a hub that sweeps them in this process."""

    folder: Path
    store: Store
    settings: Settings
    is_http: bool = False
    clock: StepClock = field(default_factory=StepClock)
    projects: dict[str, Project] = field(default_factory=dict)
    _http: HttpRemotes | None = None

    @classmethod
    def make(cls, folder: Path, store: Store, *, is_http: bool = False) -> Fleet:
        settings = Settings(
            state_dir=folder / "state",
            database_url=store.engine.url.set(drivername=store.engine.dialect.name).render_as_string(
                hide_password=False
            ),
            sweep_lock=folder / "sweep.lock",
            bot_name=BOT_NAME,
            bot_email=BOT_EMAIL,
            jobs=4,
        )
        (folder / "remotes").mkdir(parents=True, exist_ok=True)
        return cls(folder=folder, store=store, settings=settings, is_http=is_http)

    def close(self) -> None:
        if self._http is not None:
            self._http.close()

    @property
    def http(self) -> HttpRemotes:
        if self._http is None:
            self._http = HttpRemotes(self.folder / "remotes")
        return self._http

    # -- building --

    def add(
        self,
        slug: str,
        files: Mapping[str, str | bytes] | None = None,
        *,
        is_http: bool | None = None,
        is_managed: bool = False,
    ) -> Project:
        """A registered repo with these files; by default one workplan named after it."""
        over_http = self.is_http if is_http is None else is_http
        remote = self.folder / "remotes" / f"{slug}.git"
        git(self.folder, "init", "-q", "--bare", "-b", "main", "--template=", str(remote))
        git(remote, "config", "http.receivepack", "true")
        work, clone = self.folder / "work" / slug, self.folder / "clones" / slug
        git(self.folder, "clone", "-q", "--template=", str(remote), str(work))
        url = f"{self.http.url}/{slug}.git" if over_http else str(remote)
        project = Project(slug=slug, remote=remote, url=url, work=work, clone=clone)
        project.publish({f"workplans/{slug}.md": plan(name_of(slug))} if files is None else files, "Start")
        git(self.folder, "clone", "-q", "--template=", str(remote), str(clone))
        git(clone, "remote", "set-url", "origin", url)
        with self.store.writing() as connection:
            repos.add_repo(
                connection,
                slug=slug,
                remote_url=url,
                branch="main",
                path=str(clone),
                workplans="workplans/**/*.md",
                is_managed=is_managed,
                at=self.clock.now(),
            )
        self.projects[slug] = project
        return project

    # -- the hub --

    def sweep(
        self,
        slug: str | None = None,
        *,
        is_remote: bool = True,
        fix: bool = True,
        is_dry_run: bool = False,
        budget_s: float | None = None,
        jobs: int | None = None,
        role: str = "sweep",
        lock_wait_s: float = 0.0,
        on_visit: Callable[[Visit], None] = lambda _visit: None,
        **settings: Any,
    ) -> Report:
        """A sweep over everything, or one repo."""
        remotes = Remotes()
        try:
            tools = Tools(
                settings=replace(self.settings, **settings), store=self.store, clock=self.clock, remotes=remotes
            )
            options = Options(is_remote=is_remote, fix=fix, is_dry_run=is_dry_run, role=role, lock_wait_s=lock_wait_s)
            return sweep(
                chosen_repos(tools, slug), tools, options, kind="test", budget_s=budget_s, jobs=jobs, on_visit=on_visit
            )
        finally:
            remotes.close()

    def repo(self, slug: str) -> Repo:
        with self.store.reading() as connection:
            return repos.find_repo(connection, slug)

    def workstream(self, name: str) -> Workstream:
        with self.store.reading() as connection:
            return workstreams.find_workstream(connection, name)

    def task(self, name: str, task: str) -> Task:
        with self.store.reading() as connection:
            return workstreams.find_task(connection, name, task)

    def set(self, name: str, status: str, *, by: str = "api") -> None:
        """Sets a status in the database; `name` is ``WORKPLAN`` or ``WORKPLAN/TASK``."""
        workplan, _, task = name.partition("/")
        with self.store.writing() as connection:
            at = self.clock.now()
            if task:
                workstreams.set_task_status(connection, workplan, task, TaskStatus(status), by=by, at=at)
            else:
                workstreams.set_workstream_status(connection, workplan, WorkstreamStatus(status), by=by, at=at)

    def findings(self, slug: str | None = None, check: str | None = None, *, is_open: bool = True) -> list[Finding]:
        with self.store.reading() as connection:
            return findings.list_findings(connection, repo=slug, check=check, is_open=is_open, limit=1000)

    def checks(self, slug: str | None = None) -> list[str]:
        """The checks with open findings."""
        return sorted(each.check for each in self.findings(slug))

    def pending(self) -> int:
        with self.store.reading() as connection:
            return sum(plans.pending_repos(connection).values())

    def dump(self) -> dict[str, list[tuple[object, ...]]]:
        """Every row of every table but the sweeps' own records."""
        with self.store.reading() as connection:
            return {
                name: [tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns))]
                for name, table in metadata.tables.items()
                if name not in ("sweeps", "visits")
            }

    def everything(self) -> dict[str, object]:
        """All that a sweep could change: rows, clones, remotes."""
        found: dict[str, object] = dict(self.dump())
        for folder in ("clones", "remotes"):
            found.update({f"{folder}/{name}": entry for name, entry in snapshot(self.folder / folder).items()})
        return found

    def written_since(self, before: Mapping[str, object]) -> list[str]:
        """What of `everything` is not as it was."""
        after = self.everything()
        return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))

    def assert_settled(self) -> None:
        """A sweep now writes nothing at all."""
        before = self.everything()
        self.sweep()
        written = self.written_since(before)
        assert written == [], f"written: {written}"

    def assert_agreed(self) -> None:
        """File, row and base say the same everywhere, and no lock or unsettled push is left."""
        tables = self.dump()
        assert tables["repo_locks"] == [], tables["repo_locks"]
        with self.store.reading() as connection:
            for project in self.projects.values():
                repo = repos.find_repo(connection, project.slug)
                assert plans.unsettled_commits(connection, repo.id) == []
                files = git(project.remote, "ls-tree", "-r", "--name-only", "main", "workplans/").splitlines()
                in_files: dict[str, str] = {}
                for path in (each for each in files if each.endswith(".md")):
                    found = read_workplan(project.read(path), path)
                    assert not found.faults, found.faults
                    reading = found.workplan
                    if reading is None:
                        continue
                    in_files[reading.id] = reading.status.value
                    in_files |= {f"{reading.id}/{task.id}": task.status.value for task in reading.tasks}
                rows = [row for row in plans.read_rows(connection, repo.id) if not row.is_removed]
                live = [(f"{row.id}/{task.id}", task) for row in rows for task in row.tasks if not task.is_removed]
                in_rows = {row.id: row.status for row in rows} | {name: task.status for name, task in live}
                bases = {row.id: row.base_status for row in rows} | {name: task.base_status for name, task in live}
                assert in_rows == in_files, f"{project.slug}: rows {in_rows}, files {in_files}"
                assert bases == in_files, f"{project.slug}: bases {bases}, files {in_files}"
                assert repo.base_commit == project.tip, f"{project.slug}: {repo.base_commit}, tip {project.tip}"

    # -- processes --

    def write_settings(self, **more: object) -> Path:
        """A settings file for the hub's commands on this fleet."""
        values = {
            "database_url": self.settings.database_url,
            "sweep_lock": str(self.settings.sweep_lock),
            "bot_name": BOT_NAME,
            "bot_email": BOT_EMAIL,
            "state_dir": str(self.settings.state_dir),
            **more,
        }
        path = self.folder / "state-hub.toml"
        shown = [
            f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}" for name, value in values.items()
        ]
        path.write_text("\n".join(shown) + "\n")
        return path

    def command(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """One of the hub's commands, to its end."""
        return subprocess.run(
            list(command),
            env=environment(STATE_HUB_CONFIG=str(self.folder / "state-hub.toml"), **more),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *command: str, **more: str) -> subprocess.Popen[bytes]:
        """One of the hub's commands, in a session of its own."""
        return subprocess.Popen(
            list(command),
            env=environment(STATE_HUB_CONFIG=str(self.folder / "state-hub.toml"), **more),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )


def name_of(slug: str) -> str:
    """The id of the workplan that `Fleet.add` gives a repo: ``repo-7`` has ``FLEET-WP-0007``."""
    return f"FLEET-WP-{int(slug.rpartition('-')[2]):04d}"
