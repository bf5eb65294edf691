"""What each file of the store says of itself: which segments are in it, and how much of it is whose.

It is in the file's own footer (Parquet has a place for the words of whoever wrote it), so that it is there if and only if
the records are, and a catalogue that was lost can be made anew.  A file of an earlier version says nothing.
"""

import base64
import binascii
from collections.abc import Iterable

import attrs
import msgspec
import zstandard

from avinet.logs.entries import FilePart
from avinet.logs.runs import Names, Run
from avinet.model.ids import SeId
from avinet.model.logs import Count
from avinet.units import MIB

KEY = "avinet"
MAX_RUNS = 100_000
"""Named by one file, 20 bytes each at most: an honest service engine's segments are few runs.  One whose are not loses the names
of its own, each having a like share."""
LEAST_RUNS = 100
"""Of one service engine, however many there are."""
MAX_BYTES = 16 * MIB
"""Of what is said, unpacked."""
MAX_PARTS = 100
"""Service engines that have the most of a file are told; others have less than a hundredth."""


class Held(msgspec.Struct, frozen=True, array_like=True):
    """What is of one service engine: NDJSON, records of either class, and segments as incarnation, first, last counter."""

    raw_bytes: Count
    significant: Count
    full: Count
    runs: tuple[tuple[str, int, int], ...]


class Contents(msgspec.Struct, frozen=True, array_like=True):
    """Of one file.  Not ``whole`` when it has segments that it does not name."""

    held: dict[str, Held] = {}
    whole: bool = True

    @property
    def names(self) -> Names:
        """The segments."""
        spools: dict[tuple[SeId, str], list[Run]] = {}
        for se, held in self.held.items():
            for incarnation, first, last in held.runs:
                spools.setdefault((SeId(se), incarnation), []).append((first, last))
        return Names.of_runs(spools)


class Part(msgspec.Struct, frozen=True, array_like=True):
    """How much of a file is of one service engine."""

    se: str
    bytes: Count
    significant: Count
    full: Count


@attrs.define
class Gathered:
    """Contents in the making."""

    _held: dict[str, Held] = attrs.field(factory=dict, init=False)
    _names: list[Names] = attrs.field(factory=list, init=False)
    _single: list[tuple[SeId, str, int]] = attrs.field(factory=list, init=False)
    _whole: bool = attrs.field(default=True, init=False)

    def add(
        self, se: str, name: tuple[str, int], raw_bytes: int, *, significant: int = 0, full: int = 0
    ) -> None:
        """A segment (incarnation and counter), of which so many records were taken."""
        self._single.append((SeId(se), *name))
        self._count(se, Held(raw_bytes, significant, full, ()))

    def join(self, contents: Contents) -> None:
        """All of another file."""
        self._names.append(contents.names)
        self._whole = self._whole and contents.whole
        for se, held in contents.held.items():
            self._count(se, held)

    def _count(self, se: str, more: Held) -> None:
        held = self._held.get(se, Held(0, 0, 0, ()))
        self._held[se] = Held(
            held.raw_bytes + more.raw_bytes, held.significant + more.significant, held.full + more.full, ()
        )

    def contents(self) -> Contents:
        """What there is now."""
        names = Names.of(self._single).plus(*self._names)
        runs: dict[str, list[tuple[str, int, int]]] = {}
        for (se, incarnation), found in names:
            runs.setdefault(se, []).extend((incarnation, *run) for run in found)
        most = max(LEAST_RUNS, MAX_RUNS // max(1, len(self._held)))
        whole = self._whole and all(len(found) <= most for found in runs.values())
        return Contents(
            {
                se: msgspec.structs.replace(held, runs=tuple(runs.get(se, ())[-most:]))
                for se, held in self._held.items()
            },
            whole,
        )


def parts_of(contents: Contents, size: int) -> tuple[Part, ...]:
    """Whose the ``size`` bytes of a file are, by their share of the NDJSON that it was made of; the largest parts."""
    total = max(1, sum(held.raw_bytes for held in contents.held.values()))
    parts = (
        Part(se, size * held.raw_bytes // total, held.significant, held.full)
        for se, held in contents.held.items()
    )
    return tuple(sorted(parts, key=lambda part: part.bytes, reverse=True)[:MAX_PARTS])


def listed(parts: Iterable[Part]) -> tuple[FilePart, ...]:
    """As the catalogue has them."""
    return tuple(FilePart(SeId(part.se), part.bytes, part.significant, part.full) for part in parts)


def said(contents: Contents) -> str:
    """As it is written into a file: letters, so that any engine can."""
    packed = zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(contents))
    return base64.b64encode(packed).decode()


def heard(said: bytes) -> Contents | None:
    """The same, read; None when it makes no sense."""
    try:
        packed = base64.b64decode(said, validate=True)
        if not 0 <= zstandard.frame_content_size(packed) <= MAX_BYTES:
            return None
        return msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(packed), type=Contents)
    except (binascii.Error, zstandard.ZstdError, msgspec.MsgspecError):
        return None
