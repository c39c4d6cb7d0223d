"""Text for a terminal: safe to show, and times in the zone of whoever looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from activity_plumbing.clock import to_datetime

if TYPE_CHECKING:
    from activity_plumbing.clock import Instant


def printable(text: str) -> str:
    """The text without control characters, which could steer a terminal; tabs and line ends stay."""
    return "".join(character if character.isprintable() or character in "\n\t" else "�" for character in text)


def local_time(instant: Instant | None) -> str:
    """The time in this machine's zone, to the second."""
    return "-" if instant is None else to_datetime(instant).astimezone().strftime("%Y-%m-%d %H:%M:%S%z")
