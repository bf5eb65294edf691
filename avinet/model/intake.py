"""From what an operator writes to stored objects, or to every reason why not.

``read`` walks a document by the types of ``avinet.model.config``, so that each wrong field is named by its path
(``services[0].port``) and all of them at once.  Shorthand is taken: a bare address for ``{addr, type}``; a name, an
API path or ``/api/pool?name=x`` for a reference.  Unknown fields are refused; what the API adds to its answers
(``url``, ``_last_modified``, ``tenant_ref``) is ignored, so that an answer can be sent back.
"""

import functools
import ipaddress
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import msgspec
from msgspec import inspect

from avinet.model.config import CertificateText, ConfigObject, IpAddr, IpAddrType
from avinet.model.ids import ObjectId
from avinet.model.patterns import is_host_name
from avinet.model.problems import MAX_PROBLEMS, plain, quoted
from avinet.model.shown import CERTIFICATE_FACTS

READ_ONLY = frozenset({"url", "_last_modified", "tenant_ref", "kind", "uuid", "warnings"})
READ_ONLY_WITHIN: Mapping[type, frozenset[str]] = {CertificateText: CERTIFICATE_FACTS}
"""Of objects within objects."""
LARGE = 10**18
"""Larger numbers are not shown: Python refuses to write out those of more than 4,300 digits."""
MAX_TEXT = 1024
"""Of a text field that says nothing else; the longest sensible one is a description."""
MAX_ITEMS = 10_000
"""Of one list: beyond what any field may have, so that no list makes 100,000 problems."""


Resolve = Callable[[str, str], ObjectId | None]
"""(kind, name or UUID) to the UUID it has or will have."""


_WRONG = object()
"""In place of a value, once its problem has been told."""


def _stand_in(info: inspect.Type) -> Any:
    """A value of a type that trips no check by itself."""
    if isinstance(info, inspect.Metadata):
        return ObjectId("") if "refers_to" in (info.extra or {}) else _stand_in(info.type)
    if isinstance(info, inspect.StructType):
        return info.cls(**{field.name: _stand_in(field.type) for field in info.fields if field.required})
    if isinstance(info, inspect.EnumType):
        return next(iter(info.cls))
    if isinstance(info, inspect.IntType | inspect.FloatType):
        return info.ge if info.ge is not None else info.le
    return {inspect.VarTupleType: (), inspect.StrType: "", inspect.BoolType: False}.get(type(info))


@functools.cache
def _type_of(kind: type[ConfigObject]) -> inspect.StructType:
    """Its fields; looking at a class takes ten times as long as reading an object of it."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)  # noqa: S101 - for the checker: every kind is a Struct
    return info


class Enough(Exception):  # noqa: N818 - nothing went wrong but what is told
    """There are as many problems as anybody is told of: to look for more would only cost time."""


@attrs.define
class Reader:
    """Reads one document's fields; ``problems`` are (path, why)."""

    resolve: Resolve
    problems: list[tuple[str, str]] = attrs.field(factory=list)

    def _tell(self, problem: tuple[str, str]) -> None:
        self.problems.append(problem)
        if len(self.problems) >= MAX_PROBLEMS:
            raise Enough

    def read(self, kind: type[ConfigObject], uuid: ObjectId, document: Mapping[str, Any]) -> ConfigObject:
        """The object.  Where there are problems, harmless values stand in for what is wrong.

        So the rest can be checked for what it means, and an operator hears of everything at once.  ``Enough`` when that
        is more than anyone mends at once.
        """
        fields = {name: value for name, value in document.items() if name not in READ_ONLY}
        values = self._fields(_type_of(kind), fields, "", skip=frozenset({"uuid"}))
        return kind(uuid=uuid, **values)

    def _fields(
        self,
        info: inspect.StructType,
        given: Mapping[str, Any],
        path: str,
        skip: frozenset[str] = frozenset(),
    ) -> dict[str, Any]:
        known = {field.encode_name: field for field in info.fields if field.name not in skip}
        values: dict[str, Any] = {}
        for name, value in given.items():
            field = known.get(name)
            where = f"{path}.{plain(name)}" if path else plain(name)
            if field is None:
                self._tell((where, f"there is no such field; known: {', '.join(sorted(known))}"))
            else:
                read = self._value(field.type, value, where)
                if read is not _WRONG:
                    values[field.name] = read
        for name, field in known.items():
            if not field.required:
                continue  # its default stands in
            if name not in given:
                self._tell((f"{path}.{name}" if path else name, "it is required"))
            values.setdefault(field.name, _stand_in(field.type))
        return values

    def _value(self, info: inspect.Type, value: Any, path: str) -> Any:
        if isinstance(info, inspect.Metadata):
            return self._annotated(info, value, path)
        if isinstance(info, inspect.UnionType):
            if value is None:
                return None
            inner = next(t for t in info.types if not isinstance(t, inspect.NoneType))
            return self._value(inner, value, path)
        if isinstance(info, inspect.StructType):
            return self._struct(info, value, path)
        if isinstance(info, inspect.VarTupleType):
            return self._items(info.item_type, value, path)
        return self._scalar(info, value, path)

    def _annotated(self, info: inspect.Metadata, value: Any, path: str) -> Any:
        extra = info.extra or {}
        if "refers_to" in extra:
            return self._reference(extra["refers_to"], value, path)
        if "named" in extra and isinstance(value, str):
            value = referred(value)
        return self._value(info.type, value, path)

    def _struct(self, info: inspect.StructType, value: Any, path: str) -> Any:
        if info.cls is IpAddr and isinstance(value, str):
            return self._address(value, None, path)
        if info.cls is CertificateText and isinstance(value, str):
            value = {"certificate": value}
        if not isinstance(value, dict):
            wanted = "an address" if info.cls is IpAddr else "an object"
            self._tell((path, f"it must be {wanted}, not {_called(value)}"))
            return _WRONG
        if info.cls is IpAddr and isinstance(value.get("addr"), str) and set(value) <= {"addr", "type"}:
            return self._address(value["addr"], value.get("type"), f"{path}.addr")
        ignored = READ_ONLY_WITHIN.get(info.cls, frozenset())
        given = {name: one for name, one in value.items() if name not in ignored} if ignored else value
        return info.cls(**self._fields(info, given, path))

    def _address(self, text: str, given: Any, path: str) -> Any:
        try:
            # An address with a zone (fe80::1%eth0) means something on one host only.
            address = ipaddress.ip_address(text.replace("%", "/"))
            found = IpAddrType.V4 if address.version == 4 else IpAddrType.V6
            if why := _no_place(address):
                self._tell((path, f"{quoted(text)} {why}"))
                return _WRONG
        except ValueError:
            found = IpAddrType.DNS
            if not is_host_name(text):
                self._tell((path, f"{quoted(text)} is neither an IP address nor a host name"))
                return _WRONG
        if given is not None and given != found.value:
            self._tell((path, f"{quoted(text)} is not of type {plain(given)}"))
            return _WRONG
        return IpAddr(addr=text, type=found)

    def _items(self, info: inspect.Type, value: Any, path: str) -> Any:
        if not isinstance(value, list):
            self._tell((path, f"it must be a list, not {_called(value)}"))
            return _WRONG
        if len(value) > MAX_ITEMS:
            self._tell((path, f"it has {len(value)} items; no list takes more than {MAX_ITEMS}"))
            return _WRONG
        read = (self._value(info, item, f"{path}[{index}]") for index, item in enumerate(value))
        return tuple(_stand_in(info) if one is _WRONG else one for one in read)

    def _reference(self, kind: str, value: Any, path: str) -> Any:
        if not isinstance(value, str):
            self._tell((path, f"it must name a {kind}, not be {_called(value)}"))
            return _WRONG
        name = referred(value)
        found = self.resolve(kind, name)
        if found is None:
            self._tell((path, f"there is no {kind} {quoted(name)}"))
            return _WRONG
        return found

    def _scalar(self, info: inspect.Type, value: Any, path: str) -> Any:
        wanted = _SCALARS.get(type(info))
        if wanted is None and not isinstance(info, inspect.EnumType):
            raise TypeError(info)
        limit = (info.max_length if isinstance(info, inspect.StrType) else None) or MAX_TEXT
        if isinstance(value, str) and len(value) > limit:
            self._tell((path, f"it is longer than {limit} characters"))
            return _WRONG
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            self._tell((path, "it has half of a character in it (a lone surrogate)"))
            return _WRONG
        try:
            if isinstance(info, inspect.EnumType):
                return info.cls(value)
            converted = msgspec.convert(value, wanted, strict=True)
        except (msgspec.ValidationError, ValueError, OverflowError):
            self._tell((path, _wanted(info, value)))
            return _WRONG
        if isinstance(info, inspect.IntType | inspect.FloatType):
            low_ok = (info.ge is None or converted >= info.ge) and (info.gt is None or converted > info.gt)
            if not low_ok or (info.le is not None and converted > info.le):
                self._tell((path, _wanted(info, value)))
                return _WRONG
        return converted


_SCALARS: dict[type[inspect.Type], Any] = {
    inspect.StrType: str,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.BoolType: bool,
}


def _no_place(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Why nobody can listen at an address, or be reached there by TCP; empty when that can be."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return f"is an IPv4 address; write {address.ipv4_mapped}"
        if address.is_link_local:
            return "is different on each interface of a host, and none can be named here"
    if address.is_multicast or address == _BROADCAST:
        return "is the address of many"
    return ""


_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


def _wanted(info: inspect.Type, value: Any) -> str:
    if isinstance(info, inspect.EnumType):
        return f"it must be one of {', '.join(str(m.value) for m in info.cls)}, not {quoted(value)}"
    if isinstance(info, inspect.BoolType):
        return f"it must be true or false, not {_called(value)}"
    if isinstance(info, inspect.StrType):
        return f"it must be text, not {_called(value)} (put it in quotes)"
    assert isinstance(info, inspect.IntType | inspect.FloatType)  # noqa: S101 - for the checker: the last kind there is
    noun = "a whole number" if isinstance(info, inspect.IntType) else "a number"
    low = f" from {info.ge}" if info.ge is not None else f" above {info.gt}" if info.gt is not None else ""
    high = f" to {info.le}" if info.le is not None else ""
    if isinstance(value, int) and abs(value) >= LARGE:
        shown: Any = "a number of more than 18 digits"
    else:
        shown = value if isinstance(value, int | float) and not isinstance(value, bool) else _called(value)
    return f"it must be {noun}{low}{high}, not {shown}"


def _called(value: Any) -> str:
    if value is None:
        return "nothing"
    names = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number"}
    return "true or false" if isinstance(value, bool) else names.get(type(value), "something else")


def referred(text: str) -> str:
    """The name or UUID within a reference: ``name``, ``/api/pool/<uuid>``, ``https://.../api/pool?name=x``."""
    if "/api/" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return text
    named = parse_qs(parts.query).get("name")
    return named[0] if named else parts.path.rsplit("/", 1)[-1].split("#", 1)[0]
