"""Which sources there are, and what they may reach."""

from __future__ import annotations

import asyncio

import pytest

from activity_core.adapters.host import HostStatus
from activity_core.context.sources import SourceTools, make_source, source_class, source_names
from activity_core.settings import Settings
from activity_plumbing.http_guard import HttpGuardError


def test_the_sources_of_this_package_are_installed() -> None:
    assert {"activity-core.last_run", "host.status", "state-hub.health", "state-hub.repos"} <= set(source_names())
    assert source_names() == sorted(source_names())


@pytest.mark.parametrize("name", ["activity-core.last_run", "host.status", "state-hub.health", "state-hub.repos"])
def test_a_source_goes_by_the_name_it_is_registered_under_and_states_its_parameters(name: str) -> None:
    found = source_class(name)

    assert found is not None
    assert found.name == name
    assert all(isinstance(parameter, str) and isinstance(kind, type) for parameter, kind in found.parameters.items())
    source = make_source(name, SourceTools(Settings()))
    assert source is not None
    assert source.name == name


def test_a_name_that_nobody_registered_has_no_source() -> None:
    assert source_class("weather.today") is None
    assert make_source("weather.today", SourceTools(Settings())) is None


def test_each_engine_gets_a_source_of_its_own() -> None:
    first, second = (make_source("host.status", SourceTools(Settings())) for _ in range(2))

    assert isinstance(first, HostStatus)
    assert isinstance(second, HostStatus)
    assert first is not second


def test_the_client_reaches_the_hub_and_what_the_operator_allowed_and_nothing_else() -> None:
    async def go() -> None:
        served: list[int] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            served.append(writer.get_extra_info("sockname")[1])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()

        servers = [await asyncio.start_server(serve, "127.0.0.1", 0) for _ in range(3)]
        hub, allowed, private = (server.sockets[0].getsockname()[1] for server in servers)
        settings = Settings(state_hub_url=f"http://127.0.0.1:{hub}/base", http_allow=(f"127.0.0.1:{allowed}",))
        tools = SourceTools(settings)
        for port in (hub, allowed):
            assert (await tools.http().get(f"http://127.0.0.1:{port}/", timeout_s=5)).status == 200
        with pytest.raises(HttpGuardError, match=f'add "127.0.0.1:{private}" to http_allow'):
            await tools.http().get(f"http://127.0.0.1:{private}/", timeout_s=5)
        assert served == [hub, allowed]
        await tools.close()
        for server in servers:
            server.close()
            await server.wait_closed()

    asyncio.run(go())


def test_the_client_is_one_until_it_is_closed_and_closing_twice_does_no_harm() -> None:
    async def go() -> None:
        tools = SourceTools(Settings())
        await tools.close()
        first = tools.http()
        assert tools.http() is first
        await tools.close()
        await tools.close()
        assert tools.http() is not first
        await tools.close()

    asyncio.run(go())
