"""Request logs as a data plane writes them, made up but realistic: what the figures about logs are measured with.

Hosts, paths, clients and user agents are drawn by Zipf's law, sizes and durations from log-normal distributions, and
each request has a random id; so a compressor finds what it would find in the real thing, and no more.  The keys and
their order are those of ``avinet.dataplane.envoy_access_log``.
"""

import datetime as dt
import itertools
import random
from collections.abc import Iterator, Sequence

import attrs

PATHS = 5_000
CLIENTS = 20_000
AGENTS = 60
BLOCK_LINES = 20_000
"""Drawn at once: 12 MiB."""
_AGENT = (
    "Mozilla/5.0 ({os}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{major}.0.0.0 Safari/537.36",
    "Mozilla/5.0 ({os}; rv:{major}.0) Gecko/20100101 Firefox/{major}.0",
    "okhttp/4.{major}.0",
    "python-requests/2.{major}.0",
)
_OS = (
    "Windows NT 10.0; Win64; x64",
    "Macintosh; Intel Mac OS X 10_15_7",
    "X11; Linux x86_64",
    "Android 14; Mobile",
)
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


def _zipf(count: int) -> list[float]:
    return list(itertools.accumulate(1 / (n + 1) for n in range(count)))


def blocks(
    count: int,
    among: Sequence[LoggedService],
    seed: int = 1,
    start_s: float = 1_790_000_000,
    per_s: int = 5_000,
) -> Iterator[bytes]:
    """``count`` lines of NDJSON in blocks, ``per_s`` of them for each second of their own time."""
    draw = random.Random(seed)
    paths = ["/" + "/".join(draw.choices(_WORDS, k=draw.randint(1, 4))) + f"/{n}" for n in range(PATHS)]
    clients = [".".join(map(str, draw.choices(range(1, 255), k=4))) for _ in range(CLIENTS)]
    agents = [
        draw.choice(_AGENT).format(os=draw.choice(_OS), major=draw.randint(80, 140)) for _ in range(AGENTS)
    ]
    statuses, weights = zip(*_STATUS, strict=True)
    by_path, by_client, by_agent = _zipf(PATHS), _zipf(CLIENTS), _zipf(AGENTS)
    begun = dt.datetime.fromtimestamp(start_s, dt.UTC)
    for first in range(0, count, BLOCK_LINES):
        size = min(BLOCK_LINES, count - first)
        columns = zip(
            range(first, first + size),
            draw.choices(among, k=size),
            draw.choices(paths, cum_weights=by_path, k=size),
            draw.choices(clients, cum_weights=by_client, k=size),
            draw.choices(agents, cum_weights=by_agent, k=size),
            draw.choices(statuses, weights, k=size),
            strict=True,
        )
        lines = [_line(draw, begun, n / per_s, *rest) for n, *rest in columns]
        yield "".join(lines).encode()


def _line(
    draw: random.Random,
    begun: dt.datetime,
    after_s: float,
    service: LoggedService,
    path: str,
    client: str,
    agent: str,
    status: int,
) -> str:
    at = begun + dt.timedelta(seconds=after_s, microseconds=draw.randrange(200))
    first_us = int(draw.lognormvariate(8.5, 1.2))
    query = f"?q={draw.getrandbits(24):x}" if draw.random() < 0.2 else ""
    words = f"{draw.getrandbits(128):032x}"
    request = f"{words[:8]}-{words[8:12]}-4{words[13:16]}-a{words[17:20]}-{words[20:]}"
    return (
        f'{{"_time":"{at:%Y-%m-%dT%H:%M:%S.%f}Z","_vs":"{service.uuid}","bytes_in":0,'
        f'"bytes_out":{int(draw.lognormvariate(8, 1.5))},"client":"{client}","client_port":{draw.randint(1024, 65535)},'
        f'"connect_us":{draw.randint(80, 900)},"duration_us":{first_us + draw.randint(20, 4000)},'
        f'"first_byte_us":{first_us},"flags":"-","host":"{service.host}","listener":"203.0.113.10:443","method":"GET",'
        f'"path":"{path}{query}","pool":"{service.pool}","protocol":"HTTP/1.1","reason":"via_upstream",'
        f'"request_id":"{request}","server":"10.20.{draw.randint(0, 3)}.{draw.randint(1, 9)}:8080","status":{status},'
        f'"tls_cipher":"TLS_AES_128_GCM_SHA256","tls_version":"TLSv1.3","user_agent":"{agent}","vs":"{service.name}"}}\n'
    )
