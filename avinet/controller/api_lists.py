"""What a list of configuration objects may be narrowed by: a name, a text in it, any simple field, and a page.

``?name=``, ``?search=``, ``?fields=`` and ``?page``/``?page_size`` are as in the Avi API; so is a filter by a field of
the kind (``?enabled=false``), where a reference is compared by name, UUID or URL.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import urlencode

import msgspec
from msgspec import inspect

from avinet.controller.api_shapes import NAMED
from avinet.model.config import KINDS, ConfigObject
from avinet.model.configuration import Configuration, Stored
from avinet.model.ids import ObjectId
from avinet.model.intake import READ_ONLY, referred
from avinet.model.shown import SECRET_FIELDS
from avinet.rest.problem import InvalidQueryError

T = TypeVar("T")

MAX_PAGE = 1_000
"""Objects in one answer: a MiB or two, and some 10 ms of shaping them."""
MAX_PAGES = 1_000_000
ALWAYS = ("uuid", "url", "name")
"""Fields that ``?fields=`` need not name: without them nothing could be done with an answer."""
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
_SIMPLE = (inspect.StrType, inspect.BoolType, inspect.IntType, inspect.FloatType, inspect.EnumType)


class ListQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every list takes."""

    name: Text | None = None
    search: Text | None = None
    """Those whose name has it, in whatever case; also as ``(name,TEXT)``."""
    fields: Text | None = None
    """Names of fields, with commas between; the others are left out."""
    page: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGES)] = 1
    page_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE
    include_name: bool | None = None
    """Taken for the Avi SDK's sake; references always include the name."""


_OWN = frozenset(ListQuery.__struct_fields__)


def query_of(kind: str) -> type[ListQuery]:
    """``ListQuery`` with a filter for each simple field of the kind."""
    info = inspect.type_info(KINDS[kind])
    assert isinstance(info, inspect.StructType)  # noqa: S101 - for the checker: every kind is a Struct
    secret = SECRET_FIELDS.get(KINDS[kind], ())
    filters: list[tuple[str, Any, None]] = []
    for field in info.fields:
        simple = str if field.name in NAMED else _filter_type(field.type)
        if simple is not None and field.name not in _OWN and field.name not in secret:
            filters.append((field.name, simple | None, None))
    made: Any = msgspec.defstruct(
        f"{KINDS[kind].__name__}ListQuery",
        filters,
        bases=(ListQuery,),
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )
    return cast("type[ListQuery]", made)


def _filter_type(info: inspect.Type) -> Any:
    """What a filter by such a field takes, or None when it is not simple.  A reference is text."""
    if isinstance(info, inspect.Metadata):
        return _filter_type(info.type)
    if isinstance(info, inspect.UnionType):
        inner = [part for part in info.types if not isinstance(part, inspect.NoneType)]
        return _filter_type(inner[0]) if len(inner) == 1 else None
    if not isinstance(info, _SIMPLE):
        return None
    if isinstance(info, inspect.EnumType):
        return info.cls
    kinds = {inspect.BoolType: bool, inspect.IntType: int, inspect.FloatType: float}
    return kinds.get(type(info), str)


def page_of(
    kind: str, query: ListQuery, now: Configuration, shape: Callable[[Stored], Mapping[str, Any]]
) -> dict[str, Any]:
    """The answer to a list; only what is on the page is shaped."""
    names = fields_of(query, (*KINDS[kind].__struct_fields__, *READ_ONLY))
    chosen = [thing for thing in now.all_of(KINDS[kind]) if _matches(thing, query, now)]
    return paged(kind, query, chosen, lambda thing: shape(now.objects[thing.uuid]), names)


def paged(
    kind: str,
    query: ListQuery,
    chosen: Sequence[T],
    shape: Callable[[T], Mapping[str, Any]],
    names: Collection[str] | None,
) -> dict[str, Any]:
    """The page of ``chosen`` that is asked for, with the fields ``names``, or all."""
    start = (query.page - 1) * query.page_size
    results = [shape(thing) for thing in chosen[start : start + query.page_size]]
    if names is not None:
        results = [{name: value for name, value in one.items() if name in names} for one in results]
    body: dict[str, Any] = {"count": len(chosen), "results": results}
    if start + query.page_size < len(chosen):
        body["next"] = f"/api/{kind}?{urlencode(_again(query))}"
    return body


def _again(query: ListQuery) -> dict[str, str]:
    """The same query for the next page."""
    given = {
        name: getattr(query, name) for name in query.__struct_fields__ if getattr(query, name) is not None
    }
    given |= {"page": query.page + 1, "page_size": query.page_size}
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in given.items()
    }


def called(name: str, query: ListQuery) -> bool:
    """Whether ``?name=`` and ``?search=`` let it pass."""
    if query.name is not None and name != query.name:
        return False
    return query.search is None or _searched(query.search) in name.lower()


def _matches(thing: ConfigObject, query: ListQuery, now: Configuration) -> bool:
    if not called(thing.name, query):
        return False
    for name in query.__struct_fields__:
        wanted = None if name in _OWN else getattr(query, name)
        if name in NAMED and wanted is not None:
            wanted = referred(wanted)
        if wanted is not None and not _same(getattr(thing, name), wanted, now):
            return False
    return True


def _searched(text: str) -> str:
    """The text of ``(name,TEXT)``, or all of it."""
    if text.startswith("(name,") and text.endswith(")"):
        text = text[6:-1]
    return text.lower()


def _same(value: Any, wanted: Any, now: Configuration) -> bool:
    if value == wanted:
        return True
    stored = now.objects.get(ObjectId(value)) if isinstance(value, str) else None
    # A reference is a UUID here; the caller may have the name, or the URL that an answer shows.
    return stored is not None and referred(wanted) in {value, stored.thing.name}


def fields_of(query: ListQuery, known: Iterable[str]) -> frozenset[str] | None:
    """Those that ``?fields=`` names and that always come; None for all.  ``InvalidQueryError``."""
    if query.fields is None:
        return None
    names = frozenset(name.strip() for name in query.fields.split(","))
    for name in sorted(names - frozenset(known)):
        raise InvalidQueryError(where="fields", what=f"there is no field {name[:64]!r}")
    return names | frozenset(ALWAYS)
