"""The guard: who may ask what under which name, and how much they may send."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING

import pytest
from tests.state_hub.api.clients import BEARER, TOKEN, ask_app
from tests.state_hub.api.fleet import add_repo, add_workstream

from state_hub.api.protocol import MAX_HEAD_BYTES
from state_hub.api.security import MAX_BODY_BYTES, Guard, host_name

if TYPE_CHECKING:
    from tests.state_hub.api.clients import Client

    from state_hub.api.security import Message, Receive, Scope, Send
    from state_hub.store.store import Store

JSON = {"Content-Type": "application/json"}
ROUTES = (
    ("GET", "/repos/"),
    ("POST", "/repos/"),
    ("GET", "/repos/app"),
    ("POST", "/repos/app/archive"),
    ("POST", "/repos/app/restore"),
    ("GET", "/workstreams/"),
    ("GET", "/workstreams/WP-0001"),
    ("PATCH", "/workstreams/WP-0001"),
    ("GET", "/tasks/"),
    ("GET", "/workstreams/WP-0001/tasks/T01"),
    ("PATCH", "/workstreams/WP-0001/tasks/T01"),
    ("GET", "/findings/"),
    ("GET", "/checks/"),
    ("GET", "/sweeps/"),
    ("GET", "/sweeps/1"),
    ("GET", "/writebacks/"),
    ("GET", "/outbox/"),
    ("GET", "/openapi.json"),
)


@pytest.fixture(params=["sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    """The guard knows no database: one will do."""
    found = request.param
    assert isinstance(found, str)
    return found


class TestToken:
    def test_the_routes_named_here_are_all_there_are(self, api: Client) -> None:
        paths = api.get("/openapi.json").value["paths"]
        described = {
            (method.upper(), path.replace("{slug}", "app").replace("{workplan_id}", "WP-0001"))
            for path, methods in paths.items()
            for method in methods
        }
        named = {
            (method, path.replace("/sweeps/1", "/sweeps/{number}").replace("T01", "{task_id}"))
            for method, path in ROUTES
        }
        assert described - named == {("GET", "/healthz"), ("GET", "/state/health")}
        assert named - described == {("GET", "/openapi.json")}

    @pytest.mark.parametrize(
        "shown",
        [
            {},
            {"Authorization": ""},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer "},
            {"Authorization": TOKEN},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": f"Bearer {TOKEN[:-1]}"},
            {"Authorization": f"Bearer {TOKEN.upper()}"},
            {"Authorization": "Bearer t\xf6ken"},
            {"X-Forwarded-For": "127.0.0.1"},
            {"Cookie": f"token={TOKEN}"},
        ],
    )
    def test_every_route_asks_for_the_token(self, api: Client, shown: dict[str, str]) -> None:
        for method, target in ROUTES:
            answer = api.send(method, target, headers=shown)
            assert answer.status == 401, (method, target)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "state-hub token" in answer.detail

    def test_two_tokens_are_no_token(self, api: Client) -> None:
        headers = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer other")]
        assert api.send("GET", "/repos/", headers=headers).status == 401

    def test_the_token_in_the_address_is_no_token(self, api: Client) -> None:
        assert api.send("GET", f"/repos/?token={TOKEN}&access_token={TOKEN}").status == 401

    def test_the_scheme_may_be_written_in_small_letters(self, api: Client) -> None:
        assert api.send("GET", "/repos/", headers={"authorization": f"bearer  {TOKEN}"}).status == 200

    def test_exactly_two_paths_are_open(self, api: Client) -> None:
        for target in ("/healthz", "/state/health", "/state/health?x=1", "/healthz?"):
            assert api.send("GET", target).status == 200, target

    @pytest.mark.parametrize(
        "target",
        [
            "/",
            "/healthz/",
            "/healthz/x",
            "/healthzx",
            "/healthz.",
            "/Healthz",
            "/healthz;x",
            "/healthz%00",
            "/healthz%20",
            "/%68ealthz",
            "//healthz",
            "///healthz",
            "/./healthz",
            "/x/../healthz",
            "/healthz/../repos/",
            "/healthz/%2e%2e/repos/",
            "/healthz%2f..%2frepos/",
            "/state/health/",
            "/state//health",
            "/state/health/../../repos/",
            "/state/health%2f",
            "/state%2fhealth",
            "/state/",
            "/docs",
            "/redoc",
            "/openapi.json",
            "/nowhere",
            "/repos",
            "/repos/%2e%2e/healthz",
            "http://127.0.0.1/repos/",
            "*",
        ],
    )
    def test_what_only_looks_like_an_open_path_asks_for_the_token(self, api: Client, target: str) -> None:
        answer = api.send("GET", target)
        assert answer.status in (400, 401)
        assert b"items" not in answer.body

    def test_open_paths_are_open_to_reading_only(self, api: Client) -> None:
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
            for target in ("/healthz", "/state/health"):
                assert api.send(method, target).status == 401
                assert api.send(method, target, headers=BEARER).status == 405

    def test_there_are_no_pages_of_documentation(self, api: Client) -> None:
        for target in ("/docs", "/redoc", "/docs/oauth2-redirect"):
            assert api.get(target).status == 404


class TestHost:
    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "evil.example:{port}",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.example@127.0.0.1",
            "127.0.0.1:{port}:1",
            "127.0.0.1:x",
            "127.0.0.2:{port}",
            "0.0.0.0",
            "[::2]",
            "xhub.example",
            "",
            " ",
            "a/b",
            "[127.0.0.1",
        ],
    )
    def test_another_name_is_misdirected_even_with_the_token(self, api: Client, host: str) -> None:
        headers = {**BEARER, "Host": host.format(port=api.port)}
        for target in ("/repos/", "/healthz", "/state/health"):
            assert api.send("GET", target, headers=headers).status in (400, 421)

    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1", "127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "localhost.", "[::1]:{port}", "hub.example"],
    )
    def test_its_own_names_are_answered(self, api: Client, host: str) -> None:
        headers = {**BEARER, "Host": host.format(port=api.port)}
        assert api.send("GET", "/repos/", headers=headers).status == 200

    def test_two_names_are_no_name(self, api: Client) -> None:
        headers = [("Host", api.host), ("Host", "evil.example"), *BEARER.items()]
        assert api.send("GET", "/repos/", headers=headers).status in (400, 421)

    def test_a_forwarded_name_changes_nothing(self, api: Client) -> None:
        headers = {**BEARER, "Host": "evil.example", "X-Forwarded-Host": api.host, "Forwarded": f"host={api.host}"}
        assert api.send("GET", "/repos/", headers=headers).status == 421

    def test_a_hosts_name_is_read_without_port_brackets_and_final_dot(self) -> None:
        assert host_name("Hub.Example.:80") == "hub.example"
        assert host_name("[FE80::1]:80") == "fe80::1"
        for text in ("", ":80", "a b", "a\n", "[::1", "a:b", "::1", "ä"):
            assert host_name(text) is None


class TestOrigin:
    @pytest.mark.parametrize(
        "origin",
        ["http://evil.example", "null", "", "http://127.0.0.1", "http://localhost:{port}", "file://", "{host}"],
    )
    def test_pages_of_other_origins_change_nothing(self, api: Client, store: Store, origin: str) -> None:
        add_workstream(store, add_repo(store, "app"), "WP-0001")
        headers = {**BEARER, **JSON, "Origin": origin.format(port=api.port, host=api.host)}
        body = b'{"status": "finished"}'
        assert api.send("PATCH", "/workstreams/WP-0001", headers=headers, body=body).status == 403
        assert api.send("POST", "/repos/app/archive", headers=headers).status == 403
        assert api.get("/workstreams/WP-0001").value["status"] == "active"

    def test_its_own_origin_may(self, api: Client, store: Store) -> None:
        add_repo(store, "app")
        headers = {**BEARER, "Origin": f"http://{api.host}"}
        assert api.send("POST", "/repos/app/archive", headers=headers).status == 200

    def test_nobody_is_let_in_by_cross_origin_headers(self, api: Client) -> None:
        headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PATCH"}
        for shown, status in ((headers, 401), ({**headers, **BEARER}, 405)):
            answer = api.send("OPTIONS", "/repos/", headers=shown)
            assert answer.status == status
            assert not any(name.startswith("access-control") for name in answer.headers)
        answer = api.send("GET", "/repos/", headers={**headers, **BEARER})
        assert not any(name.startswith("access-control") for name in answer.headers)

    def test_a_form_of_another_page_changes_nothing(self, api: Client, store: Store) -> None:
        add_workstream(store, add_repo(store, "app"), "WP-0001")
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            headers = {**BEARER, **({"Content-Type": kind} if kind else {})}
            body = b'{"status": "finished"}'
            assert api.send("PATCH", "/workstreams/WP-0001", headers=headers, body=body).status == 422
        assert api.get("/workstreams/WP-0001").value["status"] == "active"


class TestBody:
    @pytest.fixture(autouse=True)
    def _workstream(self, store: Store) -> None:
        add_workstream(store, add_repo(store, "app"), "WP-0001")

    def status(self, api: Client) -> object:
        return api.get("/workstreams/WP-0001").value["status"]

    def test_a_body_over_the_limit_is_too_large_with_or_without_its_length(self, api: Client) -> None:
        large = b'{"status": "finished"' + b" " * MAX_BODY_BYTES + b"}"
        sent = api.send("PATCH", "/workstreams/WP-0001", headers={**BEARER, **JSON}, body=large)
        pieces = [large[at : at + 8192] for at in range(0, len(large), 8192)]
        headers = {**BEARER, **JSON, "Transfer-Encoding": "chunked"}
        chunked = api.send("PATCH", "/workstreams/WP-0001", headers=headers, chunks=pieces)
        for answer in (sent, chunked):
            assert answer.status == 413
            assert "65,536" in answer.detail
        assert self.status(api) == "active"

    def test_a_body_of_many_megabytes_is_still_answered(self, api: Client) -> None:
        headers = {**BEARER, **JSON, "Transfer-Encoding": "chunked"}
        answer = api.send("POST", "/repos/", headers=headers, chunks=[b" " * 65_536] * 200)
        assert answer.status == 413

    def test_a_body_of_just_the_limit_is_read(self, api: Client) -> None:
        body = b'{"status": "finished"}'.ljust(MAX_BODY_BYTES)
        pieces = [body[:100], body[100:]]
        headers = {**BEARER, **JSON, "Transfer-Encoding": "chunked"}
        assert api.send("PATCH", "/workstreams/WP-0001", headers=headers, chunks=pieces).status == 200
        assert self.status(api) == "finished"

    def test_an_open_path_takes_no_large_body_either(self, api: Client) -> None:
        answer = api.send("GET", "/healthz", body=b" " * (MAX_BODY_BYTES + 1))
        assert answer.status == 413

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"{'status': 'done'}",
            b"\xff\xfe",
            b'{"status": "fin\xffished"}',
            b'{"status": "finished"} x',
            b"[" * 60_000,
            b'{"a":' * 12_000,
            b"9" * 60_000,
            b'{"status": ' + b"9" * 50_000 + b"}",
            b"NaN",
            b"null",
            b"\x00",
        ],
    )
    def test_what_is_not_json_of_the_right_shape_is_refused(self, api: Client, body: bytes) -> None:
        answer = api.send("PATCH", "/workstreams/WP-0001", headers={**BEARER, **JSON}, body=body)
        assert answer.status in (400, 422)
        assert answer.detail
        assert len(answer.body) < 4_000
        assert self.status(api) == "active"


class TestHead:
    def read_until_closed(self, api: Client, head: bytes) -> bytes:
        """What the server says to these bytes before it hangs up."""
        said = bytearray()
        with socket.create_connection(("127.0.0.1", api.port), timeout=30) as connection:
            connection.sendall(head)
            while heard := connection.recv(4096):
                said += heard
        return bytes(said)

    def test_a_head_that_does_not_end_is_cut_off(self, api: Client) -> None:
        line = b"GET /healthz HTTP/1.1\r\n"
        many = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(70))
        for head in (line + many, line + b"X: " + b"a" * MAX_HEAD_BYTES, b"GET /" + b"a" * MAX_HEAD_BYTES):
            said = self.read_until_closed(api, head[: MAX_HEAD_BYTES + 1])  # just over: no byte is left unread
            assert said.startswith(b"HTTP/1.1 400 ")
            assert b"65,536" in said

    def test_what_is_no_http_is_cut_off(self, api: Client) -> None:
        assert self.read_until_closed(api, b"\x16\x03\x01\r\n\r\n").startswith(b"HTTP/1.1 400 ")

    def test_many_small_requests_on_one_connection_are_all_answered(self, api: Client) -> None:
        request = f"GET /healthz HTTP/1.1\r\nHost: {api.host}\r\nX: {'a' * 1000}\r\n\r\n".encode()
        last = request.replace(b"X: a", b"Connection: close\r\nX: a")
        said = self.read_until_closed(api, request * 100 + last)
        assert said.count(b"HTTP/1.1 200 ") == 101


async def _ok(_scope: Scope, receive: Receive, send: Send) -> None:
    """Tells how much body came."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


def _scope(**more: object) -> Scope:
    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {TOKEN}".encode())]
    return {"type": "http", "method": "POST", "raw_path": b"/x", "headers": headers, "server": None, **more}


def _asked(scope: Scope, *messages: Message) -> list[Message]:
    return asyncio.run(ask_app(Guard(_ok, token=TOKEN), scope, messages))


class TestGuardAlone:
    def test_a_websocket_is_closed_before_it_is_open(self) -> None:
        assert _asked({"type": "websocket", "headers": []}) == [{"type": "websocket.close", "code": 1008}]

    def test_a_client_that_leaves_in_mid_body_reaches_no_route(self) -> None:
        part = {"type": "http.request", "body": b'{"status": "done"}', "more_body": True}
        assert _asked(_scope(), part, {"type": "http.disconnect"}) == []

    def test_a_body_in_pieces_arrives_whole(self) -> None:
        pieces = [{"type": "http.request", "body": b"ab", "more_body": more} for more in (True, True, False)]
        assert _asked(_scope(), *pieces)[-1]["body"] == b"6"

    def test_a_server_that_tells_no_raw_path_opens_nothing(self) -> None:
        scope = _scope(path="/healthz", headers=[(b"host", b"localhost")])
        del scope["raw_path"]
        assert _asked({**scope, "method": "GET"})[0]["status"] == 401

    def test_the_address_a_connection_came_in_on_is_a_name_of_ours(self) -> None:
        headers = [(b"host", b"192.0.2.7:80"), (b"authorization", f"Bearer {TOKEN}".encode())]
        empty = {"type": "http.request", "body": b""}
        assert _asked(_scope(headers=headers, server=("192.0.2.7", 80)), empty)[0]["status"] == 200
        assert _asked(_scope(headers=headers, server=("192.0.2.8", 80)), empty)[0]["status"] == 421

    def test_refusals_are_json(self) -> None:
        start, body = _asked(_scope(headers=[]))
        assert (b"content-type", b"application/json") in start["headers"]
        assert json.loads(body["body"]).keys() == {"detail"}
