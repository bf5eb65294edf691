"""Which files of the store become one, and which have had their time: decisions, without a disk or a clock.

A file's name says where it belongs: ``<date>/<hour>-<when it was taken in>-<random>.parquet``, the hour being that of its
last request.  Late logs make files of their own in their hour.  A file of one service engine alone, which is not to be merged
with those of many, has another word at its end.
"""

import datetime as dt
import re
import secrets
from collections.abc import Iterable, Sequence

import attrs

from avinet.logs.entries import StoreFile
from avinet.units import DAY_S, HOUR_S, MIB

SMALL_BYTES = 32 * MIB
"""600,000 records: files of that size are not worth merging, their services' row groups are large enough."""
MERGED_BYTES = 128 * MIB
"""Of sources, in one merge: some 20 s of one processor, and 2 GiB if it were sorted in memory."""
MERGED_FILES = 64
OPEN_FILES = 16
"""Small files of the hour under way that become one: so each record is written three times a day, not hundreds."""
CLOSED_FILES = 4
"""The same of an hour that is over."""
CLOSED_AFTER_S = HOUR_S / 4
"""After its end: significant logs come within seconds."""
NAME = r"\d{4}-\d\d-\d\d/\d\d-[0-9a-f]{8,}-[0-9a-f]{8}(?:-[0-9a-f]{16})?\.parquet"
OLD_US = int(60 * DAY_S * 1e6)
"""A pull of logs that are older than that is rare; they are one hour of 1970."""
_NAME = re.compile(NAME)
_HOUR_US = int(HOUR_S * 1e6)


def partition(last_us: int, now_us: int) -> str:
    """``2026-11-27/12``: the hour that a request belongs to.

    The time is a service engine's word: what is to come belongs to now, and what is very old all together, so that
    whatever it says there are no more hours than ``OLD_US`` has.
    """
    last_us = min(last_us, now_us) if last_us >= now_us - OLD_US else 0
    at = dt.datetime.fromtimestamp(last_us // 1_000_000, dt.UTC)
    return at.strftime("%Y-%m-%d/%H")


def new_name(where: str, taken_us: int, owner: str = "") -> str:
    """A file's name in a partition; ``owner`` marks one of a single service engine."""
    end = f"-{owner}" if owner else ""
    return f"{where}-{taken_us // 1_000_000:08x}-{secrets.token_hex(4)}{end}.parquet"


@attrs.define
class Stamps:
    """When files are taken in: not before one that is there already, though the clock has gone back, or starts behind.

    A file with a stamp of last year would be too old once the clock is right again.
    """

    _last_us: int = attrs.field(default=0, init=False)

    def saw(self, names: Iterable[str]) -> None:
        """Files that are there."""
        self._last_us = max(self._last_us, *map(taken_us, names), 0)

    def at(self, now_us: int) -> int:
        """Of one that is taken in now."""
        self._last_us = max(self._last_us, now_us)
        return self._last_us


def is_name(name: str) -> bool:
    """Whether it is one of ours."""
    return _NAME.fullmatch(name) is not None


def partition_of(name: str) -> str:
    """Where a file is."""
    return name.rpartition("/")[0] + "/" + name.rpartition("/")[2].partition("-")[0]


def owner_of(name: str) -> str:
    """The mark of the one that it is of alone; empty where it is of many."""
    return "".join(name.rpartition("/")[2].removesuffix(".parquet").split("-")[3:])


def taken_us(name: str) -> int:
    """When the newest of its records were taken in."""
    return int(name.rpartition("/")[2].split("-")[1], 16) * 1_000_000


def to_merge(files: Iterable[StoreFile], now_us: int) -> list[list[StoreFile]]:
    """Groups of files that should become one each."""
    small: dict[tuple[str, str], list[StoreFile]] = {}
    for file in files:
        if file.size < SMALL_BYTES:
            small.setdefault((partition_of(file.name), owner_of(file.name)), []).append(file)
    groups: list[list[StoreFile]] = []
    for (where, _), found in sorted(small.items()):
        closed = now_us > _end_us(where) + int(CLOSED_AFTER_S * 1e6)
        least = CLOSED_FILES if closed else OPEN_FILES
        groups += [group for group in _grouped(sorted(found, key=lambda f: f.size)) if len(group) >= least]
    return groups


def _grouped(files: Sequence[StoreFile]) -> Iterable[list[StoreFile]]:
    group: list[StoreFile] = []
    size = 0
    for file in files:
        if group and (size + file.size > MERGED_BYTES or len(group) >= MERGED_FILES):
            yield group
            group, size = [], 0
        group.append(file)
        size += file.size
    yield group


def _end_us(where: str) -> int:
    begins = dt.datetime.strptime(where, "%Y-%m-%d/%H").replace(tzinfo=dt.UTC)
    return int(begins.timestamp()) * 1_000_000 + _HOUR_US


def age_of(file: StoreFile) -> int:
    """When it was last of use, in microseconds.

    A time in the future counts as the time at which it was taken in: a clock that is wrong keeps nothing for ever.
    """
    return min(file.last_us, taken_us(file.name))


def too_old(files: Iterable[StoreFile], now_us: int, max_age_us: int) -> list[StoreFile]:
    """The files whose requests are all too old."""
    return [file for file in files if age_of(file) < now_us - max_age_us]
