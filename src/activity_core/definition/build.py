"""From plain, validated values to the frozen definition, and nothing else.

The same plain values are what the ledger keeps of every version, so a restart builds from them
without reading YAML again.
"""

from __future__ import annotations

from sys import intern
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from activity_core.definition.model import (
    CalendarSchedule,
    Concurrency,
    ContextQuery,
    CronSchedule,
    Debounce,
    Definition,
    DefinitionId,
    EventSubscription,
    ForEach,
    Instruction,
    IntervalSchedule,
    Limits,
    MisfirePolicy,
    OnFailure,
    OnInterrupt,
    OverlapPolicy,
    Policy,
    Retry,
    Schedule,
)
from activity_plumbing.clock import parse_instant
from activity_plumbing.units import parse_duration_us, parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

Plain = dict[str, Any]
_EMPTY: Mapping[Any, Any] = MappingProxyType({})
_OVERLAP_OF_MISFIRE = {
    MisfirePolicy.SKIP: OverlapPolicy.SKIP,
    MisfirePolicy.RUN_ONCE: OverlapPolicy.QUEUE_ONE,
    MisfirePolicy.RUN_ALL: OverlapPolicy.QUEUE_ALL,
}
_shared: dict[object, Any] = {}
"""Equal parts of definitions, kept once: ten thousand definitions have a few dozen schedules and policies."""

Part = TypeVar("Part")


def _share(part: Part) -> Part:
    return cast("Part", _shared.setdefault(part, part))


def build(plain: Plain) -> Definition:
    """The frozen values of what ``schema`` has accepted; equal parts are shared between definitions."""
    instruction = plain["instruction"]
    for_each = plain.get("for_each")
    return Definition(
        id=DefinitionId(intern(plain["id"])),
        description=intern(plain["description"]),
        enabled=plain["enabled"],
        schedule=_schedule(plain["trigger"]),
        policy=_policy(plain["trigger"]),
        context=tuple(_query(query) for query in plain["context"]),
        when=_share(tuple(plain["rule"]["when"])) if plain.get("rule") else (),
        for_each=for_each
        and ForEach(
            items=for_each["items"],
            name=for_each["as"],
            key=for_each["key"],
            max_parallel=for_each["max_parallel"],
        ),
        instruction=_instruction(instruction),
    )


def _schedule(trigger: Plain) -> Schedule:
    match trigger["trigger_type"]:
        case "cron":
            return _share(CronSchedule(expression=trigger["cron_expression"], timezone=trigger["timezone"]))
        case "calendar":
            return CalendarSchedule(expression=trigger["on_calendar"], timezone=intern(trigger["timezone"]))
        case "interval":
            return _share(
                IntervalSchedule(every_us=parse_duration_us(trigger["every"]), anchor=parse_instant(trigger["anchor"]))
            )
        case _:
            debounce = trigger["debounce"]
            return EventSubscription(
                event_type=trigger["event_type"],
                filters=MappingProxyType(trigger["filters"]),
                when=trigger["when"],
                debounce=debounce and Debounce(for_us=parse_duration_us(debounce["for"]), key=debounce["key"]),
            )


def _policy(trigger: Plain) -> Policy:
    if trigger["trigger_type"] == "event":
        policy = Policy(
            misfire=MisfirePolicy.RUN_ALL,
            overlap=OverlapPolicy(trigger["overlap_policy"] or OverlapPolicy.QUEUE_ALL),
            grace_us=0,
            window_us=0,
            jitter_us=0,
        )
    else:
        misfire = MisfirePolicy(trigger["misfire_policy"])
        policy = Policy(
            misfire=misfire,
            overlap=OverlapPolicy(trigger["overlap_policy"] or _OVERLAP_OF_MISFIRE[misfire]),
            grace_us=parse_duration_us(trigger["misfire_grace"]),
            window_us=parse_duration_us(trigger["catchup_window"]),
            jitter_us=parse_duration_us(trigger["jitter"]),
        )
    return _share(policy)


def _query(query: Plain) -> ContextQuery:
    arguments = {intern(name): value for name, value in query.items() if name not in ("kind", "bind")}
    kind, bind = intern(query["kind"]), intern(query["bind"])
    if not arguments:
        return cast(
            "ContextQuery", _shared.setdefault((kind, bind), ContextQuery(kind=kind, bind=bind, arguments=_EMPTY))
        )
    return ContextQuery(kind=kind, bind=bind, arguments=MappingProxyType(arguments))


def _instruction(plain: Plain) -> Instruction:
    limits, concurrency, retry = plain["limits"], plain["concurrency"], plain["retry"]
    attempts = Retry(
        max_attempts=retry["max_attempts"],
        delay_us=parse_duration_us(retry["delay"]),
        backoff=retry["backoff"],
        max_delay_us=parse_duration_us(retry["max_delay"]),
    )
    return Instruction(
        cmd=plain["cmd"],
        cwd=plain["cwd"],
        env=MappingProxyType(plain["env"]) if plain["env"] else _EMPTY,
        secrets=tuple(plain["secrets"]),
        timeout_us=parse_duration_us(plain["timeout"]) if plain["timeout"] else None,
        kill_grace_us=parse_duration_us(plain["kill_grace"]),
        limits=limits
        and Limits(
            memory_bytes=limits["memory"] and parse_size(limits["memory"]),
            processes=limits["processes"],
            cpu_us=limits["cpu"] and parse_duration_us(limits["cpu"]),
            file_size_bytes=limits["file_size"] and parse_size(limits["file_size"]),
        ),
        concurrency=concurrency
        and Concurrency(key=concurrency["key"], key_expr=concurrency["key_expr"], limit=concurrency["limit"]),
        # JSON keeps object keys as text
        exit_codes=MappingProxyType({int(code): meaning for code, meaning in plain["exit_codes"].items()})
        if plain["exit_codes"]
        else _EMPTY,
        retry=_share(attempts),
        on_interrupt=OnInterrupt(plain["on_interrupt"]),
        on_failure=OnFailure(plain["on_failure"]),
        runs_on=tuple(plain["runs_on"]),
        run_as=plain["run_as"],
    )
