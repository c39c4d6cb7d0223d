from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest

from activity_core.errors import ExpressionError
from activity_core.rule import (
    MAX_TEXT_CHARS,
    MAX_VALUE_DEPTH,
    MAX_VALUE_NODES,
    Evaluated,
    compile_expression,
    evaluate_all,
    refuse_oversized,
)

SLOT = datetime(2026, 3, 29, 2, 30, tzinfo=UTC)


def judged(text: str, names: dict[str, object]) -> Evaluated:
    (result,) = evaluate_all([compile_expression(text, names)], names)
    return result


def refused(text: str, *names: str) -> ExpressionError:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, names)
    return caught.value


# -- what fires --


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("hub.status == 'ok'", {"status": "ok"}),
        ("hub.ready", {"ready": True}),
        ("has(hub.db) && hub.db.lag < 5", {"db": {"lag": 2}}),
        ("hub.repos.exists(r, r.slug == 'a')", {"repos": [{"slug": "b"}, {"slug": "a"}]}),
        ("hub.load < 1.5 && size(hub.names) == 2", {"load": 0.25, "names": ["a", "b"]}),
        ("hub.nothing == null", {"nothing": None}),
        ("!hub.paused", {"paused": False}),
    ],
)
def test_true_fires(text: str, value: object) -> None:
    result = judged(text, {"hub": value})
    assert result.value is True
    assert result.error is None
    assert result.is_true


def test_false_does_not_fire_and_is_no_error() -> None:
    result = judged("hub.status == 'ok'", {"hub": {"status": "down"}})
    assert result == Evaluated("hub.status == 'ok'", False)
    assert not result.is_true


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("'true'", "text"),
        ("1", "a number"),
        ("1.0", "a number"),
        ("[true]", "a list"),
        ("{'a': true}", "a map"),
        ("null", "null"),
        ("hub.status", "text"),
        ("hub.count", "a number"),
    ],
)
def test_only_the_boolean_true_fires(text: str, found: str) -> None:
    result = judged(text, {"hub": {"status": "true", "count": 1}})
    assert not result.is_true
    assert result.error == f"came to {found}, not to true or false"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hub.missing == 1", "missing"),
        ("hub.list[3] == 1", "index=3"),
        ("hub.status < 1", "No matching overloads"),
        ("1 / hub.zero == 0", "divide by zero"),
        ("1 % hub.zero == 0", "modulus by zero"),
        ("hub.status ? true : false", "No matching overloads"),
        ("9223372036854775807 + hub.one == 0", "overflow"),
        ("int(hub.status) == 1", "convert"),
        ("timestamp(hub.status) < timestamp('2026-01-01T00:00:00Z')", "imestamp"),
        ("hub.status.matches('(')", "invalid"),
    ],
)
def test_an_error_value_does_not_fire(text: str, said: str) -> None:
    result = judged(text, {"hub": {"status": "ok", "list": [1], "zero": 0, "one": 1}})
    assert not result.is_true
    assert result.value is None
    assert result.error is not None
    assert said in result.error


def test_an_error_beside_a_decisive_operand_is_absorbed_as_cel_defines() -> None:
    assert judged("true || hub.missing", {"hub": {}}).is_true
    assert judged("false && hub.missing", {"hub": {}}) == Evaluated("false && hub.missing", False)


def test_a_name_without_a_value_is_an_error() -> None:
    with pytest.raises(ExpressionError, match="hub"):
        compile_expression("hub == 1", ["hub"]).evaluate({})


@pytest.mark.parametrize("value", [1 << 70, object(), {1}, "\ud800"])
def test_a_value_that_cel_cannot_hold_is_an_error(value: object) -> None:
    with pytest.raises(ExpressionError):
        compile_expression("hub == 1", ["hub"]).evaluate({"hub": value})


def test_an_evaluated_error_is_never_true() -> None:
    assert not Evaluated("x", True, "broken").is_true
    assert not Evaluated("x", 1).is_true


# -- several expressions --


def test_all_expressions_are_asked_in_order_while_they_are_true() -> None:
    texts = ["hub.a", "hub.b", "!hub.c"]
    names = {"hub": {"a": True, "b": True, "c": False}}
    results = evaluate_all([compile_expression(text, names) for text in texts], names)
    assert [(each.expression, each.value) for each in results] == [(text, True) for text in texts]


@pytest.mark.parametrize("second", ["hub.no", "hub.missing", "hub.count"])
def test_nothing_is_asked_after_the_first_that_is_not_true(second: str) -> None:
    texts = ["hub.yes", second, "hub.yes"]
    names = {"hub": {"yes": True, "no": False, "count": 1}}
    results = evaluate_all([compile_expression(text, names) for text in texts], names)
    assert [each.expression for each in results] == texts[:2]
    assert not results[-1].is_true


def test_no_expressions_come_to_no_results() -> None:
    assert evaluate_all([], {}) == []


# -- names --


def test_a_name_that_is_not_declared_names_the_nearest() -> None:
    failure = refused("hub_helth", "hub_health", "slot")
    assert "the name 'hub_helth' is not declared; did you mean 'hub_health'?" in failure.message
    assert (failure.line, failure.column) == (1, 1)


def test_a_name_that_is_not_declared_is_told_which_are() -> None:
    assert "valid here: hub, slot" in refused("zzz == 1", "hub", "slot").message


def test_a_name_that_is_not_declared_is_told_that_none_are() -> None:
    assert "no names are declared" in refused("zzz == 1").message


def test_the_name_of_a_selection_is_told_without_its_fields() -> None:
    assert "the name 'hub_helth' is not declared" in refused("hub_helth.status.x == 1", "hub_health").message


def test_a_place_counts_lines_and_columns_from_one() -> None:
    failure = refused("true &&\n  nope", "hub")
    assert (failure.line, failure.column) == (2, 3)


def test_columns_count_characters() -> None:
    failure = refused("'äö😀' == nope", "hub")
    assert (failure.line, failure.column) == (1, 10)


def test_a_name_inside_a_macro_is_known_there_only() -> None:
    compile_expression("hub.all(x, x > 1)", ["hub"])
    assert "'x' is not declared" in refused("hub.all(x, x > 1) && x", "hub").message


@pytest.mark.parametrize(
    ("text", "column"), [("hub == ", 8), ("hub hub", 5), ("(hub", 5), ("", 1), ("hub ==== 1", 7), ("'open", 1)]
)
def test_what_is_not_cel_is_refused_with_its_column(text: str, column: int) -> None:
    failure = refused(text, "hub")
    assert (failure.line, failure.column) == (1, column)
    assert "expecting {" not in failure.message


def test_messages_carry_no_status_words_of_the_library() -> None:
    for text in ("hub ==", "zzz", "((((" * 20 + "true" + "))))" * 20):
        assert "INVALID_ARGUMENT" not in refused(text, "hub").message
    error = judged("hub.x == 1", {"hub": {}}).error
    assert error is not None
    assert "NOT_FOUND" not in error


# -- the slot --


@pytest.mark.parametrize(
    "text",
    [
        "slot == timestamp('2026-03-29T02:30:00Z')",
        "slot > timestamp('2026-03-29T02:29:59Z')",
        "slot.getHours() == 2",
        "slot.getHours('Europe/Berlin') == 4",
        "slot.getDayOfWeek() == 0",
        "slot + duration('1h') == timestamp('2026-03-29T03:30:00Z')",
        "type(slot) == google.protobuf.Timestamp",
    ],
)
def test_the_slot_is_a_timestamp(text: str) -> None:
    assert judged(text, {"slot": SLOT}).is_true


def test_a_slot_compared_with_text_does_not_compile() -> None:
    assert "overload" in refused("slot == '2026'", "slot").message


# -- hostile expressions and data --


def deep_json(depth: int) -> object:
    return json.loads("[" * depth + "]" * depth)


FORTY = list(range(40))
NESTED = "l.{0}(a, l.{0}(b, l.{0}(c, l.{0}(d, {1}))))"


@pytest.mark.parametrize(
    "text",
    [
        NESTED.format("all", "a * b * c * d >= 0"),
        NESTED.format("exists", "a * b * c * d < 0"),
        NESTED.format("map", "a * b * c * d") + ".size() == 40",
        NESTED.format("all", "a * b * c * d >= 0").replace("l.", f"{FORTY}."),
    ],
)
def test_a_loop_in_a_loop_in_a_loop_in_a_loop_is_an_error_soon(text: str) -> None:
    began = time.monotonic()
    result = judged(text, {"l": FORTY})
    assert time.monotonic() - began < 1
    assert not result.is_true
    assert result.error is not None
    assert "budget" in result.error


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("(" * 5000 + "true" + ")" * 5000, id="5,000 parentheses"),
        pytest.param("[" * 5000 + "]" * 5000 + " == []", id="5,000 brackets"),
        pytest.param("{'a': " * 5000 + "1" + "}" * 5000 + " == {}", id="5,000 braces"),
        pytest.param("true ? (" * 5000 + "true" + ") : false" * 5000, id="5,000 choices"),
        pytest.param("hub" + ".a" * 5000, id="5,000 fields"),
        pytest.param(" + ".join(["'a'"] * 5000) + " == ''", id="5,000 texts added"),
        pytest.param(" + ".join(["hub"] * 400) + " == ''", id="400 large texts added"),
    ],
)
def test_a_huge_expression_is_an_error_soon(text: str) -> None:
    began = time.monotonic()
    refused(text, "hub")
    assert time.monotonic() - began < 1


def test_a_regular_expression_takes_linear_time() -> None:
    began = time.monotonic()
    assert not judged("hub.matches('^(a+)+$')", {"hub": "a" * 100_000 + "b"}).is_true
    assert time.monotonic() - began < 1


def test_the_deepest_value_is_taken_and_one_level_more_is_not() -> None:
    refuse_oversized("hub", deep_json(MAX_VALUE_DEPTH))
    with pytest.raises(ExpressionError, match="'hub' is nested deeper than 100 levels"):
        refuse_oversized("hub", deep_json(MAX_VALUE_DEPTH + 1))


def test_the_deepest_value_that_is_taken_can_be_evaluated() -> None:
    assert not judged("hub == 1", {"hub": deep_json(MAX_VALUE_DEPTH)}).is_true


def test_depth_is_judged_without_recursion() -> None:
    value: object = 1
    for _ in range(100_000):
        value = {"a": [value]}
    try:
        with pytest.raises(ExpressionError, match="deeper"):
            refuse_oversized("hub", value)
    finally:
        while isinstance(value, dict):  # taken apart from outside, or freeing it would recurse
            value = value["a"].pop()


def test_a_value_with_too_many_parts_is_refused() -> None:
    refuse_oversized("hub", [0] * (MAX_VALUE_NODES - 1))
    with pytest.raises(ExpressionError, match="'hub' is too large for a rule"):
        refuse_oversized("hub", [0] * MAX_VALUE_NODES)


@pytest.mark.parametrize("one_more", ["x" * (MAX_TEXT_CHARS + 1), {"x" * MAX_TEXT_CHARS: "y"}, ["x" * 1024] * 1025])
def test_a_value_with_too_much_text_is_refused(one_more: object) -> None:
    refuse_oversized("hub", "x" * MAX_TEXT_CHARS)
    with pytest.raises(ExpressionError, match="'hub' is too large for a rule"):
        refuse_oversized("hub", one_more)


@pytest.mark.parametrize(
    "text",
    [
        "['aaaaaaaaaaaaaaaa']" + ".map(a,a+a)" * 22 + ".size()==1",
        "[l].map(a, a+a).size() == 1",
        "l.exists(a, size(s + s) > 1)",
        "l.all (a, ('+' + s) != '')",
        " + ".join(["s"] * 18) + " == ''",
    ],
)
def test_what_could_use_up_the_memory_by_adding_is_refused_when_compiled(text: str) -> None:
    with pytest.raises(ExpressionError, match="addition"):
        compile_expression(text, ["l", "s"])


def test_a_plus_inside_text_is_no_addition() -> None:
    assert compile_expression("l.exists(a, a == 'c++') && l.all(b, b != \"+\")", ["l"]).evaluate({"l": ["c++"]}) is True


def test_text_with_a_nul_is_refused_because_the_library_would_cut_it() -> None:
    for value in ("ok\0evil", {"a\0": 1}, [["\0"]]):
        with pytest.raises(ExpressionError, match="NUL"):
            refuse_oversized("x", value)


def test_an_undeclared_name_with_a_field_is_pointed_at_where_it_starts() -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression("hub.x == 1 && hbu.status.code == 'ok'", ["hub"])
    assert (caught.value.line, caught.value.column) == (1, 15)
    assert "did you mean 'hub'?" in caught.value.message
