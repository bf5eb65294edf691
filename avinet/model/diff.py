"""What differs between two configurations, field by field, as an operator reads it.

A field is named by its path.  Items of a list that have a name of their own (a server's address and port, a service's
port) are told by it, ``servers[10.0.0.1:8080].ratio``, so that one server more is one line and not a list of all
that moved; other items by their number.  References are shown by name.  What is secret is never shown, only that it
changed; long text is shown by its length and digest.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from avinet.model.config import ConfigObject, kind_of
from avinet.model.configuration import Configuration
from avinet.model.ids import ObjectId
from avinet.model.shown import SECRET_FIELDS

SECRET, SECRET_CHANGED = "(secret)", "(secret, changed)"
MAX_TEXT = 200
"""Characters of a value that are shown; a certificate is 2,000 and tells nobody anything."""
MAX_FIELDS = 10_000
"""Of one diff: about 2 MiB of JSON.  The objects are all named, however many fields are left out."""

Value = Any
"""JSON values; None where there is none."""


class FieldChange(msgspec.Struct, frozen=True):
    """One field: ``old`` is null where it came, ``new`` where it went."""

    path: str
    old: Value
    new: Value


class ObjectChange(msgspec.Struct, frozen=True, kw_only=True):
    """One object.  A created one has the fields that are not at their defaults; a deleted one has none."""

    kind: str
    name: str
    uuid: ObjectId
    change: str
    """``created``, ``updated`` or ``deleted``."""
    fields: tuple[FieldChange, ...] = ()
    fields_left_out: int = 0
    """Beyond ``MAX_FIELDS`` of the whole diff."""


def diff(before: Configuration, after: Configuration) -> tuple[ObjectChange, ...]:
    """Every object that differs, by kind and name."""
    found: list[ObjectChange] = []
    for uuid in before.objects.keys() | after.objects.keys():
        old, new = before.objects.get(uuid), after.objects.get(uuid)
        if old is new or (old is not None and new is not None and old.thing == new.thing):
            continue
        thing = (new or old).thing  # type: ignore[union-attr] # one of them is there
        change = "created" if old is None else "deleted" if new is None else "updated"
        fields: tuple[FieldChange, ...] = ()
        if new is not None:
            fields = changes_of(None if old is None else old.thing, new.thing, _names_in(before, after))
        found.append(
            ObjectChange(kind=kind_of(thing), name=thing.name, uuid=uuid, change=change, fields=fields)
        )
    return _bounded(sorted(found, key=lambda one: (one.kind, one.name, one.uuid)))


def _bounded(changes: list[ObjectChange]) -> tuple[ObjectChange, ...]:
    left = MAX_FIELDS
    bounded: list[ObjectChange] = []
    for one in changes:
        kept = one.fields[:left]
        left -= len(kept)
        if len(kept) < len(one.fields):
            out = len(one.fields) - len(kept)
            bounded.append(msgspec.structs.replace(one, fields=kept, fields_left_out=out))
        else:
            bounded.append(one)
    return tuple(bounded)


NameOf = Callable[[str], str]
"""A UUID's name; any other text as it is."""


def _names_in(before: Configuration, after: Configuration) -> NameOf:
    def name_of(text: str) -> str:
        stored = after.objects.get(ObjectId(text)) or before.objects.get(ObjectId(text))
        return text if stored is None else stored.thing.name

    return name_of


def changes_of(old: ConfigObject | None, new: ConfigObject, name_of: NameOf) -> tuple[FieldChange, ...]:
    """What differs between two states of one object; without ``old``, what is not at its default."""
    secrets = SECRET_FIELDS.get(type(new), ())
    after: dict[str, Any] = msgspec.to_builtins(new)
    before: dict[str, Any] = _defaults(type(new)) if old is None else msgspec.to_builtins(old)
    changes: list[FieldChange] = []
    for field, value in after.items():
        was = before.get(field)
        if field == "uuid" or was == value:
            continue
        if field in secrets:
            changes.append(FieldChange(field, *((None, SECRET) if old is None else (SECRET, SECRET_CHANGED))))
        elif old is None:
            # Of something new, its own defaults are no news: it is told as it stands.
            changes.append(FieldChange(field, None, _shown(value, name_of)))
        else:
            changes.extend(_between(field, was, value, name_of))
    return tuple(changes)


def _defaults(kind: type[ConfigObject]) -> dict[str, Any]:
    """Fields that have a default, at it."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.default is not msgspec.NODEFAULT:
            found[field.encode_name] = msgspec.to_builtins(field.default)
    return found


def _between(path: str, old: Value, new: Value, name_of: NameOf) -> Iterator[FieldChange]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            yield from _between(f"{path}.{name}", old.get(name), new.get(name), name_of)
        return
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        yield from _lists(path, old, new, name_of)
        return
    yield FieldChange(path, _shown(old, name_of), _shown(new, name_of))


def _lists(path: str, old: Sequence[Value], new: Sequence[Value], name_of: NameOf) -> Iterator[FieldChange]:
    if all(isinstance(item, str) and len(item) <= MAX_TEXT for item in (*old, *new)):
        yield FieldChange(path, _shown(old, name_of), _shown(new, name_of))
        return
    before, after = _keyed(old), _keyed(new)
    if before is None or after is None:
        before, after = dict(_numbered(old)), dict(_numbered(new))
    for key in {**before, **after}:
        yield from _between(f"{path}[{key}]", before.get(key), after.get(key), name_of)
    common = [key for key in before if key in after]
    order = [key for key in after if key in before]
    if common != order:
        yield FieldChange(f"{path} (order)", list(before), list(after))


def _numbered(items: Sequence[Value]) -> Iterator[tuple[str, Value]]:
    return ((str(number), item) for number, item in enumerate(items))


def _keyed(items: Sequence[Value]) -> Mapping[str, Value] | None:
    """Items by their own names; None when some have none, or share one."""
    found: dict[str, Value] = {}
    for item in items:
        key = _key_of(item)
        if key is None or key in found:
            return None
        found[key] = item
    return found


def _key_of(item: Value) -> str | None:
    if not isinstance(item, dict):
        return None
    address, port = item.get("ip") or item.get("ip_address"), item.get("port")
    addr = address.get("addr") if isinstance(address, dict) else None
    if addr is None:
        return None if port is None else str(port)
    if port is None:
        return str(addr)
    return f"[{addr}]:{port}" if ":" in addr else f"{addr}:{port}"


def _shown(value: Value, name_of: NameOf) -> Value:
    if isinstance(value, dict):
        return {name: _shown(item, name_of) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item, name_of) for item in value]
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            digest = hashlib.sha256(value.encode()).hexdigest()
            return f"({len(value)} characters, SHA-256 {digest[:16]})"
        return name_of(value)
    return value
