"""Writes ``docs/configuration.md`` out of the configuration model: every object and field, as the code has them.

``python docs/make_configuration.py`` writes the page; with ``--check`` it says whether the page is as it would be
written (a unit test does the same).  Types, bounds and defaults are what ``msgspec`` enforces; meanings are the docstrings
below the fields in ``avinet/model/config*.py``, so a field without one is an error here.
"""

import ast
import enum
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from avinet.model import config
from avinet.model.config import KINDS, ConfigObject

PAGE = Path(__file__).with_name("configuration.md")
HEAD = """\
# Configuration objects

Every kind of object and every field: what may be written, what it is when it is left out, what it means. This page is
written by `docs/make_configuration.py` out of the model; change it there.

An object is a YAML or JSON document with `kind`, `name` and its fields; `avinet config apply -f FILE` takes many at once,
all or none, and names every wrong field by its path. Fields that are left out have their defaults: a document is the
whole object, not a change of it. In documents

- a **reference** is a name, a UUID, `/api/<kind>/<uuid>` or `/api/<kind>?name=<name>`;
- an address is `10.0.0.1`, `2001:db8::1` or a host name, or `{addr: ..., type: V4|V6|DNS}`;
- `uuid`, `url`, `_last_modified`, `tenant_ref`, `warnings`, and what the API says of a certificate beside its text, may
  stay in what is sent back; nothing of it is changed. A `uuid` that exists, with another `name`, renames.

A private key is shown nowhere. An SSLKeyAndCertificate that is sent back without `key` keeps the one it has, as long as
that belongs to the certificate.

Examples: [web.yaml](../etc/examples/web.yaml), [https.yaml](../etc/examples/https.yaml),
[tcp.yaml](../etc/examples/tcp.yaml), [pools.yaml](../etc/examples/pools.yaml).
"""
ORDER = ("VirtualService", "Pool", "HealthMonitor", "SSLKeyAndCertificate", "ServiceEngineGroup")


class UndocumentedError(Exception):
    """A class or field has no docstring."""


class Source:
    """Docstrings and annotations that a class does not keep."""

    def __init__(self) -> None:
        self._modules: dict[str, dict[str, ast.ClassDef]] = {}

    def _node(self, cls: type) -> ast.ClassDef:
        """A class as it is written, in whichever module that is."""
        if cls.__module__ not in self._modules:
            path = Path(str(sys.modules[cls.__module__].__file__))
            tree = ast.parse(path.read_text(encoding="utf-8"))
            self._modules[cls.__module__] = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
        return self._modules[cls.__module__][cls.__name__]

    def meaning(self, cls: type) -> str:
        """Of a class."""
        found = ast.get_docstring(self._node(cls))
        if not found:
            raise UndocumentedError(cls.__name__)
        return found

    def fields(self, cls: type) -> dict[str, tuple[str, str]]:
        """Name of a field or member to its annotation and its docstring; an enumeration's may have none."""
        found: dict[str, tuple[str, str]] = {}
        name = ""
        for node in self._node(cls).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
                found[name] = (ast.unparse(node.annotation), "")
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                found[name] = ("", "")
            elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                found[name] = (found[name][0], str(node.value.value))
                name = ""
        return found


def _prose(text: str) -> str:
    """reStructuredText's literals as Markdown's, in one line that a table can hold."""
    return " ".join(text.replace("``", "`").replace("|", "\\|").split())


def _linked(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _type(info: inspect.Type, annotation: str) -> str:  # noqa: PLR0911 - a table of types
    """What may be written."""
    if isinstance(info, inspect.Metadata):
        extra = info.extra or {}
        if "refers_to" in extra:
            return f"reference to {_linked(KINDS[extra['refers_to']].__name__)}"
        return _type(info.type, annotation)
    if isinstance(info, inspect.UnionType):
        inner = next(t for t in info.types if not isinstance(t, inspect.NoneType))
        return f"{_type(inner, annotation)}, or null"
    if isinstance(info, inspect.VarTupleType):
        return f"list of {_type(info.item_type, annotation)}"
    if isinstance(info, inspect.StructType):
        return "address" if info.cls is config.IpAddr else _linked(info.cls.__name__)
    if isinstance(info, inspect.EnumType):
        return _linked(info.cls.__name__)
    if isinstance(info, inspect.StrType):
        return f"text of up to {info.max_length:,} characters" if info.max_length else "text"
    if isinstance(info, inspect.BoolType):
        return "true or false"
    assert isinstance(info, inspect.IntType | inspect.FloatType)  # noqa: S101 - the last kind there is
    noun = "seconds" if "Seconds" in annotation else "number"
    low = f"over {info.gt}" if info.gt is not None else f"{info.ge}"
    return f"{noun}, {low} to {info.le:,}"


def _default(field: inspect.Field) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        value: Any = field.default_factory()
    elif field.default is msgspec.NODEFAULT:
        return "required"
    else:
        value = field.default
    if isinstance(value, msgspec.Struct):
        return "its defaults"
    plain = msgspec.to_builtins(value)
    if plain == "" or plain is None or plain == ():
        return "none"
    return f"`{msgspec.json.encode(plain).decode()}`" if not isinstance(plain, str) else f"`{plain}`"


def _default_of(kind: type, field: inspect.Field) -> str:
    if kind is config.VirtualService and field.name == "se_group_ref":
        return f"`{config.DEFAULT_GROUP}`"
    if kind is config.Server and field.name == "port":
        return "the pool's `default_server_port`"
    return _default(field)


def _struct(source: Source, cls: type, level: str) -> list[str]:
    lines = [f"{level} {cls.__name__}", "", _prose(source.meaning(cls)), ""]
    lines += ["| field | what | default | meaning |", "|---|---|---|---|"]
    own = source.fields(cls)
    if issubclass(cls, ConfigObject):
        own = source.fields(ConfigObject) | own
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)  # noqa: S101 - for the checker
    for field in info.fields:
        annotation, meaning = own[field.name]
        if field.name == "uuid":
            continue
        if not meaning:
            raise UndocumentedError(f"{cls.__name__}.{field.name}")
        row = (f"`{field.name}`", _type(field.type, annotation), _default_of(cls, field), _prose(meaning))
        lines.append(f"| {' | '.join(row)} |")
    return [*lines, ""]


def _choices(source: Source, cls: type[enum.Enum]) -> list[str]:
    lines = [f"### {cls.__name__}", "", _prose(source.meaning(cls)), "", "| value | meaning |", "|---|---|"]
    documented = source.fields(cls)
    for name, member in cls.__members__.items():
        lines.append(f"| `{member.value}` | {_prose(documented[name][1])} |")
    return [*lines, ""]


def _parts(info: inspect.Type) -> list[type]:
    """Structs and enumerations below a type, each once, in the order of their fields."""
    if isinstance(info, inspect.Metadata):
        return _parts(info.type)
    if isinstance(info, inspect.UnionType):
        return [part for one in info.types for part in _parts(one)]
    if isinstance(info, inspect.VarTupleType):
        return _parts(info.item_type)
    if isinstance(info, inspect.EnumType):
        return [info.cls]
    if isinstance(info, inspect.StructType) and info.cls is not config.IpAddr:
        below = [part for field in info.fields for part in _parts(field.type)]
        return [info.cls, *below]
    return []


def page() -> str:
    """The whole page."""
    source = Source()
    lines = [HEAD]
    told: set[type] = set()
    for name in ORDER:
        kind = KINDS[name.lower()]
        told.add(kind)
        lines += _struct(source, kind, "##")
        for part in _parts(inspect.type_info(kind)):
            if part in told:
                continue
            told.add(part)
            lines += _choices(source, part) if issubclass(part, enum.Enum) else _struct(source, part, "###")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Write the page, or compare."""
    made = page()
    if "--check" in arguments:
        return 0 if PAGE.read_text(encoding="utf-8") == made else 1
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
