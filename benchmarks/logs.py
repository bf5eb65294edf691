"""The figures of request logs: how fast they come from an SE, what that disturbs, and how soon questions are answered.

    python -m benchmarks.logs [--quick] [--json] [--only PIECE ...]

- ``pipeline``: NDJSON in a data plane's file to acknowledged by the controller, and what that puts on the wire;
- ``pull``: segments that an SE keeps, beside OpenSSH; memory and heartbeats meanwhile;
- ``ingest``: segments to the store's files, in its worker;
- ``queries``: answers from a store of 50 million records;
- ``kills``: agents and the controller killed outright during traffic and pulls, against what a client counted.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from avinet.dataplane.envoy_binary import EnvoyMissingError, EnvoyUnusableError, find_envoy
from avinet.logs.query.asked import Question
from avinet.logs.store.jobs import Role
from avinet.units import GIB, KIB, MIB
from benchmarks import sshd
from benchmarks.config import free_block
from benchmarks.files import folder_for
from benchmarks.harness import Target, at_least, at_most, options, progress, quantile, report
from benchmarks.latency import BUFFER_MB, EVERY_S, MBIT, RTT_MS
from benchmarks.latency import TARGET_MS as WAN_HEARTBEAT_MS
from benchmarks.log_kills import Kills
from benchmarks.log_moves import Ends, Resident, cat, openssh, write_records
from benchmarks.log_records import services
from benchmarks.log_store import Asking, Filling, StoreWorker, ingested, spooled
from benchmarks.processes import clean_up_on_sigterm, cpu_s
from benchmarks.real_engine import QuickController

PIPELINE_MIB_S = 150.0
VECTOR_MIB_S = 76.7
"""Vector's own figure for file to TCP (its documentation's "File to TCP" performance test, vector.dev, 2026)."""
INGEST_A_SECOND = 300_000.0
PULL_OF_PEER = 0.6
GROWTH_MIB = 64.0
HEARTBEAT_MS = 20.0
HEARTBEAT_EVERY_S = 0.01
PERCENTILES_MS = 300.0
COUNT_AND_TOP_S = 3.0
ASKED = 7
CHART_POINTS = 100
WIRE_PERCENT = 10.0


@attrs.frozen
class Extent:
    """How much of each."""

    pipeline_bytes: int
    rounds: int
    pull_bytes: int
    pull_rounds: int
    wan_s: float
    ingest_bytes: int
    filling: Filling
    kills: int


QUICK = Extent(
    pipeline_bytes=512 * MIB,
    rounds=3,
    pull_bytes=512 * MIB,
    pull_rounds=2,
    wan_s=20.0,
    ingest_bytes=512 * MIB,
    filling=Filling(services=10, hours=10, each=50_000),
    kills=6,
)
FULL = Extent(
    pipeline_bytes=2 * GIB,
    rounds=5,
    pull_bytes=4 * GIB,
    pull_rounds=2,
    wan_s=60.0,
    ingest_bytes=2 * GIB,
    filling=Filling(services=100, hours=25, each=20_000),
    kills=100,
)


@contextlib.contextmanager
def on_disk() -> Iterator[Path]:
    """A private folder where fsync means something."""
    with tempfile.TemporaryDirectory(prefix="avinet-bench-") as name:
        yield Path(name)


def pipeline(extent: Extent, arguments: argparse.Namespace) -> None:
    """NDJSON to acknowledged: the spool takes it in, then a pull brings it."""
    rates: list[float] = []
    shares: list[float] = []
    with on_disk() as folder, Ends(folder / "controller", folder / "engine") as ends:
        for turn in range(extent.rounds):
            written = ends.write(extent.pipeline_bytes)
            before = ends.carried()
            pulled = ends.pull()
            wire = ends.carried() - before
            if (pulled["records"], pulled["raw_bytes"]) != (written.records, written.size):
                raise RuntimeError(f"{written} became {pulled}")
            ends.throw_away()
            rates.append(written.size / MIB / pulled["s"])
            shares.append(wire / written.size * 100)
            progress(
                "round {turn}: {rate:.1f} MiB/s, {segments} segments, {wire:.2f} % on the wire",
                turn=turn + 1, rate=rates[-1], segments=pulled["segments"], wire=shares[-1],
            )  # fmt: skip
    size = f"{extent.pipeline_bytes // MIB} MiB, best of {extent.rounds}, fsynced on both sides"
    what = f"NDJSON from the data plane's file to acknowledged, one SE ({size}), beside Vector's published figure"
    report(arguments, what, max(rates), "MiB/s", at_least(PIPELINE_MIB_S), peer=VECTOR_MIB_S)
    what = "bytes on the wire, both ways, against NDJSON"
    report(arguments, what, max(shares), "%", at_most(WIRE_PERCENT))


def pull(extent: Extent, arguments: argparse.Namespace) -> None:
    """What a spool holds, beside OpenSSH; then the same at a distance, for the heartbeat."""
    source = io.BytesIO()
    write_records(source, GIB if extent.pull_bytes > GIB else 512 * MIB)
    records = source.getvalue()
    del source
    for piece in (_pull_here, _pull_far):
        with folder_for(extent.pull_bytes) as folder, on_disk() as kept:
            piece(extent, arguments, (folder, kept), records)


def _pull_here(
    extent: Extent, arguments: argparse.Namespace, folders: tuple[Path, Path], records: bytes
) -> None:
    folder = folders[0]
    ours: list[float] = []
    theirs: list[float] = []
    rtt_s: list[float] = []
    grown_kib = {"agent": 0, "controller": 0}
    with contextlib.ExitStack() as stack:
        ends = stack.enter_context(Ends(*folders))
        ssh = stack.enter_context(openssh(folder, ends.identity)) if sshd.available() else None
        pids = {"agent": ends.engine.pid, "controller": ends.controller.pid}
        for turn in range(extent.pull_rounds):
            progress("filling the spool, {turn}", turn=turn + 1)
            ends.fill(extent.pull_bytes, records)
            held = ends.held()
            if ssh is not None:
                theirs.append(cat(ssh, ends.packs, folder / "copy"))
            ends.engine.ask(5, do="beat", every_s=HEARTBEAT_EVERY_S)
            before = {who: cpu_s(pid) for who, pid in pids.items()}
            with Resident(tuple(pids.values())) as resident:
                pulled = ends.pull()
            spent = {who: cpu_s(pid) - before[who] for who, pid in pids.items()}
            rtt_s += ends.engine.ask(5, do="rest")["rtt_s"]
            if (pulled["records"], pulled["size"]) != (held["records"], held["size"]):
                raise RuntimeError(f"{held} became {pulled}")
            ends.throw_away()
            ours.append(pulled["s"])
            for who, pid in pids.items():
                grown_kib[who] = max(grown_kib[who], resident.grown_kib(pid))
            progress(
                "avinet: {segments} segments in {s:.2f} s, CPU of the agent {agent:.2f} s, of the controller {controller:.2f} s",
                segments=held["segments"], s=pulled["s"], **spent,
            )  # fmt: skip
    size = f"{extent.pull_bytes // MIB} MiB of segments"
    what = f"{size} pulled, beside ssh host cat of the same files (best of {extent.pull_rounds})"
    peer = min(theirs) if theirs else None
    report(arguments, what, min(ours), "s", Target("<=", PULL_OF_PEER, of_peer=True), peer=peer)
    for who, kib in grown_kib.items():
        what = f"memory that the {who} grew by while {size} were pulled"
        report(arguments, what, kib / KIB, "MiB", at_most(GROWTH_MIB))
    what = f"heartbeat RTT p99 while {size} were pulled, loopback"
    report(arguments, what, quantile(rtt_s, 0.99) * 1000, "ms", at_most(HEARTBEAT_MS))


def _pull_far(
    extent: Extent, arguments: argparse.Namespace, folders: tuple[Path, Path], records: bytes
) -> None:
    wan = {"rtt_ms": RTT_MS, "mbit": MBIT, "buffer_mb": BUFFER_MB}
    with Ends(*folders, wan) as ends:
        # More than the link can carry in that time.
        ends.fill(int(extent.wan_s * MBIT * 1e6 / 8 * 1.2), records)
        ends.engine.ask(5, do="beat", every_s=EVERY_S)
        progress("pulling at {mbit:g} Mbit/s and {rtt:g} ms", mbit=MBIT, rtt=RTT_MS)
        ends.controller.ask(5, do="begin")
        time.sleep(extent.wan_s)
        size = ends.controller.ask(5, do="cancel")["size"]
        rtt_s = ends.engine.ask(5, do="rest")["rtt_s"]
    share = size * 8 / extent.wan_s / (MBIT * 1e6) * 100
    link = f"{MBIT:g} Mbit/s, {RTT_MS:g} ms, {BUFFER_MB:g} MiB of buffer"
    what = f"heartbeat RTT p99 during a pull of {extent.wan_s:g} s on {link}"
    report(arguments, what, quantile(rtt_s, 0.99) * 1000, "ms", at_most(WAN_HEARTBEAT_MS))
    report(arguments, "share of that link that the pull's segments got", share, "%")


def ingest(extent: Extent, arguments: argparse.Namespace) -> None:
    """Segments as a spool makes them, to a file of the store."""
    rates: list[float] = []
    with on_disk() as folder, StoreWorker(Role.INGEST, folder) as worker:
        for turn in range(extent.rounds):
            segments = spooled(folder, extent.ingest_bytes)
            cpu, begun = cpu_s(worker.pid), time.monotonic()
            written = ingested(worker, segments, folder, f"{turn}")
            rates.append(written.records / (time.monotonic() - begun))
            progress(
                "round {turn}: {rate:.0f} records a second, {cpu:.2f} us of CPU a record, {size:.1f} bytes a record",
                turn=turn + 1, rate=rates[-1], size=written.size / written.records,
                cpu=(cpu_s(worker.pid) - cpu) / written.records * 1e6,
            )  # fmt: skip
    what = f"records ingested, segments to a durable file, one worker ({extent.ingest_bytes // MIB} MiB, best of {extent.rounds})"
    report(arguments, what, max(rates), "a second", at_least(INGEST_A_SECOND))


def queries(extent: Extent, arguments: argparse.Namespace) -> None:
    """Answers, once files have been looked at."""
    filling = extent.filling
    minutes = filling.hours * 60 // CHART_POINTS
    one = services(filling.services)[filling.services // 2].name
    over_time = Question(q=f"vs={one}", percentiles="duration_ms", histogram=f"{minutes}m")
    count, top = Question(), Question(top="path", limit=20)
    with on_disk() as folder:
        files = filling.fill(folder)
        took_s: dict[str, list[float]] = {"percentiles": [], "count": [], "top": []}
        with StoreWorker(Role.QUERY, folder) as worker:
            asking = Asking(worker, files)
            for turn in range(ASKED):
                for name, question in (("percentiles", over_time), ("count", count), ("top", top)):
                    seconds, rows = asking.ask(question)
                    took_s[name].append(seconds)
                    if name == "count" and rows != [[filling.records]]:
                        raise RuntimeError(f"{filling.records} records are {rows}")
                    if name == "percentiles" and sum(int(row[1]) for row in rows) != filling.of_one:
                        raise RuntimeError(f"{filling.of_one} records of {one} are not all counted")
                progress(
                    "asked, {turn}: {took}",
                    turn=turn + 1,
                    took={n: f"{s[-1]:.3f} s" for n, s in took_s.items()},
                )
    # The first looks at every file's footer; a dashboard asks again and again.
    p50 = {name: quantile(seconds[1:], 0.5) for name, seconds in took_s.items()}
    held = f"{filling.records / 1e6:g} million records in the store"
    what = f"percentiles over time of one virtual service ({filling.of_one} of {held}), p50 of {ASKED - 1}"
    report(arguments, what, p50["percentiles"] * 1000, "ms", at_most(PERCENTILES_MS))
    report(arguments, f"the same, first time ({held})", took_s["percentiles"][0] * 1000, "ms")
    what = f"count and top 20 paths over all ({held}), p50 of {ASKED - 1}"
    report(arguments, what, p50["count"] + p50["top"], "s", at_most(COUNT_AND_TOP_S))


def kills(extent: Extent, arguments: argparse.Namespace) -> None:
    """What a client had answered against what the store answers."""
    try:
        find_envoy()
    except (EnvoyMissingError, EnvoyUnusableError) as why:
        progress("without kills: {why}", why=str(why))
        return
    with tempfile.TemporaryDirectory(prefix="avb-") as name:
        killing = Kills(QuickController(Path(name) / "k"), free_block())
        with killing.running():
            tally = killing.run(extent.kills)
    what = f"after {extent.kills} kill -9s of agents and controller ({tally.answered} requests answered, {tally.unanswered} not)"
    report(arguments, f"records lost {what}", tally.lost, "records", at_most(0))
    report(
        arguments, f"records doubled or made up {what}", tally.doubled + tally.strange, "records", at_most(0)
    )


PIECES: dict[str, Callable[[Extent, argparse.Namespace], None]] = {
    "pipeline": pipeline,
    "pull": pull,
    "ingest": ingest,
    "queries": queries,
    "kills": kills,
}


def main() -> int:
    """0 when every figure was measured, whether its target was met or not."""
    arguments = options("Request logs: moved, stored and asked.", tuple(PIECES)).parse_args()
    clean_up_on_sigterm()
    extent = QUICK if arguments.quick else FULL
    for name, piece in PIECES.items():
        if not arguments.only or name in arguments.only:
            piece(extent, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
