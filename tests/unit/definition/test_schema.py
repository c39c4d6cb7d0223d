from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from activity_core.definition.schema import json_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

# DESIGN 3: every key, by the object it belongs to
DOCUMENTED = {
    "ActivityDefinition": "id description enabled trigger context rule for_each instruction",
    "Cron": "trigger_type cron_expression timezone misfire_policy overlap_policy misfire_grace catchup_window jitter",
    "Calendar": "trigger_type on_calendar timezone misfire_policy overlap_policy misfire_grace catchup_window jitter",
    "Interval": "trigger_type every anchor misfire_policy overlap_policy misfire_grace catchup_window jitter",
    "Event": "trigger_type event_type filters when debounce overlap_policy",
    "DebounceModel": "for key",
    "HttpGet": "kind url bind timeout",
    "NamedSource": "kind bind",
    "Rule": "when",
    "ForEachModel": "items as key max_parallel",
    "Shell": "kind cmd cwd env secrets timeout kill_grace limits concurrency exit_codes retry on_interrupt"
    " on_failure runs_on run_as",
    "LimitsModel": "memory processes cpu file_size",
    "ConcurrencyModel": "key key_expr limit",
    "RetryModel": "max_attempts delay backoff max_delay",
}


def objects() -> dict[str, dict[str, Any]]:
    schema = json_schema()
    return {"ActivityDefinition": schema, **schema["$defs"]}


def nodes(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for below in value.values():
            yield from nodes(below)
    elif isinstance(value, list):
        for below in value:
            yield from nodes(below)


def test_the_schema_names_its_dialect() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "ActivityDefinition"
    assert schema["type"] == "object"


def test_the_schema_is_json() -> None:
    assert json.loads(json.dumps(json_schema())) == json_schema()


def test_the_schema_knows_the_documented_keys_and_no_others() -> None:
    assert {name: set(found["properties"]) for name, found in objects().items()} == {
        name: set(keys.split()) for name, keys in DOCUMENTED.items()
    }


def test_the_schema_refuses_unknown_keys_everywhere_but_in_named_sources() -> None:
    assert {name: found["additionalProperties"] for name, found in objects().items()} == {
        name: name == "NamedSource" for name in DOCUMENTED
    }


def test_a_definition_requires_id_trigger_and_instruction() -> None:
    assert sorted(json_schema()["required"]) == ["id", "instruction", "trigger"]


def test_every_reference_leads_to_a_definition() -> None:
    schema = json_schema()
    references = {node["$ref"] for node in nodes(schema) if "$ref" in node}
    assert references == {f"#/$defs/{name}" for name in schema["$defs"]}


def test_the_trigger_is_one_of_the_four_kinds() -> None:
    found = objects()
    kinds = {
        reference["$ref"].removeprefix("#/$defs/"): found[reference["$ref"].removeprefix("#/$defs/")]
        for reference in json_schema()["properties"]["trigger"]["oneOf"]
    }
    assert {name: kind["properties"]["trigger_type"]["const"] for name, kind in kinds.items()} == {
        "Cron": "cron",
        "Calendar": "calendar",
        "Interval": "interval",
        "Event": "event",
    }


def test_the_policies_offer_the_documented_words() -> None:
    found = objects()
    words = {word for node in nodes(found["Cron"]["properties"]["overlap_policy"]) for word in node.get("enum", ())}
    assert found["Cron"]["properties"]["misfire_policy"]["enum"] == ["skip", "run_once", "run_all"]
    assert words == {"skip", "queue_one", "queue_all", "replace", "allow"}
    assert found["Shell"]["properties"]["on_failure"]["enum"] == ["notify", "log_and_continue", "pause"]
    assert found["Shell"]["properties"]["on_interrupt"]["enum"] == ["fail", "retry"]


def test_every_pattern_compiles() -> None:
    patterns = [node["pattern"] for node in nodes(json_schema()) if isinstance(node.get("pattern"), str)]
    assert patterns
    for pattern in patterns:
        re.compile(pattern)


def test_the_pattern_of_exit_statuses_takes_1_to_255() -> None:
    pattern = objects()["Shell"]["properties"]["exit_codes"]["propertyNames"]["pattern"]
    taken = [number for number in range(-1, 1001) if re.search(pattern, str(number))]
    assert taken == list(range(1, 256))


def test_every_default_fits_its_own_pattern() -> None:
    for node in nodes(json_schema()):
        if isinstance(node.get("default"), str) and isinstance(node.get("pattern"), str):
            assert re.search(node["pattern"], node["default"])
