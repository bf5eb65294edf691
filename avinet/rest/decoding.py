"""From what came to what a route takes: the query and the body, by the route's own types."""

import re
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

import msgspec

from avinet.rest.problem import BodyTooLargeError, InvalidBodyError, InvalidQueryError, MediaTypeError
from avinet.rest.route import Route

_AT = re.compile(r" - at `(?:key in )?\$(?P<path>.*)`$")


def decode_query(route: Route, target: str) -> Any:
    """The target's query as the route's Struct; unknown names and repetitions are refused."""
    pairs = parse_qsl(target.partition("?")[2], keep_blank_values=True)
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise InvalidQueryError(where=name, what="it is given twice")
        values[name] = value
    if route.query is None:
        for name in values:
            raise InvalidQueryError(where=name, what="nothing of that name is known here")
        return None
    try:
        query = msgspec.convert(values, route.query, strict=False)
    except msgspec.ValidationError as why:
        where, what = _located(str(why))
        raise InvalidQueryError(where=where, what=what) from why
    for name in values:
        # The conversion takes the word null for nothing: a filter that does not filter.
        if getattr(query, name) is None:
            raise InvalidQueryError(where=name, what="null is no value; leave it out")
    return query


def decode_body(route: Route, content: BinaryIO | None, content_type: str) -> Any:
    """The body as the route's type; what is wrong is named by its path."""
    raw: bytes = content.read(route.body_bytes + 1) if content is not None else b""
    if len(raw) > route.body_bytes:
        raise BodyTooLargeError(limit=route.body_bytes)
    if route.request is None:
        if raw.strip() not in {b"", b"{}", b"null"}:  # clients that always send JSON mean nothing by these
            raise InvalidBodyError(where="the top", what="this takes no body")
        return None
    media_type = content_type.split(";", maxsplit=1)[0].strip().lower()
    if media_type not in route.consumes:
        raise MediaTypeError(got=media_type or "nothing", wanted=" or ".join(route.consumes))
    if route.request is bytes:
        return raw
    try:
        return msgspec.json.decode(raw, type=route.request)
    except msgspec.ValidationError as why:
        where, what = _located(str(why))
        raise InvalidBodyError(where=where, what=what) from why
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as why:
        raise InvalidBodyError(where="the top", what=f"it is not JSON: {why}") from why


def _located(message: str) -> tuple[str, str]:
    """Split msgspec's ``what - at `$.path``` into a path and what is wrong there."""
    match = _AT.search(message)
    if match is None:
        return "the top", message
    return match["path"].lstrip(".") or "the top", message[: match.start()]
