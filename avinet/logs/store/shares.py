"""Each service engine's share of the store: decisions, without a disk or a clock.

The share is an equal part of what the store may take, and counts only where that is short: then the oldest files go of whoever
has more than it.  A file has records of many, so who has much more than others, or brings much at once, gets files of
its own beforehand; what is in files of many goes by age alone.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from avinet.logs.entries import FilePart, Segment, StoreFile
from avinet.logs.store.upkeep import age_of
from avinet.model.ids import SeId
from avinet.model.logs import Drop, DropReason, LogClass
from avinet.units import MIB

MAX_OWN = 16
"""Service engines with files of their own at one time; each is one more file a moment and one more merge an hour."""
OWN_RAW_BYTES = 128 * MIB
"""Of one at once: a file of 10 MiB, that is worth being one."""
BEFORE_SHARE = 0.5
"""Of its share, from which on its files are its own: what is in files of many stays below the share then, whatever comes in
the minute between two looks."""
MUCH_MORE = 2.0
"""Times what the others have on average.  Among equals nobody has files of his own, and the oldest go of all."""

Parts = Mapping[str, Sequence[FilePart]]
"""Whose files are, by their names."""


def heavy(held: Mapping[SeId, int], max_bytes: int) -> frozenset[SeId]:
    """Who gets files of its own, by how many bytes of the store are whose."""
    if len(held) < 2:
        return frozenset()
    share, total, others = max_bytes / len(held), sum(held.values()), len(held) - 1
    found = [
        se
        for se, size in sorted(held.items(), key=lambda one: one[1], reverse=True)
        if size > BEFORE_SHARE * share and size > MUCH_MORE * (total - size) / others
    ]
    return frozenset(found[:MAX_OWN])


def owners(segments: Iterable[Segment], heavy_ones: frozenset[SeId]) -> dict[SeId, str]:
    """Whose of these segments go into a file of their own, and what marks its name."""
    raw_bytes: Counter[SeId] = Counter()
    for segment in segments:
        raw_bytes[segment.se] += segment.head.raw_bytes
    own = [se for se, size in raw_bytes.most_common() if se in heavy_ones or size >= OWN_RAW_BYTES]
    return {se: hashlib.sha256(se.encode()).hexdigest()[:16] for se in own[:MAX_OWN]}


def to_evict(files: Iterable[StoreFile], parts: Parts, max_bytes: int) -> list[StoreFile]:
    """What goes when ``files`` are more than the store may take: the oldest of whoever has more than its share, then the oldest."""
    oldest = sorted(files, key=age_of)
    over = sum(file.size for file in oldest) - max_bytes
    if over <= 0:
        return []
    held: Counter[str] = Counter()
    for of_file in parts.values():
        for part in of_file:
            held[part.se] += part.bytes
    share = max_bytes / max(1, len(held))
    gone: dict[str, StoreFile] = {}
    for file in oldest:
        of_file = parts.get(file.name, ())
        if over > 0 and len(of_file) == 1 and held[of_file[0].se] > share:
            held[of_file[0].se] -= file.size
            gone[file.name] = file
            over -= file.size
    for file in oldest:
        if over > 0 and file.name not in gone:
            gone[file.name] = file
            over -= file.size
    return list(gone.values())


def evicted(files: Iterable[StoreFile], parts: Parts) -> list[tuple[SeId, Drop]]:
    """What is lost with them, by service engine and class; of files of many all together, as nobody's."""
    lost: dict[tuple[str, LogClass], list[int]] = {}
    for file in files:
        of_file = parts.get(file.name, ())
        significant = sum(part.significant for part in of_file)
        # What no part says is full logs: a file of an earlier version, or the smallest parts.
        counts = {LogClass.SIGNIFICANT: significant, LogClass.FULL: file.records - significant}
        se = of_file[0].se if len(of_file) == 1 else ""
        for log_class, records in counts.items():
            if records > 0:
                of_se = lost.setdefault((se, log_class), [file.first_us, file.last_us, 0])
                of_se[:] = min(of_se[0], file.first_us), max(of_se[1], file.last_us), of_se[2] + records
    return [
        (
            SeId(se),
            Drop(
                reason=DropReason.STORE_FULL,
                log_class=log_class,
                first_us=first_us,
                last_us=last_us,
                records=records,
            ),
        )
        for (se, log_class), (first_us, last_us, records) in lost.items()
    ]
