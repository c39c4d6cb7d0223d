"""Context queries against a real server: asked once per slot, and failing by name."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from activity_core.context.gather import ContextGatherer
from activity_core.context.sources import SourceTools
from activity_core.definition.model import ContextQuery
from activity_core.errors import ContextError
from activity_core.settings import Settings
from activity_plumbing.clock import Instant

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

SLOT, NEXT_SLOT = Instant(1_000_000), Instant(2_000_000)


@dataclass
class Hub:
    """A server in a thread; counts what it was asked. `gate` closed: answers wait."""

    port: int = 0
    status: int = 200
    kind: str = "application/json"
    body: bytes = b'{"status": "ok"}'
    asked: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    each = Hub()
    each.gate.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            each.asked.append(self.path)
            assert each.gate.wait(10)
            self.send_response(each.status)
            self.send_header("Content-Type", each.kind)
            self.send_header("Content-Length", str(len(each.body)))
            self.end_headers()
            self.wfile.write(each.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    each.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield each
    each.gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


async def until_asked(hub: Hub) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 10
    while not hub.asked:
        assert loop.time() < deadline, "nothing was asked"
        await asyncio.sleep(0.01)


def http_get(url: str, bind: str = "answer", timeout: str = "5s") -> ContextQuery:
    return ContextQuery(kind="http_get", bind=bind, arguments={"url": url, "timeout": timeout})


def with_gatherer(hub: Hub, work: Callable[[ContextGatherer], Coroutine[Any, Any, None]]) -> None:
    async def go() -> None:
        settings = Settings(http_allow=(f"127.0.0.1:{hub.port}",), state_hub_url=hub.base)
        tools = SourceTools(settings)
        try:
            async with asyncio.timeout(20):
                await work(ContextGatherer(tools))
        finally:
            await tools.close()

    asyncio.run(go())


def test_each_answer_comes_back_by_its_bind(hub: Hub) -> None:
    async def work(gatherer: ContextGatherer) -> None:
        queries = (http_get(f"{hub.base}/one", "one"), http_get(f"{hub.base}/two", "two"))
        assert await gatherer.gather(queries, SLOT) == {"one": {"status": "ok"}, "two": {"status": "ok"}}
        assert await gatherer.gather((), SLOT) == {}

    with_gatherer(hub, work)
    assert hub.asked == ["/one", "/two"]


def test_fifty_runs_of_one_slot_ask_the_same_question_once(hub: Hub) -> None:
    hub.gate.clear()

    async def work(gatherer: ContextGatherer) -> None:
        asking = [
            asyncio.ensure_future(gatherer.gather((http_get(f"{hub.base}/x", f"bind_{number}"),), SLOT))
            for number in range(50)
        ]
        await until_asked(hub)
        hub.gate.set()
        answers = await asyncio.gather(*asking)
        assert answers == [{f"bind_{number}": {"status": "ok"}} for number in range(50)]
        await gatherer.gather((http_get(f"{hub.base}/x"),), SLOT)

    with_gatherer(hub, work)
    assert hub.asked == ["/x"]


def test_another_slot_another_url_and_another_timeout_are_other_questions(hub: Hub) -> None:
    async def work(gatherer: ContextGatherer) -> None:
        for query, slot in (
            (http_get(f"{hub.base}/x"), SLOT),
            (http_get(f"{hub.base}/x"), NEXT_SLOT),
            (http_get(f"{hub.base}/y"), SLOT),
            (http_get(f"{hub.base}/x", timeout="6s"), SLOT),
        ):
            await gatherer.gather((query,), slot)

    with_gatherer(hub, work)
    assert hub.asked == ["/x", "/x", "/y", "/x"]


def test_the_order_in_which_arguments_were_written_does_not_make_another_question(hub: Hub) -> None:
    async def work(gatherer: ContextGatherer) -> None:
        url = f"{hub.base}/x"
        one = ContextQuery(kind="http_get", bind="a", arguments={"url": url, "timeout": "5s"})
        same = ContextQuery(kind="http_get", bind="b", arguments={"timeout": "5s", "url": url})
        assert await gatherer.gather((one, same), SLOT) == {"a": {"status": "ok"}, "b": {"status": "ok"}}

    with_gatherer(hub, work)
    assert hub.asked == ["/x"]


def test_a_failure_is_told_to_all_who_wait_and_asked_again_by_the_next(hub: Hub) -> None:
    hub.gate.clear()
    hub.status = 503

    async def work(gatherer: ContextGatherer) -> None:
        asking = [
            asyncio.ensure_future(gatherer.gather((http_get(f"{hub.base}/x", f"bind_{number}"),), SLOT))
            for number in range(10)
        ]
        await until_asked(hub)
        hub.gate.set()
        for number, said in enumerate(await asyncio.gather(*asking, return_exceptions=True)):
            assert isinstance(said, ContextError)
            assert str(said) == f"bind_{number} (http_get): {hub.base}/x answered with status 503"
        hub.status = 200
        assert await gatherer.gather((http_get(f"{hub.base}/x"),), SLOT) == {"answer": {"status": "ok"}}

    with_gatherer(hub, work)
    assert hub.asked == ["/x", "/x"]


def test_the_query_that_fails_is_named_and_those_after_it_are_not_asked(hub: Hub) -> None:
    async def work(gatherer: ContextGatherer) -> None:
        queries = (
            http_get(f"{hub.base}/x", "fine"),
            http_get("http://169.254.169.254/", "metadata"),
            http_get(f"{hub.base}/y", "later"),
        )
        with pytest.raises(ContextError, match=r"^metadata \(http_get\): 169\.254\.169\.254:80 is .*http_allow"):
            await gatherer.gather(queries, SLOT)

    with_gatherer(hub, work)
    assert hub.asked == ["/x"]


@pytest.mark.parametrize("status", [204, 301, 400, 401, 404, 500])
def test_a_status_is_a_failure_unless_it_is_a_success(status: int, hub: Hub) -> None:
    hub.status, hub.body = status, b""
    hub.kind = "text/plain"

    async def work(gatherer: ContextGatherer) -> None:
        if status == 204:
            assert await gatherer.gather((http_get(f"{hub.base}/x", "health"),), SLOT) == {"health": ""}
            return
        with pytest.raises(ContextError, match=rf"^health \(http_get\): .*answered with status {status}$"):
            await gatherer.gather((http_get(f"{hub.base}/x", "health"),), SLOT)

    with_gatherer(hub, work)


def test_an_answer_that_is_late_is_a_failure_that_names_the_bind_and_the_time(hub: Hub) -> None:
    hub.gate.clear()

    async def work(gatherer: ContextGatherer) -> None:
        with pytest.raises(ContextError, match=r"^late \(http_get\): .*no complete answer within 0\.3 s"):
            await gatherer.gather((http_get(f"{hub.base}/x", "late", "300ms"),), SLOT)

    with_gatherer(hub, work)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{not json", "not valid JSON"),
        (b"[" * 500 + b"]" * 500, "nested deeper than 100 levels"),
        (json.dumps([1] * 210_000).encode(), "too large for a rule"),
        (b'"' + b"x" * (2 << 20) + b'"', "larger than 1,048,576 bytes"),
    ],
)
def test_an_answer_no_rule_could_take_is_a_failure_that_names_the_bind(body: bytes, said: str, hub: Hub) -> None:
    hub.body = body

    async def work(gatherer: ContextGatherer) -> None:
        for _ in range(2):
            with pytest.raises(ContextError, match=rf"^big \(http_get\): .*{said}"):
                await gatherer.gather((http_get(f"{hub.base}/x", "big"),), SLOT)

    with_gatherer(hub, work)


def test_a_kind_that_no_package_offers_is_a_failure_that_names_it(hub: Hub) -> None:
    async def work(gatherer: ContextGatherer) -> None:
        query = ContextQuery(kind="weather.today", bind="sky", arguments={})
        with pytest.raises(ContextError, match=r"^sky \(weather\.today\): no installed package offers this source"):
            await gatherer.gather((query,), SLOT)

    with_gatherer(hub, work)


def test_a_named_source_is_shared_within_a_slot_like_any_other_question(hub: Hub) -> None:
    async def work(gatherer: ContextGatherer) -> None:
        queries = tuple(ContextQuery(kind="state-hub.health", bind=bind, arguments={}) for bind in ("a", "b"))
        assert await gatherer.gather(queries, SLOT) == {"a": {"status": "ok"}, "b": {"status": "ok"}}
        await asyncio.gather(*(gatherer.gather(queries, NEXT_SLOT) for _ in range(20)))

    with_gatherer(hub, work)
    assert hub.asked == ["/state/health", "/state/health"]
