"""Times as operators write them: so long ago (``90m``, ``1h30m``, ``2d``), ``now``, or RFC 3339; and sizes and durations."""

import datetime as dt
import re

SECOND_US = 1_000_000
UNITS_US = {
    "us": 1,
    "ms": 1_000,
    "s": SECOND_US,
    "m": 60 * SECOND_US,
    "h": 3_600 * SECOND_US,
    "d": 86_400 * SECOND_US,
    "w": 7 * 86_400 * SECOND_US,
}
MAX_US = 2**53
"""The year 2255: what JSON's numbers hold exactly."""
UNITS_BYTES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SPAN = re.compile(r"(?:\d{1,12}(?:\.\d{1,6})?(?:us|ms|s|m|h|d|w))+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d|w)", re.ASCII)
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt_](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d))?", re.ASCII
)
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s?([A-Za-z]{0,3})", re.ASCII)


def span_us(text: str) -> int | None:
    """``1h30m`` in microseconds; None where it is no length of time."""
    if not _SPAN.fullmatch(text):
        return None
    total = sum(round(float(amount) * UNITS_US[unit]) for amount, unit in _PART.findall(text))
    return total if total <= MAX_US else None


def instant_us(text: str, now_us: int) -> int | None:
    """``1h`` as that long before ``now_us``; a day or an RFC 3339 time as itself; None where it is neither."""
    if text.lower() == "now":
        return now_us
    ago = span_us(text)
    if ago is not None:
        return max(0, now_us - ago)
    found = _RFC3339.fullmatch(text)
    if found is None:
        return None
    day, clock, fraction, zone = found.groups()
    try:
        at = dt.datetime.fromisoformat(f"{day}T{clock or '00:00'}{(zone or 'Z').upper()}")
        whole = round((at - _EPOCH) / dt.timedelta(microseconds=1))
    except (ValueError, OverflowError):
        return None
    whole += int((fraction or "0").ljust(6, "0")[:6])
    return whole if 0 <= whole <= MAX_US else None


def show_instant(us: int) -> str:
    """RFC 3339 in UTC, with microseconds."""
    return (_EPOCH + dt.timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def show_span(us: int) -> str:
    """``5400000000`` as ``90m``: in the largest unit that it is a whole number of."""
    unit = next(unit for unit in ("w", "d", "h", "m", "s", "ms", "us") if us % UNITS_US[unit] == 0)
    return f"{us // UNITS_US[unit]}{unit}"


def size_bytes(text: str) -> int | None:
    """``2GiB`` or ``1500`` in bytes; None where it is no size."""
    found = _SIZE.fullmatch(text)
    if found is None or found[2].lower() not in UNITS_BYTES:
        return None
    return (
        round(float(found[1]) * UNITS_BYTES[found[2].lower()])
        if found[2] or "." in found[1]
        else int(found[1])
    )
