"""CloudEvents 1.0 as our own values; the format itself is the library's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from activity_plumbing.clock import to_datetime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from activity_plumbing.clock import Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event; `source` and `id` together are its identity for ever. `data` is JSON-like."""

    id: str
    source: str
    type: str
    time: Instant
    data: Mapping[str, object]
    subject: str | None = None

    def to_json(self) -> str:
        """The event in the JSON format (structured mode). Raises ValueError for numbers that JSON does not know.

        >>> event = Event(id="1", source="/hub", type="org.example.done", time=0, data={})
        >>> event.to_json()[:49]
        '{"id": "1", "source": "/hub", "type": "org.exampl'
        """
        from cloudevents.core.formats.json import JSONFormat
        from cloudevents.core.v1.event import CloudEvent

        json.dumps(self.data, allow_nan=False)
        attributes = {
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "specversion": "1.0",
            "time": to_datetime(self.time),
            "datacontenttype": "application/json",
        }
        if self.subject is not None:
            attributes["subject"] = self.subject
        return JSONFormat().write(CloudEvent(attributes, dict(self.data))).decode()
