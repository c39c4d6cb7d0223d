"""The outbox: events stand in it exactly when the change they tell of does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from activity_plumbing.clock import Instant
from activity_plumbing.cloudevents import Event
from activity_plumbing.outbox import list_events, outbox_table, put_events, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

METADATA = sa.MetaData()
OUTBOX = outbox_table(METADATA)


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    made = sa.create_engine("sqlite://")
    METADATA.create_all(made)
    yield made
    made.dispose()


def event(number: int, subject: str | None = "é/T01") -> Event:
    return Event(id=f"e{number}", source="/hub", type="t", time=Instant(number), data={"n": number}, subject=subject)


def test_events_are_listed_in_order_with_what_they_said(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        put_events(connection, OUTBOX, [event(1), event(2, None)], Instant(5))
        put_events(connection, OUTBOX, [event(3)], Instant(7))
    with engine.connect() as connection:
        rows = list_events(connection, OUTBOX, is_sent=None, after=0, limit=10)
    assert [row.event_id for row in rows] == ["e1", "e2", "e3"]
    assert [row.subject for row in rows] == ["é/T01", "", "é/T01"]
    assert [row.created_at for row in rows] == [5, 5, 7]
    assert [row.event["data"] for row in rows] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert all(row.event["id"] == row.event_id and row.sent_at is None for row in rows)


def test_a_transaction_rolled_back_leaves_no_event(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        put_events(connection, OUTBOX, [event(1)], Instant(5))
        connection.rollback()
        assert waiting(connection, OUTBOX) == (0, None)


def test_an_event_stands_once_and_its_repetition_undoes_the_change_beside_it(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        put_events(connection, OUTBOX, [event(1)], Instant(5))
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        put_events(connection, OUTBOX, [event(2), event(1)], Instant(6))
    with engine.connect() as connection:
        assert waiting(connection, OUTBOX) == (1, 5)


def test_no_events_write_nothing(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        put_events(connection, OUTBOX, [], Instant(5))
        assert waiting(connection, OUTBOX) == (0, None)


def test_what_was_sent_waits_no_longer_and_pages_follow_one_another(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        put_events(connection, OUTBOX, [event(number) for number in range(1, 6)], Instant(5))
        connection.execute(sa.update(OUTBOX).where(OUTBOX.c.id <= 2).values(sent_at=9))
        assert waiting(connection, OUTBOX) == (3, 5)

        def ids(*, is_sent: bool | None, after: int = 0, limit: int = 10) -> list[int]:
            return [row.id for row in list_events(connection, OUTBOX, is_sent=is_sent, after=after, limit=limit)]

        assert ids(is_sent=True) == [1, 2]
        assert ids(is_sent=False) == [3, 4, 5]
        assert ids(is_sent=None, after=1, limit=2) == [2, 3]
        assert ids(is_sent=False, after=5) == []


def test_an_id_is_never_given_again_after_the_newest_row_is_gone(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        put_events(connection, OUTBOX, [event(1), event(2)], Instant(5))
        connection.execute(sa.delete(OUTBOX))
        put_events(connection, OUTBOX, [event(3)], Instant(6))
        (row,) = list_events(connection, OUTBOX, is_sent=None, after=0, limit=10)
    assert row.id == 3
