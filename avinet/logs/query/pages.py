"""Where a page of records ended, as a word that its reader hands back.

It holds the key of the last record, and the range of time and the order that the first page had, so that ``since 1h``
means the same hour on every page.
"""

import base64
from typing import Annotated

import attrs
import msgspec

from avinet.logs.query.errors import InvalidShapeError
from avinet.logs.query.shapes import KEY, Place
from avinet.logs.query.times import MAX_US

MAX_CURSOR_CHARS = 1_000
"""The store keeps request ids of 256 bytes and addresses of 64 at most (``avinet.logs.store.columns``), two UUIDs and some
50 bytes are beside them: 450 bytes, a third more in base64."""
_Us = Annotated[int, msgspec.Meta(ge=0, le=MAX_US)]


@attrs.frozen
class Page:
    """What the word says."""

    place: Place
    oldest_first: bool
    since_us: int | None
    until_us: int | None


class _Packed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    time_us: _Us
    key: tuple[str, ...]
    shown: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    oldest_first: bool
    since_us: _Us | None
    until_us: _Us | None


def cursor_of(page: Page) -> str:
    """The word for a page's end."""
    place = page.place
    packed = _Packed(place.time_us, place.key, place.shown, page.oldest_first, page.since_us, page.until_us)
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(packed)).decode().rstrip("=")


def page_of(cursor: str) -> Page:
    """What a word says; raises ``InvalidShapeError`` for what is none of ours."""
    packed = _unpacked(cursor) if len(cursor) <= MAX_CURSOR_CHARS else None
    if packed is None or len(packed.key) != len(KEY):
        raise InvalidShapeError(where="cursor", what="it is not one that an answer gave; begin without it")
    place = Place(packed.time_us, packed.key, packed.shown)
    return Page(place, packed.oldest_first, packed.since_us, packed.until_us)


def _unpacked(cursor: str) -> _Packed | None:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.msgpack.decode(raw, type=_Packed)
    except (ValueError, msgspec.MsgspecError):
        return None
