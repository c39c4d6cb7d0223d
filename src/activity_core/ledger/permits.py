"""Who may start: permits, overlap queues and the items of a parent, all counted on the run rows themselves.

See docs/design/0002-permits-are-run-rows.md.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from activity_core.ledger.schema import is_active, runs
from activity_core.run import RunId

if TYPE_CHECKING:
    from collections.abc import Iterable

    from activity_plumbing.clock import Instant

_rival = runs.alias("rival")
_first = runs.alias("first")


_KEYS_AT_ONCE = 100
"""Of one parent so many permit keys are looked at; items behind them are, when one of these has been let through."""


@lru_cache(maxsize=1)
def _candidates() -> sa.CompoundSelect[Any]:
    """Runs that wait, oldest slot first.

    Of a serial definition only its first, as the others cannot go before it; of a parent's items with one permit
    key one row for all of them. A row may come twice.
    """
    first_of_definition = (
        sa.select(_first.c.id)
        .where(
            _first.c.definition_id == runs.c.definition_id,
            is_active(_first),
            _first.c.state == "pending",
            _first.c.granted_at.is_(None),
            _first.c.is_serial,
        )
        .order_by(_first.c.attempt.desc(), _first.c.slot, _first.c.id)
        .limit(1)
        .scalar_subquery()
    )
    waits = (is_active(runs), runs.c.state == "pending", runs.c.granted_at.is_(None))
    has_key = runs.c.permit_key.in_(sa.bindparam("keys", expanding=True))
    columns = (
        runs.c.id,
        runs.c.definition_id,
        runs.c.is_serial,
        runs.c.attempt,
        runs.c.permit_key,
        runs.c.permit_limit,
        runs.c.parent_run,
        runs.c.max_parallel,
        runs.c.slot,
    )
    alone = sa.select(*columns).where(
        *waits, runs.c.parent_run.is_(None), sa.not_(runs.c.is_serial) | (runs.c.id == first_of_definition)
    )
    # only what the indexes hold is looked at until the few rows are known
    first_of_items = (
        sa.select(sa.func.min(runs.c.id).label("id"))
        .where(*waits, runs.c.parent_run.is_not(None))
        .group_by(runs.c.parent_run, runs.c.permit_key)
    )
    of_parents = first_of_items.where(runs.c.parent_run.in_(sa.bindparam("parents", expanding=True)))
    of_keys = first_of_items.where(has_key).subquery()
    of_parents_first = of_parents.order_by("id").limit(_KEYS_AT_ONCE).subquery()
    return sa.union_all(
        alone.where(runs.c.definition_id.in_(sa.bindparam("definitions", expanding=True))),
        alone.where(has_key),
        sa.select(*columns).join_from(of_keys, runs, runs.c.id == of_keys.c.id),
        sa.select(*columns).join_from(of_parents_first, runs, runs.c.id == of_parents_first.c.id),
    ).order_by("slot", "id")


_HELD = sa.select(sa.func.count()).where(
    _rival.c.permit_key == sa.bindparam("key"),
    is_active(_rival),
    (_rival.c.state == "running") | ((_rival.c.state == "pending") & _rival.c.granted_at.is_not(None)),
)
_HOLDER = (
    sa.select(_rival.c.id)
    .where(
        _rival.c.definition_id == sa.bindparam("definition"),
        _rival.c.id != sa.bindparam("me"),
        _rival.c.parent_run.is_(None),
        is_active(_rival),
        (_rival.c.state != "pending") | _rival.c.granted_at.is_not(None) | (_rival.c.attempt > 0),
    )
    .limit(1)
)
_GRANT = (
    sa.update(runs)
    .where(runs.c.id == sa.bindparam("run"), runs.c.state == "pending", runs.c.granted_at.is_(None))
    .values(granted_at=sa.bindparam("at"))
)
_SIBLINGS = sa.select(sa.func.count()).where(
    _rival.c.parent_run == sa.bindparam("parent"),
    (_rival.c.state == "running") | ((_rival.c.state == "pending") & _rival.c.granted_at.is_not(None)),
)
_GRANT_ITEMS = (
    sa.update(runs)
    .where(
        runs.c.id.in_(
            sa.select(_first.c.id)
            .where(
                _first.c.parent_run == sa.bindparam("parent"),
                _first.c.state == "pending",
                _first.c.granted_at.is_(None),
                _first.c.permit_key.is_not_distinct_from(sa.bindparam("key", type_=sa.Text)),
            )
            .order_by(_first.c.id)
            .limit(sa.bindparam("room"))
        ),
        runs.c.state == "pending",
        runs.c.granted_at.is_(None),
    )
    .values(granted_at=sa.bindparam("at"))
    .returning(runs.c.id)
)
_ROOM = 1 << 30
"""More than any parent has items."""


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
    granted: list[RunId] = []
    held: dict[str, int] = {}
    at_work: dict[RunId, int] = {}
    names = {"definitions": sorted(set(definitions)), "keys": sorted(set(keys)), "parents": sorted(set(parents))}
    for row in connection.execute(_candidates(), names).all():
        is_first_attempt = row.attempt == 0
        if row.is_serial and is_first_attempt:
            holder = connection.execute(_HOLDER, {"definition": row.definition_id, "me": row.id}).scalar()
            if holder is not None:
                continue
        room = 1
        if row.parent_run is not None:
            if row.max_parallel is not None and row.parent_run not in at_work:
                at_work[row.parent_run] = connection.execute(_SIBLINGS, {"parent": row.parent_run}).scalar_one()
            room = _ROOM if row.max_parallel is None else row.max_parallel - at_work[row.parent_run]
        key = row.permit_key
        if key is not None and room > 0:
            if key not in held:
                held[key] = connection.execute(_HELD, {"key": key}).scalar_one()
            room = min(room, row.permit_limit - held[key])
        if room <= 0:
            continue
        if row.parent_run is not None:
            through = _grant_items(connection, row, room, at)
        else:
            through = [row.id] if connection.execute(_GRANT, {"run": row.id, "at": at}).rowcount == 1 else []
        granted += through
        if key is not None:
            held[key] += len(through)
        if row.max_parallel is not None:
            at_work[row.parent_run] += len(through)
    return granted


def _grant_items(connection: sa.Connection, row: sa.Row[Any], room: int, at: Instant) -> list[RunId]:
    """Lets through the first items of a parent that wait with the permit key of `row`, at most `room` of them."""
    names = {"parent": row.parent_run, "key": row.permit_key, "room": room, "at": at}
    return [RunId(run_id) for run_id in sorted(connection.execute(_GRANT_ITEMS, names).scalars())]
