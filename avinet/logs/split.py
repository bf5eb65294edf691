"""Takes NDJSON apart by virtual service, a chunk at a time, without a line of Python for a line of log.

Lines begin alike (``avinet.model.logs``): numpy looks at the first 98 bytes of each, arrow numbers the services and
gathers their lines.  What is no whole line is told apart: **torn**, when it does not end as a line does or another
begins in its middle (Envoy was killed, or its disk was full), or **corrupt**, when it does not begin as one.  JSON
escapes quotes, so a head within a line is never what a client sent.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from avinet.model.ids import ObjectId
from avinet.model.logs import LINE_HEAD, LINE_SERVICE, TIME_BYTES, Drop, DropReason, LogClass
from avinet.units import MIB

MAX_CHUNK_BYTES = 64 * MIB
"""Places within a chunk, and within what is gathered of it, are 32-bit numbers to arrow."""
DROP_RANGE_US = 60_000_000
"""Drops of a minute are counted together."""

_SLICE_BYTES = MIB
"""Letters are looked for in slices, so that the mask stays small and in the processor's cache."""
_memory = pa.system_memory_pool()
"""For what is gathered: arrow's own keeps 40 MiB more for itself, at the same speed."""
_SERVICE_BYTES = len("virtualservice-") + 36
_TIME_AT = len(LINE_HEAD)
_SERVICE_AT = _TIME_AT + TIME_BYTES + len(LINE_SERVICE)
_HEAD_BYTES = _SERVICE_AT + _SERVICE_BYTES + 1
"""With the quote after the UUID."""
_NEWLINE, _QUOTE, _OPEN, _CLOSE = b'\n"{}'
_DAYS_IN = np.array([0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])

Chunk = bytes | bytearray | memoryview
Places = NDArray[np.int64]
Mask = NDArray[np.bool_]
Octets = NDArray[np.uint8]


def _octets(text: bytes) -> Octets:
    return np.frombuffer(text, np.uint8)


def _allowed(characters: bytes) -> Mask:
    table = np.zeros(256, np.bool_)
    table[_octets(characters)] = True
    return table


_ZERO = ord("0")
_TIME_SHAPE = _octets(b"0000-00-00T00:00:00.000000Z")
_DIGITS_AT = np.flatnonzero(_TIME_SHAPE == _ZERO)
_MARKS_AT = np.flatnonzero(_TIME_SHAPE != _ZERO)
_UUID = _allowed(b"0123456789abcdef-")
_KIND = _octets(b"virtualservice-")


@attrs.frozen(eq=False)
class Lines:
    """The whole lines of a chunk, in their order; arrays have one element a line."""

    starts: Places
    ends: Places
    """After the newline."""
    services: NDArray[np.int32]
    """Which of ``names``."""
    times_us: Places
    """The requests' starts."""
    names: tuple[ObjectId, ...]

    def only(self, wanted: Mask) -> "Lines":
        """Those of them."""
        return Lines(
            self.starts[wanted], self.ends[wanted], self.services[wanted], self.times_us[wanted], self.names
        )


@attrs.frozen(eq=False)
class Split:
    """A chunk taken apart.  ``consumed`` bytes of it are accounted for; what follows is the beginning of a line."""

    lines: Lines
    drops: tuple[Drop, ...]
    consumed: int


@attrs.frozen(eq=False)
class Part:
    """The lines of one virtual service, in their order."""

    service: ObjectId
    slices: Iterable[memoryview] = attrs.field(repr=False)
    """One after another; to be looked at once, and before the next part."""
    raw_bytes: int
    records: int
    first_us: int
    last_us: int


def split(chunk: Chunk, log_class: LogClass, *, final: bool) -> Split:
    """Find the lines of ``chunk``, which begins at a line's beginning; ``final``: nothing ever follows it."""
    octets = np.frombuffer(chunk, np.uint8)
    if len(octets) > MAX_CHUNK_BYTES:
        raise ValueError(f"a chunk of {len(octets)} bytes")
    starts, ends = _boundaries(octets, final=final)
    fits, heads = _heads(octets, starts, ends)
    names, services = _named(heads)
    lines = Lines(starts[fits], ends[fits], services, _times(heads), names)
    whole = (octets[lines.ends - 1] == _NEWLINE) & (octets[lines.ends - 2] == _CLOSE)
    kept = lines if whole.all() else lines.only(whole)
    bad = ~fits & (octets[starts] != _NEWLINE)  # an empty line is no record
    return Split(
        kept,
        (
            *drops_of(DropReason.TORN, log_class, lines, ~whole),
            *_unreadable(octets, starts[bad], ends[bad], kept, log_class),
        ),
        int(ends[-1]) if len(ends) else 0,
    )


def parts(chunk: Chunk, lines: Lines, copied_bytes: int) -> Iterator[Part]:
    """The lines of each virtual service together; some ``copied_bytes`` of them are copied at a time."""
    order = np.argsort(lines.services, kind="stable")
    reach = np.concatenate(([0], np.cumsum((lines.ends - lines.starts)[order])))
    times = lines.times_us[order]
    bounds = np.concatenate(
        ([0], np.cumsum(np.bincount(lines.services, minlength=len(lines.names))))
    ).tolist()
    sizes = reach[bounds].tolist()
    at = 0
    while at < len(lines.names):
        until = at + 1
        while until < len(lines.names) and sizes[until + 1] - sizes[at] <= copied_bytes:
            until += 1
        several = until > at + 1
        data = _gather(chunk, lines, order[bounds[at] : bounds[until]]) if several else memoryview(b"")
        for code in range(at, until):
            begin, end = bounds[code], bounds[code + 1]
            if begin == end:
                continue
            yield Part(
                lines.names[code],
                (data[sizes[code] - sizes[at] : sizes[code + 1] - sizes[at]],)
                if several
                else _slices(chunk, lines, order[begin:end], reach[begin : end + 1], copied_bytes),
                sizes[code + 1] - sizes[code],
                end - begin,
                int(times[begin:end].min()),
                int(times[begin:end].max()),
            )
        at = until


def _slices(
    chunk: Chunk, lines: Lines, order: Places, reach: Places, copied_bytes: int
) -> Iterator[memoryview]:
    """What is large, ``copied_bytes`` at a time, and a line at least."""
    at = 0
    while at < len(order):
        until = int(np.searchsorted(reach, reach[at] + copied_bytes, side="right")) - 1
        until = max(until, at + 1)
        yield _gather(chunk, lines, order[at:until])
        at = until


def drops_of(reason: DropReason, log_class: LogClass, lines: Lines, lost: Mask) -> list[Drop]:
    """The ``lost`` ones of ``lines``, counted by virtual service and minute."""
    if not lost.any():
        return []
    gone = lines.only(lost)
    keys = gone.services.astype(np.int64) << 32 | gone.times_us // DROP_RANGE_US
    order = np.argsort(keys, kind="stable")
    keys, times, sizes = keys[order], gone.times_us[order], (gone.ends - gone.starts)[order]
    begins = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return [
        Drop(
            reason=reason,
            log_class=log_class,
            service=lines.names[key >> 32],
            first_us=first,
            last_us=last,
            records=count,
            raw_bytes=size,
        )
        for key, first, last, count, size in zip(
            keys[begins].tolist(),
            np.minimum.reduceat(times, begins).tolist(),
            np.maximum.reduceat(times, begins).tolist(),
            np.diff(np.append(begins, len(keys))).tolist(),
            np.add.reduceat(sizes, begins).tolist(),
            strict=True,
        )
    ]


def _boundaries(octets: Octets, *, final: bool) -> tuple[Places, Places]:
    found = [
        np.flatnonzero(octets[at : at + _SLICE_BYTES] == _NEWLINE) + (at + 1)
        for at in range(0, len(octets), _SLICE_BYTES)
    ]
    ends: Places = np.concatenate(found) if found else np.empty(0, np.int64)
    if final and len(octets) and (not len(ends) or ends[-1] != len(octets)):
        ends = np.append(ends, len(octets))
    if not len(ends):
        return ends, ends
    starts = np.concatenate((np.zeros(1, np.int64), ends[:-1]))
    more = _heads_within(octets[: ends[-1]], starts)
    if len(more):
        starts = np.sort(np.concatenate((starts, more)))
        ends = np.append(starts[1:], ends[-1])
    return starts, ends


def _heads_within(octets: Octets, starts: Places) -> Places:
    """Where a line begins in the middle of another, which was torn there."""
    slices = range(0, len(octets), _SLICE_BYTES)
    found = sum(int(np.count_nonzero(octets[at : at + _SLICE_BYTES] == _OPEN)) for at in slices)
    if found == np.count_nonzero(octets[starts] == _OPEN):
        return np.empty(0, np.int64)  # as good as always: braces are where lines begin
    braces: Places = np.concatenate(
        [np.flatnonzero(octets[at : at + _SLICE_BYTES] == _OPEN) + at for at in slices]
    )
    braces = braces[braces <= len(octets) - len(LINE_HEAD)]
    for place, letter in enumerate(LINE_HEAD):
        braces = braces[octets[braces + place] == letter]
    return np.setdiff1d(braces, starts, assume_unique=True)


def _heads(octets: Octets, starts: Places, ends: Places) -> tuple[Mask, Octets]:
    """Which lines begin as a line must, and the first bytes of those."""
    fits = ends - starts > _HEAD_BYTES
    if not fits.any():
        return fits, np.empty((0, _HEAD_BYTES), np.uint8)
    heads: Octets = np.lib.stride_tricks.sliding_window_view(octets, _HEAD_BYTES)[starts[fits]]
    time = heads[:, _TIME_AT : _TIME_AT + TIME_BYTES]
    uuid_at = _SERVICE_AT + len(_KIND)
    well = (
        (heads[:, :_TIME_AT] == _octets(LINE_HEAD)).all(1)
        & (heads[:, _TIME_AT + TIME_BYTES : _SERVICE_AT] == _octets(LINE_SERVICE)).all(1)
        & (heads[:, _SERVICE_AT:uuid_at] == _KIND).all(1)
        & _UUID[heads[:, uuid_at:-1]].all(1)
        & (heads[:, -1] == _QUOTE)
        & (time[:, _MARKS_AT] == _TIME_SHAPE[_MARKS_AT]).all(1)
        & (time[:, _DIGITS_AT] - _ZERO < 10).all(1)
    )
    well[well] = _is_time(time[well])
    fits[fits] = well
    return fits, heads if well.all() else heads[well]


def _number(time: Octets, at: int, digits: int) -> NDArray[np.int32]:
    value = np.zeros(len(time), np.int32)
    for place in range(at, at + digits):
        value = value * 10 + (time[:, place] - _ZERO)
    return value


def _is_time(time: Octets) -> Mask:
    year, month, day = _number(time, 0, 4), _number(time, 5, 2), _number(time, 8, 2)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    well: Mask = (
        (year >= 1970)
        & (year < 2250)  # within what a segment's head can say
        & (month >= 1)
        & (month <= 12)
        & (day >= 1)
        & (day <= _DAYS_IN[np.minimum(month, 12)])
        & (leap | (month != 2) | (day < 29))
        & (_number(time, 11, 2) < 24)
        & (_number(time, 14, 2) < 60)
        & (_number(time, 17, 2) < 60)
    )
    return well


def _times(heads: Octets) -> Places:
    text = np.ascontiguousarray(heads[:, _TIME_AT : _TIME_AT + TIME_BYTES - 1])  # numpy wants no Z
    stamps = text.view(f"S{TIME_BYTES - 1}").ravel().astype("datetime64[us]")
    return stamps.astype(np.int64)


def _named(heads: Octets) -> tuple[tuple[ObjectId, ...], NDArray[np.int32]]:
    column = np.ascontiguousarray(heads[:, _SERVICE_AT:-1])
    array = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(_SERVICE_BYTES), len(column), [None, pa.py_buffer(column)]
    )
    numbered: Any = array.dictionary_encode()
    names = tuple(ObjectId(name.decode()) for name in numbered.dictionary.to_pylist())
    return names, numbered.indices.to_numpy()


def _gather(chunk: Chunk, lines: Lines, order: Places) -> memoryview:
    """The lines, in that order, one after another."""
    # Two places a line, its start and its end: what lies between lines is an element too, which nobody takes.
    bounds = np.empty(2 * len(lines.starts), np.int32)
    bounds[0::2], bounds[1::2] = lines.starts, lines.ends
    array = pa.Array.from_buffers(
        pa.binary(), len(bounds) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(chunk)]
    )
    taken: Any = pc.take(array, pa.array(order * 2), memory_pool=_memory)
    return memoryview(taken.buffers()[2])


def _unreadable(
    octets: Octets, starts: Places, ends: Places, kept: Lines, log_class: LogClass
) -> Iterator[Drop]:
    """Nobody knows whose they are, and of their time only what lines were around them."""
    if not len(starts):
        return
    torn = (octets[ends - 1] != _NEWLINE) | _begun(octets, starts, ends)
    first, last = (int(kept.times_us.min()), int(kept.times_us.max())) if len(kept.times_us) else (0, 0)
    for reason, lost in ((DropReason.TORN, torn), (DropReason.CORRUPT, ~torn)):
        if lost.any():
            yield Drop(
                reason=reason,
                log_class=log_class,
                first_us=first,
                last_us=last,
                records=int(np.count_nonzero(lost)),
                raw_bytes=int((ends - starts)[lost].sum()),
            )


def _begun(octets: Octets, starts: Places, ends: Places) -> Mask:
    """Too short to have a whole head, and yet it begins as one."""
    lengths = np.minimum(ends - starts - 1, len(LINE_HEAD))
    well: Mask = ends - starts <= _HEAD_BYTES
    for place, letter in enumerate(LINE_HEAD):
        well &= (place >= lengths) | (octets[np.minimum(starts + place, len(octets) - 1)] == letter)
    return well
