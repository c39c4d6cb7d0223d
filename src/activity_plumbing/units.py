"""Durations and sizes as people write them."""

from __future__ import annotations

import re

_UNITS_US = {
    "us": 1,
    "ms": 1000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
DURATION_PATTERN = r"^\s*(\d+(\.\d+)?(us|ms|s|m|h|d|w)\s*)+$"
_DURATION_PART = re.compile(r"\s*(\d+(?:\.\d+)?)(us|ms|s|m|h|d|w)\s*")

SIZE_PATTERN = r"^\d+(\.\d+)?[KMGT]?$"
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_LONGEST_US = 3660 * _UNITS_US["d"]


def parse_duration_us(text: str) -> int:
    """Microseconds of a duration such as ``90s``, ``1h30m``, ``0s``. Raises ValueError with a hint.

    >>> parse_duration_us("1h30m") == 90 * 60 * 1_000_000
    True
    """
    end, total = 0, 0.0
    while end < len(text):
        part = _DURATION_PART.match(text, end)
        if part is None:
            raise ValueError(f"{text!r} is not a duration; write for example 30s, 5m, 1h30m or 7d")
        total += float(part[1]) * _UNITS_US[part[2]]
        end = part.end()
    if not text.strip():
        raise ValueError("a duration is empty; write for example 30s, 5m, 1h30m or 7d")
    if total > _LONGEST_US:
        raise ValueError(f"{text!r} is longer than ten years")
    return round(total)


def format_duration(duration_us: int) -> str:
    """The duration for people, two units at most.

    >>> format_duration(90_000_000), format_duration(1500), format_duration(0), format_duration(2_500_000)
    ('1m30s', '1.5ms', '0s', '2.5s')
    """
    if duration_us < 0:
        return "-" + format_duration(-duration_us)
    if duration_us < 999_500:
        return f"{duration_us / 1000:.3g}ms" if duration_us else "0s"
    if duration_us < 59_950_000:
        return f"{duration_us / 1e6:.3g}s"
    seconds = round(duration_us / 1e6)
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def parse_size(text: str) -> int:
    """Bytes of a size such as ``512M`` or ``1G`` (powers of 1024). Raises ValueError.

    >>> parse_size("1.5K")
    1536
    """
    if not re.fullmatch(SIZE_PATTERN.strip("^$"), text):
        raise ValueError(f"{text!r} is not a size; write for example 512M or 1G")
    unit = text[-1] if text[-1].isalpha() else ""
    return round(float(text.removesuffix(unit)) * _SIZES[unit])
