"""The schema of a definition file: what untrusted text is held against, and the JSON Schema for editors.

Pydantic lives here and nowhere else. `checked` gives back plain, validated values; ``build`` turns those
into the frozen values of ``model``. Only this module costs pydantic's import, and only when a file's
content is not yet known to the ledger.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from activity_core.definition.cron_aliases import CRON_ALIASES, plain_expression
from activity_core.definition.model import MisfirePolicy, OnFailure, OnInterrupt
from activity_plumbing.clock import from_datetime, parse_instant, to_datetime
from activity_plumbing.units import DURATION_PATTERN, SIZE_PATTERN, parse_duration_us, parse_size

MAX_CMD_CHARS = 65_536
SHORTEST_GRACE_US = 1_000_000
RESERVED_BINDS = frozenset({"slot", "event"})
"""Names that a rule always knows, so a bind may not take them."""
_CEL_WORDS = frozenset({
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import",
    "let", "loop", "package", "namespace", "return", "var", "void", "while",
})  # fmt: skip
_NOT_ZONES = frozenset({"localtime", "posixrules", "Factory"})  # names that mean another zone on each machine


def _duration(text: str) -> str:
    parse_duration_us(text)
    return text


def _positive_duration(text: str) -> str:
    if parse_duration_us(text) <= 0:
        raise ValueError("the duration must be longer than zero")
    return text


def _grace(text: str) -> str:
    if parse_duration_us(text) < SHORTEST_GRACE_US:
        raise ValueError("the grace must be at least 1s: no slot starts at the very microsecond it is due")
    return text


def _size(text: str) -> str:
    if parse_size(text) <= 0:
        raise ValueError("the size must be larger than zero")
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
        is_known = name not in _NOT_ZONES
    except (ZoneInfoNotFoundError, OSError, ValueError):  # OSError: a folder of zones
        is_known = False
    if not is_known:
        from activity_plumbing.nearest import nearest

        hint = nearest(name, available_timezones() - _NOT_ZONES)
        raise ValueError(f"{name!r} is not a known IANA time zone{hint}")
    return name


def _cron(expression: str) -> str:
    plain = plain_expression(expression)
    if len(plain.split()) != 5:
        raise ValueError(
            f"{expression!r} has {len(plain.split())} fields; cron takes five (minute hour day-of-month month"
            f" day-of-week) or one of {', '.join(sorted(CRON_ALIASES))}"
        )
    try:
        next(CronSim(plain, to_datetime(parse_instant("2026-01-01"))))
    except CronSimError as failure:
        raise ValueError(f"{expression!r}: {str(failure)[0].lower()}{str(failure)[1:]}") from failure
    except StopIteration:
        raise ValueError(f"{expression!r} matches no day of the next 50 years") from None
    return expression


def _anchor(text: str) -> str:
    try:
        from_datetime(to_datetime(parse_instant(text)))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a time; write ISO 8601 such as 2026-01-01T00:00Z") from None
    return text


def _event_type(text: str) -> str:
    if "*" in text.removesuffix(".*"):
        raise ValueError(f"{text!r}: a * may stand only at the end, as in org.repo.*")
    return text


def _environment_name(text: str) -> str:
    if text.startswith("ACTIVITY_"):
        raise ValueError(f"{text!r}: names that start with ACTIVITY_ are the engine's own")
    return text


def _not_reserved(text: str) -> str:
    if text in RESERVED_BINDS:
        raise ValueError(f"{text!r} is a name that rules already know; choose another")
    if text in _CEL_WORDS:
        raise ValueError(f"{text!r} is a word of the rule language; choose another name")
    return text


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("a NUL character cannot reach a command")
    return text


def _command(text: str) -> str:
    found = text.find("{{")
    if found >= 0 and "}}" in text[found:]:
        inside = text[found + 2 : text.index("}}", found)].strip()
        name = "ACTIVITY_" + re.sub(r"[^A-Z0-9]+", "_", inside.upper())
        raise ValueError(
            f"{{{{{inside}}}}} is not filled in: data never becomes part of shell text. Use the environment"
            f' variable "${name}" or read the JSON file "$ACTIVITY_INPUT"'
        )
    if not text.strip():
        raise ValueError("the command is empty")
    return _without_nul(text)


Duration = Annotated[
    str,
    Field(json_schema_extra={"pattern": DURATION_PATTERN, "examples": ["30s", "5m", "1h30m"]}),
    AfterValidator(_duration),
]
Grace = Annotated[Duration, AfterValidator(_grace)]
PositiveDuration = Annotated[Duration, AfterValidator(_positive_duration)]
Size = Annotated[
    str, Field(json_schema_extra={"pattern": SIZE_PATTERN, "examples": ["512M", "1G"]}), AfterValidator(_size)
]
Zone = Annotated[str, Field(description="IANA time zone", examples=["Europe/Berlin"]), AfterValidator(_zone)]
Text = Annotated[str, AfterValidator(_without_nul)]
Expression = Annotated[str, Field(min_length=1, max_length=4096, description="CEL expression")]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64), AfterValidator(_not_reserved)]
EnvironmentName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128), AfterValidator(_environment_name)
]
ExitStatus = Annotated[int, Field(ge=1, le=255, strict=False)]  # YAML keys arrive as text


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_enum_values=True)


class _Timed(_Model):
    misfire_policy: Literal["skip", "run_once", "run_all"] = Field(
        MisfirePolicy.SKIP.value,
        description="slots that cannot start on time: skip, run the newest, or run all",
    )
    overlap_policy: Literal["skip", "queue_one", "queue_all", "replace", "allow"] | None = Field(
        None, description="overrides misfire_policy while a prior run of this definition is active"
    )
    misfire_grace: Grace = Field("60s", description="this late still counts as on time; at least 1s")
    catchup_window: Duration = Field("1d", description="older missed slots are recorded, never run")
    jitter: Duration = Field("0s", description="spreads starts by a hash of (id, slot)")


class Cron(_Timed):
    """Fires at the times of a cron expression."""

    trigger_type: Literal["cron"]
    cron_expression: Annotated[str, AfterValidator(_cron)] = Field(
        description="five fields with names, L, W and #; or @daily and friends",
        examples=["*/15 * * * *", "@daily"],
    )
    timezone: Zone = "UTC"


class Calendar(_Timed):
    """Fires at the times of a systemd calendar expression."""

    trigger_type: Literal["calendar"]
    on_calendar: str = Field(min_length=1, max_length=256, examples=["Mon..Fri *-*-* 02:00"])
    timezone: Zone = "UTC"


class Interval(_Timed):
    """Fires at anchor + n * every, in UTC."""

    trigger_type: Literal["interval"]
    every: PositiveDuration
    anchor: Annotated[str, AfterValidator(_anchor)] = "1970-01-01T00:00Z"


class DebounceModel(_Model):
    """Only the last event of a burst runs."""

    for_: PositiveDuration = Field(alias="for")
    key: Expression | None = None


class Event(_Model):
    """Fires for each matching CloudEvent."""

    trigger_type: Literal["event"]
    event_type: Annotated[
        str,
        Field(min_length=1, max_length=256, examples=["org.repo.commit.pushed"]),
        AfterValidator(_event_type),
    ]
    filters: dict[str, str] = Field(default_factory=dict, description="globs over the event's data")
    when: Expression | None = None
    debounce: DebounceModel | None = None
    overlap_policy: Literal["skip", "queue_one", "queue_all", "replace", "allow"] | None = None


class HttpGet(_Model):
    """Asks a URL; JSON answers become values, others text."""

    kind: Literal["http_get"]
    url: str = Field(pattern=r"^https?://[^\s/]+", max_length=2048)
    bind: Identifier
    timeout: PositiveDuration = "5s"


class NamedSource(BaseModel):
    """Asks a source that an installed adapter offers; further keys are the source's own."""

    model_config = ConfigDict(extra="allow", strict=True)
    kind: str = Field(pattern=r"^[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)+$")
    bind: Identifier


def _query_kind(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "named" if isinstance(kind, str) and "." in kind else "http_get"


Query = Annotated[
    Annotated[HttpGet, Tag("http_get")] | Annotated[NamedSource, Tag("named")], Discriminator(_query_kind)
]


class Rule(_Model):
    """All expressions must be true for the instruction to run."""

    when: list[Expression] = Field(min_length=1, max_length=64)


class ForEachModel(_Model):
    """One run per item."""

    items: Expression
    as_: Identifier = Field(alias="as")
    key: Expression
    max_parallel: Annotated[int, Field(ge=1, le=10_000)] | None = None


class ConcurrencyModel(_Model):
    """Permits shared by all definitions that name the same key."""

    key: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    key_expr: Expression | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1

    @model_validator(mode="after")
    def _one_key(self) -> ConcurrencyModel:
        if (self.key is None) == (self.key_expr is None):
            raise ValueError("give exactly one of key and key_expr")
        return self


class RetryModel(_Model):
    """Further attempts after a failure."""

    max_attempts: Annotated[int, Field(ge=1, le=100)] = 1
    delay: Duration = "10s"
    backoff: Annotated[float, Field(ge=1, le=100)] = 2.0
    max_delay: Duration = "5m"


class LimitsModel(_Model):
    """Resource limits of the command's tree."""

    memory: Size | None = None
    processes: Annotated[int, Field(ge=1)] | None = None
    cpu: PositiveDuration | None = None
    file_size: Size | None = None


class Shell(_Model):
    """A command for /bin/sh."""

    kind: Literal["shell"]
    cmd: Annotated[str, Field(max_length=MAX_CMD_CHARS), AfterValidator(_command)]
    cwd: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_without_nul)] | None = None
    env: dict[EnvironmentName, Text] = Field(default_factory=dict)
    secrets: list[EnvironmentName] = Field(default_factory=list, max_length=64)
    timeout: PositiveDuration | None = None
    kill_grace: Duration = "10s"
    limits: LimitsModel | None = None
    concurrency: ConcurrencyModel | None = None
    exit_codes: dict[ExitStatus, Literal["skipped", "succeeded", "failed"]] = Field(
        default_factory=dict, description="what an exit status other than 0 means"
    )
    retry: RetryModel = Field(default_factory=lambda: RetryModel())
    on_interrupt: Literal["fail", "retry"] = Field(OnInterrupt.FAIL.value)
    on_failure: Literal["notify", "log_and_continue", "pause"] = Field(OnFailure.NOTIFY.value)
    runs_on: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    run_as: Annotated[str, Field(min_length=1)] | None = None


class ActivityDefinition(_Model):
    """A checked-in maintenance activity of activity-core."""

    id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9][A-Za-z0-9_-]*)*$",
        max_length=200,
        description="unique over everything ingested",
        examples=["the-custodian.state-hub-consistency-sweep"],
    )
    description: str = Field("", max_length=10_000)
    enabled: bool = True
    trigger: Annotated[Cron | Calendar | Interval | Event, Field(discriminator="trigger_type")]
    context: list[Query] = Field(default_factory=list, max_length=64)
    rule: Rule | None = None
    for_each: ForEachModel | None = None
    instruction: Shell


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a definition file (2020-12), for ``# yaml-language-server: $schema=…``."""
    schema = ActivityDefinition.model_json_schema(by_alias=True, mode="validation")
    query = schema["properties"]["context"]["items"]
    query["anyOf"] = query.pop("oneOf")
    status = schema["$defs"]["Shell"]["properties"]["exit_codes"]
    # JSON Schema sees YAML's integer keys as text
    status["propertyNames"] = {"pattern": "^([1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])$"}
    schema["$defs"]["Shell"]["properties"]["env"]["additionalProperties"] = False
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ActivityDefinition",
        **{key: value for key, value in schema.items() if key != "title"},
    }
