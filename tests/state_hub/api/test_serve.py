"""The server as a process: where it listens, what it refuses, how it ends."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.state_hub.api.clients import Client
from tests.state_hub.api.fleet import add_repo, add_workstream
from tests.state_hub.databases import KINDS, make_url

from state_hub.api.serve import serve
from state_hub.errors import ConfigurationError
from state_hub.settings import Settings
from state_hub.store.store import Store
from state_hub.store.workstreams import find_workstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CODE = """
import sys
from pathlib import Path
from state_hub.api.serve import serve
from state_hub.settings import Settings
folder, url, token = sys.argv[1:]
serve(Settings(state_dir=Path(folder), database_url=url, token=token, port=0))
"""


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """`serve` takes the whole process's log, which here is pytest's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@contextmanager
def running(folder: Path, url: str = "", token: str = "") -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """A server on a free port: the process, its port, and the line in which it says so."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(folder), url, token], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line + process.stderr.read()
        yield process, int(found[1]), line
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_where_the_token_lies_and_ends_in_good_order(
    tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    url = make_url(kind, tmp_path) if kind == "postgresql" else ""
    with running(tmp_path / "state", url) as (process, port, line):
        path = tmp_path / "state" / "token"
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ info ", line)
        assert str(path) in line
        token = path.read_text().strip()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert token not in line
        client = Client(port)
        assert client.send("GET", "/state/health").value["status"] == "ok"
        answer = client.send("GET", "/repos/", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status, answer.value) == (200, [])
        assert "server" not in answer.headers
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read().endswith("stopped\n")


def test_a_token_in_the_settings_is_used_and_no_other_is_made(tmp_path: Path) -> None:
    with running(tmp_path / "state", token="set-by-the-operator") as (_process, port, line):
        assert "the token is in the settings" in line
        assert "set-by-the-operator" not in line
        shown = {"Authorization": "Bearer set-by-the-operator"}
        assert Client(port).send("GET", "/repos/", headers=shown).status == 200
    assert not (tmp_path / "state" / "token").exists()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} on 127.0.0.1 is taken"):
            serve(Settings(state_dir=tmp_path / "state", port=port))
    assert not (tmp_path / "state" / "state-hub.db").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "0.0.0.0", "token": "short"}, "needs at least 16 characters"),
        ({"host": "::", "token": "fifteen-letters"}, "needs at least 16 characters"),
        ({"token": "two words"}, "without blanks"),
        ({"token": "schlüssel-zum-hub"}, "ASCII"),
        ({"host": "nowhere.invalid"}, "no address of this machine"),
        ({"host": "a" * 100}, "no address of this machine"),
        ({"host": "192.0.2.1"}, "cannot be used"),
        ({"port": 65536}, "not a port"),
        ({"database_url": "mysql://hub@db/hub"}, "not supported"),
        ({"database_url": "postgresql://hub@/hub?host=/nowhere"}, "is it running"),
    ],
)
def test_what_the_operator_must_change_is_said(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"state_dir": tmp_path / "state", "port": 0, **settings}
    with pytest.raises(ConfigurationError, match=message):
        serve(Settings(**values))  # type: ignore[arg-type]  # as read from a file


ESTABLISHED, LISTENING = "01", "0A"


def tcp_states(port: int) -> list[str]:
    """The states of this machine's IPv4 sockets with this port at one of their ends (proc_net_tcp(5))."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [fields[3] for fields in lines if f":{port:04X}" in fields[1] + fields[2]]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Polls until the condition holds. Fails naming `what` when it does not come true."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def test_a_request_under_way_is_answered_before_the_end(tmp_path: Path) -> None:
    with running(tmp_path / "state", token="set-by-the-operator") as (process, port, _line):
        store = Store.open(str(tmp_path / "state" / "state-hub.db"))
        add_workstream(store, add_repo(store, "app"), "WP-0001")
        client = Client(port)
        shown = {"Authorization": "Bearer set-by-the-operator", "Content-Type": "application/json"}
        with ThreadPoolExecutor(1) as pool, store.writing():  # which makes the other writer wait
            asked = pool.submit(
                client.send, "PATCH", "/workstreams/WP-0001", headers=shown, body=b'{"status": "finished"}'
            )
            wait_for(lambda: tcp_states(port).count(ESTABLISHED) == 2, "both ends of the request's connection")
            assert client.send("GET", "/healthz").status == 200  # read after it, so it was read
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: LISTENING not in tcp_states(port), "the server to take no more")
            assert not asked.done()
        assert asked.result(30).status == 200
        assert process.wait(30) == 0
        with store.reading() as connection:
            assert find_workstream(connection, "WP-0001").status == "finished"
        store.close()
