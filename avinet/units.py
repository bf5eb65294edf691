"""Sizes and times with their units in their names, and how both are shown to people."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

MINUTE_S = 60.0
HOUR_S = 60 * MINUTE_S
DAY_S = 24 * HOUR_S
YEAR_S = 365 * DAY_S


def show_bytes(count: int) -> str:
    """``1536`` as ``1.5 KiB``."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024 or unit == "GiB":
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError  # pragma: no cover - the loop always returns


def show_duration(seconds: float) -> str:
    """``93784`` as ``1d 2h``; the two largest units, enough to judge an age by."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    left = int(seconds)
    parts: list[str] = []
    for letter, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount}{letter}")
    return " ".join(parts[:2])
