"""Request logs as a data plane writes them, made up but realistic: what the figures about logs are measured with.

Hosts, paths, clients and user agents are drawn by Zipf's law, sizes and durations from log-normal distributions, and
each request has a random id.  Clients keep their connections for a few requests, which come among those of all others,
and each has one user agent; so have requests to servers.  So a compressor finds what it would find in the real thing,
and no more.  The keys and their order are those of ``avinet.dataplane.envoy_access_log``.

Columns are drawn by numpy and lines joined by pyarrow: 300,000 lines a second, so that who reads them is measured.
"""

import functools
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PATHS = 5_000
CLIENTS = 20_000
BLOCK_LINES = 20_000
"""Drawn at once: 12 MiB."""
REQUESTS_A_CONNECTION = 4
"""On average, within a block.  A page is some 70 requests, by HTTP/1.1 over 6 connections a host (HTTP Archive)."""
UPSTREAM_CONNECTIONS = 400
"""That a data plane keeps open to servers."""
QUERY_SHARE = 0.2
"""Of requests, those whose path has a query."""
REQUEST_ID_BYTES = 36
_DASHES = (8, 13, 18, 23)
"""In a UUID (RFC 9562, 4)."""
_US = 1_000_000
_AGENT = (
    ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{n}.0.0.0 Safari/537.36", 30),
    ("Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{n}.0.0.0 Mobile Safari/537.36", 28),
    ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{n}.0.0.0 Safari/537.36", 8),
    ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_{n} like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.{n} Mobile/15E148 Safari/604.1", 16),
    ("Mozilla/5.0 (X11; Linux x86_64; rv:{n}.0) Gecko/20100101 Firefox/{n}.0", 3),
    ("okhttp/4.{n}.0", 8),
    ("python-requests/2.{n}.0", 4),
    ("Go-http-client/1.{n}", 3),
)  # fmt: skip
"""With their shares in percent: browsers as StatCounter counts them, about, and programs."""
_VERSIONS = 12
"""Of each that are in use, the newest most."""
_WORDS = (
    "api",
    "v1",
    "v2",
    "items",
    "users",
    "cart",
    "orders",
    "static",
    "img",
    "search",
    "login",
    "feed",
    "a",
)
_STATUS = ((200, 88), (304, 4), (302, 2), (404, 3), (403, 1), (500, 1), (503, 1))
_METHOD = (("GET", 85), ("POST", 12), ("PUT", 2), ("DELETE", 1))


@attrs.frozen
class LoggedService:
    """A virtual service that has logs."""

    uuid: str
    name: str
    host: str
    pool: str


def services(count: int, seed: int = 1) -> list[LoggedService]:
    """Some virtual services, always the same ones."""
    draw = random.Random(seed)
    return [
        LoggedService(
            f"virtualservice-{draw.getrandbits(32):08x}-0000-7000-8000-{n:012x}",
            f"shop-{n}",
            f"shop-{n}.example.com",
            f"shop-{n}-pool",
        )
        for n in range(count)
    ]


@attrs.define
class Words:
    """Some texts, each with its weight."""

    texts: pa.Array
    _up_to: Any
    """Sums of the weights, the last of them 1."""

    @classmethod
    def of(cls, texts: Sequence[str], weights: Sequence[float]) -> "Words":
        """``weights`` as they are."""
        sums = np.cumsum(weights)
        return cls(pa.array(texts, pa.string()), sums / sums[-1])

    @classmethod
    def zipf(cls, texts: Sequence[str]) -> "Words":
        """The first most often, the tenth a tenth as often."""
        return cls.of(texts, [1 / (n + 1) for n in range(len(texts))])

    def places(self, draw: np.random.Generator, size: int) -> pa.Array:
        """Of so many of them."""
        return pa.array(np.searchsorted(self._up_to, draw.random(size), side="right"))

    def some(self, draw: np.random.Generator, size: int) -> pa.Array:
        """So many of them."""
        return self.texts.take(self.places(draw, size))


@attrs.frozen
class Vocabulary:
    """What lines are made of."""

    paths: Words
    clients: Words
    agents: Words
    servers: Words
    methods: Words = attrs.field(factory=lambda: _weighted(_METHOD), init=False)
    statuses: Words = attrs.field(factory=lambda: _weighted(_STATUS), init=False)

    @classmethod
    def drawn(cls) -> "Vocabulary":
        """Texts to draw from, always the same."""
        draw = random.Random(1)
        paths = ["/" + "/".join(draw.choices(_WORDS, k=draw.randint(1, 4))) + f"/{n}" for n in range(PATHS)]
        clients = [".".join(map(str, draw.choices(range(1, 255), k=4))) for _ in range(CLIENTS)]
        agents = [
            (text.format(n=140 - version), share / (version + 1))
            for (text, share), version in itertools.product(_AGENT, range(_VERSIONS))
        ]
        servers = [f"10.20.{a}.{b}:8080" for a, b in itertools.product(range(4), range(1, 10))]
        return cls(
            Words.zipf(paths), Words.zipf(clients), _weighted(agents), Words.of(servers, [1] * len(servers))
        )


@functools.cache
def _vocabulary() -> Vocabulary:
    return Vocabulary.drawn()


def _weighted(pairs: Sequence[tuple[object, float]]) -> Words:
    return Words.of([str(text) for text, _ in pairs], [weight for _, weight in pairs])


@attrs.frozen
class _Parts:
    """Of a line, those that say which virtual service it is: one text a service."""

    chosen: Words
    """By number."""
    begin: pa.Array
    host: pa.Array
    pool: pa.Array
    end: pa.Array

    @classmethod
    def of(cls, among: Sequence[LoggedService], weights: Sequence[float]) -> "_Parts":
        def texts(form: str) -> pa.Array:
            return pa.array([form % attrs.asdict(service) for service in among], pa.string())

        return cls(
            Words.of([str(n) for n in range(len(among))], weights),
            texts('Z","_vs":"%(uuid)s","bytes_in":'),
            texts(',"flags":"-","host":"%(host)s","listener":"203.0.113.10:443","method":"'),
            texts('","pool":"%(pool)s","protocol":"HTTP/1.1","reason":"via_upstream","request_id":"'),
            texts('","vs":"%(name)s"}\n'),
        )


def blocks(
    count: int,
    among: Sequence[LoggedService],
    seed: int = 1,
    start_s: float = 1_790_000_000,
    per_s: float = 5_000,
    weights: Sequence[float] = (),
) -> Iterator[bytes]:
    """``count`` lines of NDJSON in blocks, ``per_s`` of them for each second of their own time.

    ``weights`` says how often each service is called; all alike when it is empty.
    """
    words, parts = _vocabulary(), _Parts.of(among, weights or [1] * len(among))
    draw = np.random.default_rng(seed)
    for first in range(0, count, BLOCK_LINES):
        size = min(BLOCK_LINES, count - first)
        after_us = (np.arange(first, first + size) * (_US / per_s)).astype(np.int64)
        yield _block(draw, words, parts, int(start_s * _US) + after_us + draw.integers(0, 200, size))


def _block(draw: np.random.Generator, words: Vocabulary, parts: _Parts, times_us: Any) -> bytes:
    """One line for each time."""
    size = len(times_us)
    opened = max(1, size // REQUESTS_A_CONNECTION)
    client = words.clients.places(draw, opened)
    connection = pa.array(draw.integers(0, opened, size))
    to_server = pa.array(draw.integers(0, UPSTREAM_CONNECTIONS, size))
    service = parts.chosen.places(draw, opened).take(connection)
    agents = words.agents.some(np.random.default_rng(CLIENTS), CLIENTS)
    method = words.methods.some(draw, size)
    sent = pc.if_else(pc.equal(method, "POST"), _numbers(draw.lognormal(6, 1.5, size)), "0")
    first_us = draw.lognormal(8.5, 1.2, size).astype(np.int64)
    query = pc.binary_join_element_wise("?q=", _hex(draw, size, 3), "")
    # Names in the order of the alphabet, as Envoy has them.
    lines = pc.binary_join_element_wise(
        '{"_time":"', _times(times_us), parts.begin.take(service), sent,
        ',"bytes_out":', _numbers(draw.lognormal(8, 1.5, size)),
        ',"client":"', words.clients.texts.take(client).take(connection),
        '","client_port":', _numbers(draw.integers(1024, 65536, opened)).take(connection),
        ',"connect_us":', _numbers(draw.integers(80, 901, UPSTREAM_CONNECTIONS)).take(to_server),
        ',"duration_us":', _numbers(first_us + draw.integers(20, 4001, size)),
        ',"first_byte_us":', _numbers(first_us),
        parts.host.take(service), method,
        '","path":"', words.paths.some(draw, size),
        pc.if_else(pa.array(draw.random(size) < QUERY_SHARE), query, ""),
        parts.pool.take(service), _request_ids(draw, size),
        '","server":"', words.servers.some(draw, UPSTREAM_CONNECTIONS).take(to_server),
        '","status":', words.statuses.some(draw, size),
        ',"tls_cipher":"TLS_AES_128_GCM_SHA256","tls_version":"TLSv1.3","user_agent":"',
        agents.take(client).take(connection), parts.end.take(service), "",
    )  # fmt: skip
    _, ends, octets = lines.buffers()
    return bytes(octets[: np.frombuffer(ends, np.int32)[size]])


def _numbers(values: Any) -> pa.Array:
    """Whole numbers as text."""
    return pa.array(values.astype(np.int64)).cast(pa.string())


def _fixed(octets: Any) -> pa.Array:
    """Rows of bytes as texts of one length."""
    size, width = octets.shape
    offsets = np.arange(0, (size + 1) * width, width, dtype=np.int32)
    return pa.StringArray.from_buffers(size, pa.py_buffer(offsets), pa.py_buffer(octets.tobytes()))


def _hex(draw: np.random.Generator, size: int, width: int) -> pa.Array:
    """Random numbers of ``width`` bytes."""
    return _fixed(_digits(draw, size, width))


def _digits(draw: np.random.Generator, size: int, width: int) -> Any:
    return np.frombuffer(draw.bytes(size * width).hex().encode(), np.uint8).reshape(size, 2 * width)


def _request_ids(draw: np.random.Generator, size: int) -> pa.Array:
    """UUIDs, version 4."""
    ids = np.full((size, REQUEST_ID_BYTES), ord("-"), np.uint8)
    ids[:, [n for n in range(REQUEST_ID_BYTES) if n not in _DASHES]] = _digits(draw, size, 16)
    ids[:, 14], ids[:, 19] = ord("4"), ord("a")
    return _fixed(ids)


def _times(times_us: Any) -> pa.Array:
    """As a line has them, without their Z."""
    texts = pa.array(times_us).cast(pa.timestamp("us")).cast(pa.string())
    octets = np.frombuffer(texts.buffers()[2], np.uint8).reshape(len(times_us), -1).copy()
    octets[:, 10] = ord("T")
    return _fixed(octets)
