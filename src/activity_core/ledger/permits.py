"""Who may start: permits, overlap queues and the items of a parent, all counted on the run rows themselves.

The queries are small and each is answered by an index, so what a grant costs depends on what it lets through, not on
how long the queues are. See docs/design/0002-permits-are-run-rows.md.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from activity_core.ledger.schema import is_at_work, is_holding, is_waiting, runs
from activity_core.run import RunId
from activity_plumbing.database import execute_rendered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from activity_plumbing.clock import Instant

_KEYS_AT_ONCE = 100
"""Of one parent so many permit keys are looked at; items behind them are, when one of these has been let through."""
_PAGE = 50
_NAMES_AT_ONCE = 16
_NO_BOUND = 1 << 30
"""More than any parent has items."""

_each = runs.alias("each")
_rival = runs.alias("rival")
_COLUMNS = (
    _each.c.id,
    _each.c.definition_id,
    _each.c.is_serial,
    _each.c.attempt,
    _each.c.permit_key,
    _each.c.permit_limit,
    _each.c.parent_run,
    _each.c.max_parallel,
    _each.c.slot,
)


def _alone_in(definition: str) -> tuple[sa.ColumnElement[bool], ...]:
    """True for the definition's waiting runs that are no items."""
    return (_each.c.definition_id == sa.bindparam(definition), is_waiting(_each), _each.c.parent_run.is_(None))


# -- definitions --

_FIRST = (
    sa.select(*_COLUMNS)
    .where(*_alone_in("definition"), _each.c.is_serial)
    .order_by(_each.c.attempt.desc(), _each.c.slot, _each.c.id)
    .limit(1)
)
"""A serial definition lets its runs go in this order; none goes before its first."""
_is_loose = (sa.not_(_each.c.is_serial), _each.c.permit_key.is_(None))
_A_LOOSE_ONE = sa.select(*_COLUMNS).where(*_alone_in("definition"), *_is_loose).limit(1)
_WAITING = sa.union_all(sa.select(_FIRST.subquery()), sa.select(_A_LOOSE_ONE.subquery()))
"""The first serial run of a definition that waits, and one of those that nothing can hold up."""
_GRANT_LOOSE = (
    sa.update(runs)
    .where(runs.c.id.in_(sa.select(_each.c.id).where(*_alone_in("definition"), *_is_loose)), is_waiting(runs))
    .values(granted_at=sa.bindparam("at"))
    .returning(runs.c.id, runs.c.slot)
)
_THAT_WAIT = sa.union_all(
    *(
        sa.select(sa.bindparam(f"definition_{place}", type_=sa.Text)).where(
            sa.exists(sa.select(_each.c.id).where(*_alone_in(f"definition_{place}")))
        )
        for place in range(_NAMES_AT_ONCE)
    )
)
"""Of some definitions those that have anything waiting."""
_HOLDER = (
    sa.select(_rival.c.id)
    .where(_rival.c.definition_id == sa.bindparam("definition"), is_holding(_rival), _rival.c.id != sa.bindparam("me"))
    .limit(1)
)
"""A run in progress that holds its definition, one between two attempts included."""
_GRANT = sa.update(runs).where(runs.c.id == sa.bindparam("run"), is_waiting(runs)).values(granted_at=sa.bindparam("at"))


# -- keys --

_KEY = sa.select(
    sa.select(sa.func.count())
    .where(_rival.c.permit_key == sa.bindparam("key"), is_at_work(_rival))
    .scalar_subquery()
    .label("held"),
    sa.select(sa.func.max(_each.c.permit_limit))
    .where(_each.c.permit_key == sa.bindparam("key"), is_waiting(_each))
    .scalar_subquery()
    .label("top"),
)
"""How many runs hold a key, and the highest limit of those that wait for it: none of them goes above that."""
_LINE = (
    sa.select(*_COLUMNS)
    .where(
        _each.c.permit_key == sa.bindparam("key"),
        is_waiting(_each),
        _each.c.slot >= sa.bindparam("slot"),
        (_each.c.slot > sa.bindparam("slot")) | (_each.c.id > sa.bindparam("after")),
        _each.c.permit_limit > sa.bindparam("held"),
    )
    .order_by(_each.c.slot, _each.c.id)
    .limit(_PAGE)
)
_LINE_WITHOUT = _LINE.where(
    sa.not_(_each.c.is_serial) | _each.c.definition_id.not_in(sa.bindparam("definitions", expanding=True)),
    _each.c.parent_run.is_(None) | _each.c.parent_run.not_in(sa.bindparam("parents", expanding=True)),
)


# -- items --

_is_of_parent = (_each.c.parent_run == sa.bindparam("parent"), is_waiting(_each))
_BOUND = sa.select(_each.c.max_parallel).where(*_is_of_parent).limit(1)
_siblings = sa.select(sa.func.count()).where(_rival.c.parent_run == sa.bindparam("parent"))
_SIBLINGS = sa.select(
    # two counts, as SQLite does not look for both states in one index
    _siblings.where(_rival.c.state == sa.literal_column("'running'")).scalar_subquery()
    + _siblings.where(
        _rival.c.state == sa.literal_column("'pending'"), _rival.c.granted_at.is_not(None)
    ).scalar_subquery()
)
_GRANT_ITEMS = (
    sa.update(runs)
    .where(
        runs.c.id.in_(
            sa.select(_each.c.id)
            .where(*_is_of_parent, _each.c.permit_key.is_(None))
            .order_by(_each.c.id)
            .limit(sa.bindparam("room"))
        ),
        is_waiting(runs),
    )
    .values(granted_at=sa.bindparam("at"))
    .returning(runs.c.id, runs.c.slot)
)
_KEYS = (
    sa.select(_each.c.permit_key)
    .where(*_is_of_parent, _each.c.permit_key.is_not(None))
    .group_by(_each.c.permit_key)
    .order_by(sa.func.min(_each.c.id))
    .limit(_KEYS_AT_ONCE)
)


def grant(
    connection: sa.Connection,
    definitions: Iterable[str],
    keys: Iterable[str],
    at: Instant,
    parents: Iterable[RunId] = (),
) -> list[RunId]:
    """Lets through what waits for these definitions, permit keys or parents and has nothing in its way, FIFO by slot.

    A serial run waits while its definition has another run in progress (one between two attempts counts); a
    run with a permit key waits while `permit_limit` runs hold it; an item waits while `max_parallel` of its parent's
    are at work. Permits are the run rows themselves.
    """
    granting = _Granting(connection, at)
    wanted = dict.fromkeys(sorted(set(keys)))
    for definition in granting.that_wait(sorted(set(definitions))):
        key = granting.let_definition_through(definition)
        if key is not None:
            wanted[key] = None
    for key in wanted:
        granting.let_key_through(key)
    for parent in sorted(set(parents)):
        granting.let_items_through(parent)
    return [RunId(run_id) for _, run_id in sorted(granting.granted)]


class _Granting:
    """One look at what waits. While it lasts nothing is given back, so what is in the way stays in the way."""

    def __init__(self, connection: sa.Connection, at: Instant) -> None:
        self._connection = connection
        self._at = at
        self.granted: list[tuple[int, int]] = []
        """Slot and number of each run let through."""
        self._first: dict[str, sa.Row[Any] | None] = {}
        """The only run of each serial definition that may go; None: something holds the definition."""
        self._rooms: dict[RunId, int] = {}
        self._held: dict[str, int] = {}

    def that_wait(self, definitions: list[str]) -> list[str]:
        """Those with anything waiting; of a few nothing is asked."""
        if len(definitions) <= 2:
            return definitions
        waiting: list[str] = []
        for start in range(0, len(definitions), _NAMES_AT_ONCE):
            some = definitions[start : start + _NAMES_AT_ONCE]
            padded = some + [""] * (_NAMES_AT_ONCE - len(some))
            waiting += self._ask(_THAT_WAIT, {f"definition_{n}": name for n, name in enumerate(padded)}).scalars()
        return waiting

    def let_definition_through(self, definition: str) -> str | None:
        """Grants what waits for this definition alone. The key that the first of its queue waits for, if any."""
        first = None
        has_loose = False
        for row in self._ask(_WAITING, {"definition": definition}).all():
            if row.is_serial:
                first = row
            else:
                has_loose = True
        if has_loose:
            self._note(self._ask(_GRANT_LOOSE, {"definition": definition, "at": self._at}))
        first = self._first[definition] = self._unless_held(first)
        if first is not None and first.permit_key is None:
            self._let_through(first)
        return None if first is None else first.permit_key

    def let_key_through(self, key: str) -> None:
        """Grants what waits for this key, as far as its permits reach."""
        if key in self._held:
            return
        found = self._ask(_KEY, {"key": key}).one()
        self._held[key], top = found.held, found.top
        if top is None or self._held[key] >= top:
            return
        for row in self._line(key):
            if row.permit_limit > self._held[key] and (row.parent_run is None or self._room(row) > 0):
                self._let_through(row)
            if self._held[key] >= top:
                return

    def let_items_through(self, parent: RunId) -> None:
        """Grants items of this parent: those without a key, then those with one."""
        bound = self._ask(_BOUND, {"parent": parent}).one_or_none()
        if bound is None:
            return
        room = self._room_of(parent, bound.max_parallel)
        if room > 0:
            self._rooms[parent] -= self._note(self._ask(_GRANT_ITEMS, {"parent": parent, "room": room, "at": self._at}))
        if self._rooms[parent] <= 0:
            return
        for key in self._ask(_KEYS, {"parent": parent}).scalars().all():
            self.let_key_through(key)
            if self._rooms[parent] <= 0:
                return

    def _line(self, key: str) -> Iterator[sa.Row[Any]]:
        """What waits for a key, in its order; of serial definitions only the first, of full parents nothing."""
        later: list[tuple[int, int, sa.Row[Any]]] = []  # firsts of their definitions that stand behind others of them
        definitions: set[str] = set()
        parents: set[RunId] = set()
        slot, after = -(1 << 62), 0
        while True:
            names: dict[str, Any] = {"key": key, "slot": slot, "after": after, "held": self._held[key]}
            if definitions or parents:
                names |= {"definitions": sorted(definitions), "parents": sorted(parents)}
                rows: Sequence[sa.Row[Any]] = list(self._connection.execute(_LINE_WITHOUT, names))
            else:
                rows = list(self._ask(_LINE, names))
            for row in rows:
                slot, after = row.slot, row.id
                while later and later[0][:2] < (slot, after):
                    yield heappop(later)[2]
                if row.parent_run is not None:
                    if self._room(row) > 0:
                        yield row
                    if self._room(row) <= 0:
                        parents.add(row.parent_run)
                elif not row.is_serial:
                    yield row
                elif row.definition_id not in definitions:
                    definitions.add(row.definition_id)
                    first = self._first_of(row.definition_id)
                    if first is not None and first.permit_key == key:
                        heappush(later, (first.slot, first.id, first))
            while later and later[0][:2] <= (slot, after):
                yield heappop(later)[2]
            if len(rows) < _PAGE:
                break
        while later:
            yield heappop(later)[2]

    def _first_of(self, definition: str) -> sa.Row[Any] | None:
        if definition not in self._first:
            self._first[definition] = self._unless_held(self._ask(_FIRST, {"definition": definition}).one_or_none())
        return self._first[definition]

    def _unless_held(self, row: sa.Row[Any] | None) -> sa.Row[Any] | None:
        """The first of a queue, if its definition is free: an attempt after the first finds it held by itself."""
        if row is None or row.attempt > 0:
            return row
        holder = self._ask(_HOLDER, {"definition": row.definition_id, "me": row.id}).first()
        return row if holder is None else None

    def _room(self, item: sa.Row[Any]) -> int:
        return self._room_of(item.parent_run, item.max_parallel)

    def _room_of(self, parent: RunId, max_parallel: int | None) -> int:
        if parent not in self._rooms:
            at_work = 0 if max_parallel is None else self._ask(_SIBLINGS, {"parent": parent}).scalar_one()
            self._rooms[parent] = _NO_BOUND if max_parallel is None else max_parallel - at_work
        return self._rooms[parent]

    def _let_through(self, row: sa.Row[Any]) -> None:
        if row.is_serial:
            self._first[row.definition_id] = None
        if self._ask(_GRANT, {"run": row.id, "at": self._at}).rowcount != 1:
            return
        self.granted.append((row.slot, row.id))
        if row.permit_key is not None:
            self._held[row.permit_key] += 1
        if row.parent_run is not None:
            self._rooms[row.parent_run] -= 1

    def _note(self, found: sa.CursorResult[Any]) -> int:
        """Keeps what an UPDATE of several let through; their number."""
        through = [(row.slot, row.id) for row in found]
        self.granted += through
        return len(through)

    def _ask(self, statement: sa.Executable, names: Mapping[str, Any]) -> sa.CursorResult[Any]:
        return execute_rendered(self._connection, statement, [names])
