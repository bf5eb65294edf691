"""Lines of request logs as Envoy writes them, for tests of what takes them in."""

import json
import uuid
from datetime import UTC, datetime

BASE_US = 1_795_780_800_000_000
"""2026-11-27T12:00:00Z but for the zone; any time does."""


def service(number):
    """A virtual service's UUID."""
    return f"virtualservice-{uuid.UUID(int=number)}"


def line(number, at_us=BASE_US, **fields):
    """One line of the virtual service ``number``."""
    at = datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    head = {"_time": f"{at}.{at_us % 1_000_000:06d}Z", "_vs": service(number)}
    return json.dumps({**head, **fields}, separators=(",", ":")).encode() + b"\n"
