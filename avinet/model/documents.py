"""Configuration documents as text: YAML or JSON, one document or several, to plain values.

YAML is read with the safe loader and less than it allows: no aliases (a few lines of them can mean gigabytes), no
key twice in one mapping, bounded size, depth and number of values.  JSON is YAML, so there is one reader.

What can be is scanned by libyaml, at four times the speed of PyYAML's own scanner; that one then tells what is wrong with
the rest, and reads the few texts that only libyaml refuses (JSON's pairs of escapes for one character).
"""

import json
from typing import Any, ClassVar

import yaml

from avinet.errors import AvinetError, Kind, error
from avinet.model.problems import quoted

MAX_BYTES = 8 * 1024 * 1024
"""Five thousand virtual services with their pools."""
MAX_DOCUMENTS = 10_000
MAX_DEPTH = 20
"""The deepest object we have nests five levels."""
MAX_VALUES = 100_000
"""Of one document, keys counted: a pool of 2,000 servers with every field has 40,000.  Each takes some 700 bytes until its
document is read, so that 8 MiB of small ones would take half a gigabyte."""


@error
class DocumentError(AvinetError):
    """{where}: {why}."""

    kind: ClassVar[Kind] = Kind.INVALID
    where: str
    why: str


_YAML = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(_YAML + word for word in ("str", "int", "float", "bool", "null", "map", "seq"))
"""What JSON has, too.  Others make objects of Python's, or values that no field takes."""


_NUMBERS = frozenset({f"{_YAML}int", f"{_YAML}float"})


def _tagged(tag: str) -> str:
    if tag == f"{_YAML}merge":
        return "merging (<<) is not allowed here; write the fields out"
    word = tag.replace(_YAML, "!!")
    return f"the tag {quoted(word)} is not allowed here; write plain text, numbers, lists and objects"


class _Strict(yaml.composer.Composer, yaml.constructor.SafeConstructor):
    """Without aliases, repeated keys, and tags but those of plain values."""

    check_event: Any
    peek_event: Any
    depth = 0
    values = 0

    def compose_document(self) -> Any:
        self.values = 0
        return super().compose_document()

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem="aliases are not allowed here", problem_mark=event.start_mark)
        self.values += 1
        if self.values > MAX_VALUES:
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"it has more than {MAX_VALUES} values", problem_mark=event.start_mark
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"it nests deeper than {MAX_DEPTH} levels", problem_mark=event.start_mark
            )
        try:
            node = super().compose_node(parent, index)
        finally:
            self.depth -= 1
        if node is not None and node.tag not in _PLAIN_TAGS:
            raise yaml.MarkedYAMLError(problem=_tagged(node.tag), problem_mark=node.start_mark)
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        if node.tag in _NUMBERS and ":" in node.value:
            # ``22:80`` to YAML 1.1 is 22 * 60 + 80, which nobody means.  One of 8 MiB keeps a processor busy for hours.
            node.tag = f"{_YAML}str"
        if any("\ud800" <= c <= "\udfff" for c in node.value):
            # JSON writes one character beyond U+FFFF as two escapes; YAML takes them for two.
            try:
                node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError as why:
                raise yaml.MarkedYAMLError(
                    problem="half of a character (a lone surrogate) is not text", problem_mark=node.start_mark
                ) from why
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's signature
        try:
            return super().construct_object(node, deep)
        except (LookupError, AttributeError, TypeError, ValueError, OverflowError) as why:
            # A value under an explicit tag that it does not fit, ``!!int ""``: PyYAML trips over its own feet.
            raise yaml.MarkedYAMLError(
                problem=f"the value does not fit its tag {node.tag}", problem_mark=node.start_mark
            ) from why

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's signature
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(
                node, deep
            )  # a list tagged as a mapping: refused there, with its place
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"the key {quoted(key)} is not text", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {quoted(key)} is there twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Resolver(yaml.resolver.Resolver):
    """Dates and the like are no values of ours; as text they get a clear error from the field they stand in."""


_Resolver.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.resolver.Resolver.yaml_implicit_resolvers.items()
}


class _Slow(_Strict, _Resolver, yaml.SafeLoader):
    """PyYAML's own scanner, whose errors are the better ones."""


def _loaders() -> list[Any]:
    """In the order in which they are tried."""
    try:
        from yaml.cyaml import CParser  # type: ignore[attr-defined] # its stubs leave it out
    except ImportError:  # a PyYAML that was built without libyaml
        return [_Slow]

    class Fast(_Strict, _Resolver, CParser):
        """libyaml's scanner and parser; the nodes are composed here, where they are looked at."""

        def __init__(self, stream: Any) -> None:
            CParser.__init__(self, stream)
            _Strict.__init__(self)
            yaml.constructor.SafeConstructor.__init__(self)
            _Resolver.__init__(self)

    return [Fast, _Slow]


_LOADERS = _loaders()


def parse_documents(text: str, source: str = "the input") -> list[dict[str, Any]]:
    """Every document of ``text`` as a mapping; empty ones are skipped.  ``source`` names it in errors."""
    if len(text) > MAX_BYTES:
        raise DocumentError(where=source, why=f"it is over {MAX_BYTES} bytes; apply it in parts")
    for loader in _LOADERS[:-1]:
        try:
            return _read(text, source, loader)
        except (yaml.YAMLError, ValueError, RecursionError):
            continue
    try:
        return _read(text, source, _LOADERS[-1])
    except yaml.MarkedYAMLError as why:
        mark = why.problem_mark
        place = f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source
        raise DocumentError(where=place, why=why.problem or "it is not YAML") from why
    except (yaml.YAMLError, ValueError, RecursionError) as why:
        raise DocumentError(where=source, why=str(why).splitlines()[0] if str(why) else "not YAML") from why


def _read(text: str, source: str, loader: Any) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    for number, document in enumerate(yaml.load_all(text, Loader=loader), 1):
        if document is None:
            continue
        if not isinstance(document, dict):
            raise DocumentError(
                where=f"{source}, document {number}",
                why=f"it is {_called(document)}, not an object with kind, name and so on",
            )
        if len(documents) >= MAX_DOCUMENTS:
            raise DocumentError(where=source, why=f"it has more than {MAX_DOCUMENTS} documents")
        documents.append(document)
    if not documents:
        raise DocumentError(where=source, why="there is no document in it")
    return documents


def parse_json(body: bytes, source: str) -> Any:
    """A JSON text's value; ``DocumentError``, which ``source`` names, also where an object has a key twice.

    The standard library's reader, since faster ones take the last of two like keys and say nothing.
    """
    try:
        return json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except _OddJsonError as why:
        raise DocumentError(where=source, why=str(why)) from None
    except json.JSONDecodeError as why:
        place = f"{source}, line {why.lineno}, column {why.colno}"
        raise DocumentError(where=place, why=f"it is not JSON: {why.msg}") from None
    except UnicodeDecodeError as why:
        raise DocumentError(where=source, why=f"it is not UTF-8 at byte {why.start}") from None
    except (ValueError, RecursionError) as why:
        raise DocumentError(
            where=source, why="it is not JSON that can be read: too deep, or too long a number"
        ) from why


class _OddJsonError(Exception):
    """It is JSON to the reader, and not to us."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value] # add
        raise _OddJsonError(f"the key {quoted(twice)} is there twice")
    return found


def _no_constant(word: str) -> Any:
    raise _OddJsonError(f"{word} is not JSON")


def _called(value: Any) -> str:
    names = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}
    return names.get(type(value), "something else")
