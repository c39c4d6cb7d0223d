"""The guarded client against real servers on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ipaddress
import json
import socket
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activity_plumbing.http_guard import (
    MAX_JSON_DEPTH,
    MAX_REDIRECTS,
    Answer,
    Endpoint,
    GuardedClient,
    HttpGuardError,
    is_public,
    parse_json,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    Reply = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]

TIMEOUT_S = 5.0


def response(body: bytes = b"", *headers: str, status: str = "200 OK", kind: str = "text/plain") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    return response(b"", f"Location: {location}", status=f"{status} Elsewhere")


@dataclass
class Server:
    """Answers each path with what is set for it, and keeps what it was asked."""

    port: int = 0
    replies: dict[str, Reply] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    connections: int = 0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                path = head[0].split(" ")[1]
                self.requests.append((path, dict(line.lower().split(": ", 1) for line in head[1:] if line)))
                reply = self.replies.get(path, response(b"not here", status="404 Not Found"))
                if isinstance(reply, bytes):
                    writer.write(reply)
                    await writer.drain()
                else:
                    await reply(writer)
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def serving(replies: dict[str, Reply] | None = None, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    server = Server(replies=replies or {})
    listening = await asyncio.start_server(server.serve, host, 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await listening.wait_closed()


@contextlib.asynccontextmanager
async def client_for(*allowed: Endpoint) -> AsyncIterator[GuardedClient]:
    client = GuardedClient(allowed)
    try:
        yield client
    finally:
        await client.close()


def get(reply: Reply, *, timeout_s: float = TIMEOUT_S, max_bytes: int = 1 << 20) -> Answer:
    """What a client that may reach the server gets for one reply."""

    async def go() -> Answer:
        async with serving({"/": reply}) as server, client_for(server.endpoint) as client:
            return await client.get(f"{server.base}/", timeout_s=timeout_s, max_bytes=max_bytes)

    return asyncio.run(within(go()))


async def within(work: Coroutine[object, object, Answer]) -> Answer:
    async with asyncio.timeout(20):
        return await work


# -- which addresses --

BLOCKED = [
    "127.0.0.1", "127.8.9.10", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.127.255.255", "198.18.0.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::ffff:100.64.0.1",
    "::ffff:0.0.0.0", "64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::10.0.0.1", "64:ff9b::100.64.0.1",
    "2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:6440:1::", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1",
    "ff02::1", "2001:db8::1", "2001::7f00:1", "100::1",
]  # fmt: skip
PUBLIC = ["93.184.216.34", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2606:4700:4700::1111",
          "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::"]  # fmt: skip


@pytest.mark.parametrize("text", BLOCKED)
def test_an_address_that_is_not_everybodys_is_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_an_address_of_the_internet_is_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses(v=4))
def test_an_ipv6_address_that_embeds_an_ipv4_one_is_judged_by_that(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for embedding in (
        (0xFFFF << 32) | number,
        int(ipaddress.IPv6Address("64:ff9b::")) | number,
        int(ipaddress.IPv6Address("2002::")) | number << 80,
    ):
        assert is_public(ipaddress.IPv6Address(embedding)) == is_public(address)


HOST_FORMS = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7F.1", "0177.0.0.1", "017700000001",
    "0", "0.0.0.0", "0x0", "localhost", "LOCALHOST", "[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "user:password@127.0.0.1", "example.com@127.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", HOST_FORMS)
def test_however_loopback_is_written_nothing_reaches_a_server_there(host: str) -> None:
    async def go() -> None:
        async with serving({"/": response(b"secret")}) as server, client_for() as client:
            with pytest.raises(HttpGuardError, match="not a public address; to allow it, add"):
                await client.get(f"http://{host}:{server.port}/", timeout_s=TIMEOUT_S)
            assert server.connections == 0

    asyncio.run(go())


ELSEWHERE = [
    "169.254.169.254", "2852039166", "0xA9FEA9FE", "0251.0376.0251.0376", "100.64.0.1", "10.0.0.1", "192.168.0.1",
    "172.16.0.1", "[::ffff:169.254.169.254]", "[64:ff9b::169.254.169.254]", "[64:ff9b::7f00:1]", "[fe80::1]",
    "[fd00:ec2::254]", "[2002:7f00:1::]", "[fec0::1]", "[ff02::1]", "255.255.255.255", "224.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", ELSEWHERE)
def test_private_and_metadata_addresses_are_refused_before_a_connection_is_tried(host: str) -> None:
    async def go() -> None:
        async with client_for() as client:
            with pytest.raises(HttpGuardError, match="not a public address"):
                await client.get(f"http://{host}/latest/meta-data", timeout_s=TIMEOUT_S)

    asyncio.run(go())


def test_the_refusal_says_what_to_add_to_the_settings() -> None:
    async def go() -> None:
        async with client_for() as client:
            with pytest.raises(HttpGuardError, match='add "localhost:4242" to http_allow') as refused:
                await client.get("http://localhost:4242/", timeout_s=TIMEOUT_S)
            assert "localhost:4242 is " in str(refused.value)

    asyncio.run(go())


def test_the_allow_list_lets_exactly_its_host_and_port_through() -> None:
    async def go() -> None:
        async with serving({"/": response(b"in")}) as one, serving({"/": response(b"in")}) as other:
            async with client_for(one.endpoint) as client:
                assert (await client.get(f"{one.base}/", timeout_s=TIMEOUT_S)).body == b"in"
                for url in (f"{other.base}/", f"http://localhost:{one.port}/", f"http://2130706433:{one.port}/"):
                    with pytest.raises(HttpGuardError, match="not a public address"):
                        await client.get(url, timeout_s=TIMEOUT_S)
            assert other.connections == 0

    asyncio.run(go())


def test_a_name_on_the_allow_list_is_let_through_by_name_in_any_case_and_its_address_is_not() -> None:
    async def go() -> None:
        async with serving({"/": response(b"in")}) as server, client_for(Endpoint("localhost", server.port)) as client:
            for name in ("localhost", "LocalHost"):
                assert (await client.get(f"http://{name}:{server.port}/", timeout_s=TIMEOUT_S)).body == b"in"
            with pytest.raises(HttpGuardError, match="not a public address"):
                await client.get(f"{server.base}/", timeout_s=TIMEOUT_S)

    asyncio.run(go())


def test_an_ipv6_endpoint_is_let_through() -> None:
    async def go() -> None:
        async with (
            serving({"/": response(b"six")}, host="::1") as server,
            client_for(Endpoint.of(f"[::1]:{server.port}")) as client,
        ):
            assert (await client.get(f"http://[::1]:{server.port}/", timeout_s=TIMEOUT_S)).body == b"six"

    asyncio.run(go())


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost:8000", "localhost", 8000),
        ("Hub.Example", "hub.example", 80),
        ("https://hub.example/x", "hub.example", 443),
        ("http://127.0.0.1:8000/x?y", "127.0.0.1", 8000),
        ("[::1]:80", "::1", 80),
    ],
)
def test_an_endpoint_is_read_from_host_and_port_or_a_url(text: str, host: str, port: int) -> None:
    assert Endpoint.of(text) == Endpoint(host, port)


@pytest.mark.parametrize("text", ["", ":80", "http://", "host:99999", "host:x", "[::1"])
def test_what_is_no_endpoint_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Endpoint.of(text)


# -- redirects --


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::1]", "[::ffff:127.0.0.1]"])
def test_a_redirect_to_loopback_is_blocked(status: int, host: str) -> None:
    async def go() -> None:
        async with serving({"/": response(b"secret")}) as inside, serving() as outside:
            outside.replies["/"] = redirect(f"http://{host}:{inside.port}/", status)
            async with client_for(outside.endpoint) as client:
                with pytest.raises(HttpGuardError, match="not a public address"):
                    await client.get(f"{outside.base}/", timeout_s=TIMEOUT_S)
            assert (inside.connections, len(outside.requests)) == (0, 1)

    asyncio.run(go())


def test_a_redirect_without_a_scheme_is_judged_too() -> None:
    async def go() -> None:
        async with (
            serving({"/": redirect("//169.254.169.254/latest")}) as server,
            client_for(server.endpoint) as client,
        ):
            with pytest.raises(HttpGuardError, match=r"169\.254\.169\.254, which is not a public address"):
                await client.get(f"{server.base}/", timeout_s=TIMEOUT_S)

    asyncio.run(go())


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://x/", "javascript:alert(1)"])
def test_a_redirect_to_something_that_is_not_http_is_refused(location: str) -> None:
    with pytest.raises(HttpGuardError, match="not HTTP"):
        get(redirect(location))


def test_redirects_are_followed_five_times_and_relative_ones_belong_to_where_they_stand() -> None:
    async def go() -> None:
        chain: dict[str, Reply] = {f"/a/{number}": redirect(str(number + 1)) for number in range(MAX_REDIRECTS)}
        async with (
            serving({**chain, f"/a/{MAX_REDIRECTS}": response(b"end")}) as server,
            client_for(server.endpoint) as client,
        ):
            assert (await client.get(f"{server.base}/a/0", timeout_s=TIMEOUT_S)).body == b"end"
            server.replies["/a/before"] = redirect("0")
            with pytest.raises(HttpGuardError, match="more than 5 redirects"):
                await client.get(f"{server.base}/a/before", timeout_s=TIMEOUT_S)

    asyncio.run(go())


def test_a_redirect_to_itself_ends_with_an_error_after_six_requests() -> None:
    async def go() -> None:
        async with serving({"/": redirect("/")}) as server, client_for(server.endpoint) as client:
            with pytest.raises(HttpGuardError, match="more than 5 redirects"):
                await client.get(f"{server.base}/", timeout_s=TIMEOUT_S)
            assert len(server.requests) == MAX_REDIRECTS + 1

    asyncio.run(go())


def test_a_redirect_without_a_location_is_the_answer() -> None:
    assert get(response(b"choose", status="302 Found")).status == 302


def test_headers_such_as_a_token_go_to_the_first_host_only() -> None:
    async def go() -> None:
        async with serving({"/": response(b"")}) as other, serving() as first:
            first.replies["/here"] = redirect("/there")
            first.replies["/there"] = redirect(f"{other.base}/")
            async with client_for(first.endpoint, other.endpoint) as client:
                await client.get(f"{first.base}/here", timeout_s=TIMEOUT_S, headers=[("Authorization", "Bearer t")])
            assert [headers.get("authorization") for _, headers in first.requests] == ["bearer t", "bearer t"]
            assert [headers.get("authorization") for _, headers in other.requests] == [None]

    asyncio.run(go())


# -- size and time --


async def write_for_ever(writer: asyncio.StreamWriter, data: bytes, pause_s: float) -> None:
    while True:
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(pause_s)


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    await write_for_ever(writer, b"x" * 65_536, 0)


async def endless_chunks(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await write_for_ever(writer, b"10000\r\n" + b"x" * 65_536 + b"\r\n", 0)


async def dripping_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n")
    await write_for_ever(writer, b"x", 0.01)


async def dripping_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    await write_for_ever(writer, b"x", 0.01)


async def endless_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    await write_for_ever(writer, b"X: y\r\n" * 1000, 0)


async def endless_continue(writer: asyncio.StreamWriter) -> None:
    await write_for_ever(writer, b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.001)


async def silence(writer: asyncio.StreamWriter) -> None:
    await writer.wait_closed()


@pytest.mark.parametrize("reply", [endless, endless_chunks])
def test_an_endless_body_ends_at_the_size_cap(reply: Reply) -> None:
    with pytest.raises(HttpGuardError, match="larger than 100,000 bytes"):
        get(reply, max_bytes=100_000)


@pytest.mark.parametrize("reply", [dripping_body, dripping_head, endless_continue, silence])
def test_an_answer_that_trickles_in_ends_at_the_time_cap_over_the_whole_exchange(reply: Reply) -> None:
    async def go() -> None:
        async with serving({"/": reply}) as server, client_for(server.endpoint) as client:
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(HttpGuardError, match=r"no complete answer within 0\.4 s"):
                await client.get(f"{server.base}/", timeout_s=0.4)
            assert 0.3 < loop.time() - began < 3

    asyncio.run(go())


def test_every_redirect_counts_against_the_one_time_cap() -> None:
    async def slow_redirect(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(redirect("/"))
        await writer.drain()

    with pytest.raises(HttpGuardError, match=r"no complete answer within 0\.5 s"):
        get(slow_redirect, timeout_s=0.5)


def test_endless_headers_end_with_an_error() -> None:
    with pytest.raises(HttpGuardError):
        get(endless_head, timeout_s=2)


def test_a_body_of_exactly_the_cap_is_taken_and_one_byte_more_is_not() -> None:
    assert len(get(response(b"x" * 1000), max_bytes=1000).body) == 1000
    with pytest.raises(HttpGuardError, match="larger than 1,000 bytes"):
        get(response(b"x" * 1001), max_bytes=1000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_bomb_ends_at_the_size_cap(encoding: str) -> None:
    bomb = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    packed = bomb.compress(bytes(50 << 20)) + bomb.flush()
    assert len(packed) < 60_000

    with pytest.raises(HttpGuardError, match="larger than 100,000 bytes"):
        get(response(packed, f"Content-Encoding: {encoding}"), max_bytes=100_000)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "identity"])
def test_a_compressed_answer_within_the_cap_is_read(encoding: str) -> None:
    text = b"hello " * 10_000
    packed = {"gzip": gzip.compress(text), "deflate": zlib.compress(text), "identity": text}[encoding.lower()]

    assert get(response(packed, f"Content-Encoding: {encoding}")).body == text


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "nonsense"])
def test_a_compression_that_was_not_asked_for_is_refused_by_name(encoding: str) -> None:
    with pytest.raises(HttpGuardError, match=f"compressed with '{encoding}'"):
        get(response(b"x", f"Content-Encoding: {encoding}"))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_damaged_compressed_data_is_an_error(encoding: str) -> None:
    with pytest.raises(HttpGuardError, match=f"{encoding} data is damaged"):
        get(response(b"this is not compressed", f"Content-Encoding: {encoding}"))


def test_the_request_asks_for_json_and_for_no_compression() -> None:
    async def go() -> None:
        async with serving({"/x?y=1": response(b"")}) as server, client_for(server.endpoint) as client:
            await client.get(f"{server.base}/x?y=1", timeout_s=TIMEOUT_S, headers=[("X-More", "1")])
            path, headers = server.requests[0]
            assert path == "/x?y=1"
            assert headers["accept-encoding"] == "identity"
            assert headers["accept"].startswith("application/json")
            assert (headers["user-agent"], headers["x-more"]) == ("activity-core", "1")

    asyncio.run(go())


# -- broken servers --


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nBad Header\r\n\r\n",
        bytes(range(256)) * 10,
    ],
)
def test_a_server_that_does_not_speak_http_is_an_error(reply: bytes) -> None:
    async def and_close(writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()

    with pytest.raises(HttpGuardError):
        get(and_close)


def test_a_port_where_nobody_listens_is_an_error() -> None:
    async def go() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            async with client_for(Endpoint("127.0.0.1", port)) as client:
                with pytest.raises(HttpGuardError, match=str(port)):
                    await client.get(f"http://127.0.0.1:{port}/", timeout_s=TIMEOUT_S)

    asyncio.run(go())


def test_https_to_a_port_that_speaks_plain_http_is_an_error() -> None:
    async def go() -> None:
        async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(response(b"speak plainly", status="400 Bad Request"))
            await writer.drain()
            writer.close()

        listening = await asyncio.start_server(refuse, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with listening, client_for(Endpoint("127.0.0.1", port)) as client:
            with pytest.raises(HttpGuardError, match=str(port)):
                await client.get(f"https://127.0.0.1:{port}/", timeout_s=TIMEOUT_S)

    asyncio.run(go())


@pytest.mark.parametrize(
    "url",
    ["", "x", "//127.0.0.1/", "ftp://127.0.0.1/", "file:///etc/passwd", "http://", "http:///x", "http://h:99999/",
     "http://h:-1/", "http://h:x/", "http://[::1", "http://a b/", "http://\0/", "http://.../", "unix:///run/x"],
)  # fmt: skip
def test_what_is_not_a_url_of_http_is_an_error(url: str) -> None:
    async def go() -> None:
        async with client_for() as client:
            with pytest.raises(HttpGuardError):
                await client.get(url, timeout_s=TIMEOUT_S)

    asyncio.run(go())


@pytest.mark.parametrize("part", ["/ HTTP/1.1\r\nX: y", "/\nX: y", "/a b"])
def test_a_url_cannot_carry_a_second_header_line(part: str) -> None:
    async def go() -> None:
        async with serving() as server, client_for(server.endpoint) as client:
            with pytest.raises(HttpGuardError):
                await client.get(server.base + part, timeout_s=TIMEOUT_S)
            assert server.requests == []

    asyncio.run(go())


def test_after_an_error_the_client_goes_on_to_serve() -> None:
    async def go() -> None:
        async with (
            serving({"/": response(b"fine"), "/endless": endless}) as server,
            client_for(server.endpoint) as client,
        ):
            for _ in range(20):  # more than the pool holds
                with pytest.raises(HttpGuardError):
                    await client.get(f"{server.base}/endless", timeout_s=TIMEOUT_S, max_bytes=10)
            assert (await client.get(f"{server.base}/", timeout_s=TIMEOUT_S)).body == b"fine"

    asyncio.run(go())


def test_a_connection_is_used_again() -> None:
    async def go() -> None:
        async with serving({"/": response(b"fine")}) as server, client_for(server.endpoint) as client:
            for _ in range(5):
                await client.get(f"{server.base}/", timeout_s=TIMEOUT_S)
            assert (len(server.requests), server.connections) == (5, 1)

    asyncio.run(go())


# -- what the body says --


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"])
def test_json_is_read_where_the_server_says_json(kind: str) -> None:
    assert get(response(b'{"status": "ok", "n": [1, 2.5, null]}', kind=kind)).value() == {
        "status": "ok",
        "n": [1, 2.5, None],
    }


@pytest.mark.parametrize("kind", ["text/plain", "text/html", "application/octet-stream", "", "application/jsonx"])
def test_anything_else_is_text(kind: str) -> None:
    assert get(response(b'{"status": "ok"}', kind=kind)).value() == '{"status": "ok"}'


@pytest.mark.parametrize(
    ("charset", "body", "text"),
    [
        ("utf-8", "é".encode(), "é"),
        ("ISO-8859-1", b"\xe9", "é"),
        ('"utf-16"', "é".encode("utf-16"), "é"),
        ("no-such-charset", "é".encode(), "é"),
        ("hex", b"6869", "6869"),
        ("", "é".encode(), "é"),
        ("ascii", b"\xff", "\ufffd"),
    ],
)
def test_text_is_read_in_its_charset_and_as_utf_8_where_that_is_unknown(charset: str, body: bytes, text: str) -> None:
    assert Answer(200, f"text/plain; a=b; Charset={charset}", body).value() == text


def test_text_that_is_not_in_its_charset_is_read_with_replacements() -> None:
    assert get(response(b"a\xff\xfeb")).value() == "a\ufffd\ufffdb"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{'a': 1}", b"NaN", b'{"x": Infinity}', b"[-Infinity]", b"\xff\xff", b"[1]]", b"9" * 5000]
)
def test_what_is_not_json_is_an_error_where_the_server_says_json(body: bytes) -> None:
    with pytest.raises(HttpGuardError, match="not valid JSON"):
        get(response(body, kind="application/json")).value()


@pytest.mark.parametrize("bracket", [b"[", b'{"a":'])
def test_json_nested_a_hundred_thousand_deep_is_refused_by_its_depth(bracket: bytes) -> None:
    with pytest.raises(HttpGuardError, match="nested deeper than 100 levels"):
        get(response(bracket * 100_000, kind="application/json")).value()


def test_json_of_exactly_the_depth_limit_is_read() -> None:
    assert parse_json(b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH)
    with pytest.raises(HttpGuardError, match="nested deeper"):
        parse_json(b"[" * (MAX_JSON_DEPTH + 1) + b"]" * (MAX_JSON_DEPTH + 1))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=20,
)


@given(json_values, st.booleans())
def test_every_json_value_of_modest_depth_is_read_back(value: object, is_ascii: bool) -> None:
    written = json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")

    assert parse_json(written) == value


def test_brackets_inside_texts_do_not_count_as_depth() -> None:
    text = "[{" * 500 + '\\"' * 3 + "[" * 500

    assert parse_json(json.dumps([text, text]).encode()) == [text, text]
