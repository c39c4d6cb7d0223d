"""Text for a terminal, safe to show and with times in the zone of whoever looks; and JSON text for the ledger."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from activity_plumbing.clock import to_datetime

if TYPE_CHECKING:
    from activity_plumbing.clock import Instant

encode_json = json.JSONEncoder(ensure_ascii=False, default=str).encode
"""What json.dumps does, without making an encoder each time."""


def stored_json(value: object) -> str:
    """JSON text that any database takes: half characters are written as escapes."""
    text = encode_json(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    """The text without control characters, which could steer a terminal; tabs and line ends stay."""
    return "".join(character if character.isprintable() or character in "\n\t" else "�" for character in text)


def local_time(instant: Instant | None) -> str:
    """The time in this machine's zone, to the second."""
    return "-" if instant is None else to_datetime(instant).astimezone().strftime("%Y-%m-%d %H:%M:%S%z")
