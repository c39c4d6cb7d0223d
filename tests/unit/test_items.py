"""What `for_each` comes to: the list, its keys, its permit keys, and what is no list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from activity_core.definition.parse import parse
from activity_core.errors import ExpressionError
from activity_core.items import LONGEST_KEY, MOST_ITEMS, choose_items
from activity_core.shell.capture import Redactor
from activity_plumbing.clock import parse_instant, to_datetime

if TYPE_CHECKING:
    from activity_core.definition.model import Definition
    from activity_core.ports import NewItem

SLOT = to_datetime(parse_instant("2026-11-23T12:00Z"))


def definition(key: str = "string(one)", concurrency: str = "") -> Definition:
    text = (
        "id: t.a\ntrigger: {trigger_type: cron, cron_expression: '@daily'}\n"
        f'for_each: {{items: things, as: one, key: "{key}"}}\n'
        f"instruction: {{kind: shell, cmd: 'true'{concurrency}}}\n"
    )
    return parse(text.encode(), "a.yaml")[0]


def chosen(things: object, *args: str, secrets: tuple[str, ...] = ()) -> list[NewItem]:
    return choose_items(definition(*args), {"things": things, "slot": SLOT}, Redactor(secrets))


def test_items_keep_the_order_of_their_list() -> None:
    assert [item.key for item in chosen(["b", "a", "c"])] == ["b", "a", "c"]


def test_a_whole_number_is_a_key_as_it_is_written() -> None:
    assert [item.key for item in chosen([{"id": 7}, {"id": -1}], "one.id")] == ["7", "-1"]


@pytest.mark.parametrize("value", [True, 1.5, None, ["a"], {"a": 1}])
def test_no_other_value_is_a_key(value: object) -> None:
    with pytest.raises(ExpressionError, match="the key of item 1 came to"):
        chosen([{"id": value}], "one.id")


def test_a_key_may_use_the_context_and_the_slot() -> None:
    assert chosen(["a"], "one + ' of ' + string(things.size()) + ' in ' + string(slot.getFullYear())")[0].key == (
        "a of 1 in 2026"
    )


def test_a_key_that_is_too_long_is_refused() -> None:
    assert chosen(["x" * LONGEST_KEY])
    with pytest.raises(ExpressionError, match="printable characters"):
        chosen(["x" * (LONGEST_KEY + 1)])


def test_a_list_that_is_too_long_is_refused() -> None:
    assert len(chosen(list(range(MOST_ITEMS)))) == MOST_ITEMS
    with pytest.raises(ExpressionError, match="at most 10,000 are run"):
        chosen(list(range(MOST_ITEMS + 1)))


def test_every_item_has_the_permit_key_of_its_definition_or_one_of_its_own() -> None:
    assert [item.permit_key for item in chosen(["a", "b"])] == [None, None]
    literal = ", concurrency: {key: disk}"
    assert [item.permit_key for item in chosen(["a", "b"], "one", literal)] == ["disk", "disk"]
    of_its_own = ", concurrency: {key_expr: one.repo}"
    things = [{"repo": "x", "id": 1}, {"repo": "y", "id": 2}]
    assert [item.permit_key for item in chosen(things, "one.id", of_its_own)] == ["x", "y"]


def test_a_permit_key_that_is_none_names_its_item() -> None:
    with pytest.raises(ExpressionError, match=r"concurrency\.key_expr of item 'a': a permit key must be text"):
        chosen(["a"], "one", ", concurrency: {key_expr: one.size()}")


def test_secrets_are_taken_out_of_value_key_and_permit_key() -> None:
    (item,) = chosen([{"url": "x-t0psecret"}], "one.url", ", concurrency: {key_expr: one.url}", secrets=("t0psecret",))
    assert "t0psecret" not in f"{item}"
