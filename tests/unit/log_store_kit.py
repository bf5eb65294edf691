"""Log lines, segments and jobs for tests of the log store."""

import datetime as dt
import hashlib
import json
from pathlib import Path

import zstandard

from avinet.logs.store.jobs import Ingest, SegmentFile
from avinet.model.logs import LogClass, SegmentHead

T0_US = 1_795_780_800_000_000
"""2026-11-27 12:00 UTC."""


def service(number):
    """A virtual service's UUID."""
    return f"virtualservice-00000000-0000-4000-8000-{number:012d}"


def time_text(us):
    """As Envoy writes it."""
    at = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def record(us=T0_US, vs=1, **fields):
    """One record, as the data plane says it."""
    usual = {
        "bytes_in": 10,
        "bytes_out": 2_000,
        "client": "10.1.2.3",
        "client_port": 40_000,
        "connect_us": 250,
        "duration_us": 12_500,
        "first_byte_us": 12_000,
        "flags": "-",
        "host": "shop.example.com",
        "listener": "10.0.0.1:80",
        "method": "GET",
        "path": "/",
        "pool": "pool-1",
        "protocol": "HTTP/1.1",
        "reason": "via_upstream",
        "request_id": "6a9d2b1e",
        "server": "10.9.0.1:8080",
        "status": 200,
        "tls_cipher": None,
        "tls_version": None,
        "user_agent": "curl/8.5.0",
        "vs": "shop",
    }
    return {"_time": time_text(us), "_vs": service(vs)} | usual | fields


def line(us=T0_US, vs=1, **fields):
    """One line with its end."""
    return json.dumps(record(us, vs, **fields), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def segment(folder, raw, *, vs=1, counter=1, se="se-1", log_class=LogClass.FULL, **head):
    """A segment file of these lines."""
    data = zstandard.ZstdCompressor(level=3).compress(raw)
    path = Path(folder) / f"{se}-{counter}.zst"
    path.write_bytes(data)
    facts = {
        "incarnation": "0" * 32,
        "counter": counter,
        "service": service(vs),
        "log_class": log_class,
        "first_us": T0_US,
        "last_us": T0_US,
        "records": max(1, raw.count(b"\n")),
        "raw_bytes": len(raw),
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    } | head
    return SegmentFile(path=str(path), se_uuid=f"se-uuid-of-{se}", se=se, head=SegmentHead(**facts))


def job(folder, *segments, name="1.parquet"):
    """An ingestion of them into ``<folder>/store/day``."""
    folder = Path(folder)
    return Ingest(
        segments=segments,
        target=str(folder / "store" / "day" / name),
        bad_lines=str(folder / "bad" / f"{name}.ndjson"),
    )
