"""What is counted of a virtual service, a pool and a server, and in which order the counts travel.

Counts travel and are kept as rows of integers, so that a report is short.  An order only grows at its end: a peer of
another version leaves out what it does not know, and what is left out is 0.
"""

from collections.abc import Sequence

SERVICE_COUNTERS = (
    "requests",
    "connections_total",
    "bytes_in",
    "bytes_out",
    "responses_1xx",
    "responses_2xx",
    "responses_3xx",
    "responses_4xx",
    "responses_5xx",
)
"""Bytes are those of clients: in from them, out to them."""
POOL_COUNTERS = (
    *SERVICE_COUNTERS,
    "retries",
    "connect_failures",
    "timeouts",
    "no_server",
    "refused_by_limit",
)
"""Bytes are those of servers: in from them, out to them."""
SERVER_COUNTERS = ("requests", "errors", "connect_failures")

SERVICE_KIND = "virtualservice"
POOL_KIND = "pool"
SERVER_KIND = "server"

COUNTERS = {SERVICE_KIND: SERVICE_COUNTERS, POOL_KIND: POOL_COUNTERS, SERVER_KIND: SERVER_COUNTERS}
"""By what is counted of."""

MAX_COUNT = 2**53 - 1
"""The largest integer that JSON's readers keep exactly: 9 PB, or a request each microsecond for 285 years."""


def fitted(counts: Sequence[int], kind: str) -> tuple[int, ...]:
    """``counts`` as long as this version's order: what a newer peer adds is cut off, what an older lacks is 0."""
    length = len(COUNTERS[kind])
    return tuple(counts[:length]) + (0,) * (length - len(counts))
