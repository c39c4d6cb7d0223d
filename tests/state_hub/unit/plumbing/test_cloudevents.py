"""Events as JSON, held against CloudEvents 1.0 and its JSON format."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_plumbing.clock import Instant
from activity_plumbing.cloudevents import Event

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
events = st.builds(
    Event,
    id=names,
    source=st.just("/hub"),
    type=names,
    time=st.integers(0, 4_000_000_000_000_000).map(Instant),
    data=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), json_values, max_size=4),
    subject=st.none() | names,
)


@settings(deadline=None)
@given(events)
def test_the_json_holds_the_required_attributes_and_the_data_as_json(event: Event) -> None:
    told = json.loads(event.to_json())
    assert told["specversion"] == "1.0"
    assert (told["id"], told["source"], told["type"]) == (event.id, event.source, event.type)
    assert told["data"] == event.data and "data_base64" not in told
    assert told["datacontenttype"] == "application/json"
    assert told.get("subject") == event.subject and ("subject" in told) == (event.subject is not None)
    assert all(re.fullmatch("[a-z0-9]+", name) for name in told if name != "data_base64")


@settings(deadline=None)
@given(events)
def test_the_time_is_rfc_3339_and_exact_to_the_microsecond(event: Event) -> None:
    text = json.loads(event.to_json())["time"]
    assert RFC3339.fullmatch(text)
    read = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    assert (read.days * 86_400 + read.seconds) * 1_000_000 + read.microseconds == event.time


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_a_number_that_json_does_not_know_is_never_written(number: float) -> None:
    event = Event(id="1", source="/hub", type="t", time=Instant(0), data={"x": number})
    try:
        text = event.to_json()
    except ValueError:
        return
    assert not re.search("Infinity|NaN", text)
