"""The items of a run: what `for_each` comes to over the context, checked before anything of it is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from activity_core.errors import ExpressionError
from activity_core.ports import NewItem
from activity_core.rule import compile_expression, permit_key_of, refuse_oversized
from activity_plumbing.text import stored_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from activity_core.definition.model import Definition, ForEach
    from activity_core.shell.capture import Redactor

MOST_ITEMS = 10_000
LONGEST_KEY = 200


def choose_items(definition: Definition, names: Mapping[str, object], redactor: Redactor) -> list[NewItem]:
    """The items of a definition with `for_each`, in the order of the list, without secrets.

    `names` are what its rule may use. Raises ExpressionError for what is no list or too long a one, for a key
    that is no short text or not unique, and for a `key_expr` that comes to no permit key.
    """
    each = definition.for_each
    assert each is not None
    values = compile_expression(each.items, names).evaluate(names)
    if not isinstance(values, list):
        raise ExpressionError(f"items came to {_shown(values)}, not to a list")
    if len(values) > MOST_ITEMS:
        raise ExpressionError(f"items came to a list of {len(values):,}; at most {MOST_ITEMS:,} are run")
    refuse_oversized("for_each.items", values)
    items: list[NewItem] = []
    places: dict[str, int] = {}
    for place, value in enumerate(values, start=1):
        key = redactor.text(_key(each, {**names, each.name: value}, place))
        if key in places:
            raise ExpressionError(f"items {places[key]} and {place} have one key, {key!r}")
        places[key] = place
        permit_key = _permit_key(definition, each, names, value, key)
        items.append(
            NewItem(
                key=key,
                item_json=stored_json(redactor.value(value)),
                permit_key=permit_key and redactor.text(permit_key),
            )
        )
    return items


def _key(each: ForEach, names: Mapping[str, object], place: int) -> str:
    """The key of one item; whole numbers are written out, as many systems name their things by number."""
    try:
        key = compile_expression(each.key, names).evaluate(names)
    except ExpressionError as failure:
        raise ExpressionError(f"the key of item {place}: {failure.message}") from failure
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    if not isinstance(key, str):
        raise ExpressionError(f"the key of item {place} came to {_shown(key)}, not to text or a whole number")
    if not 1 <= len(key) <= LONGEST_KEY or not key.isprintable():  # it stands in logs and tables
        raise ExpressionError(f"the key of item {place}, {key[:40]!r}, must be 1 to {LONGEST_KEY} printable characters")
    return key


def _permit_key(
    definition: Definition, each: ForEach, names: Mapping[str, object], value: object, key: str
) -> str | None:
    concurrency = definition.instruction.concurrency
    if concurrency is None or concurrency.key_expr is None:
        return None if concurrency is None else concurrency.key
    known = {name: names[name] for name in ("event", "slot") if name in names}
    try:
        return permit_key_of(concurrency.key_expr, {**known, each.name: value})
    except ExpressionError as failure:
        raise ExpressionError(f"concurrency.key_expr of item {key!r}: {failure.message}") from failure


def _shown(value: object) -> str:
    text = stored_json(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
