"""What a set of documents would change: created, updated, deleted, unchanged; or every reason why it cannot be."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import attrs

from avinet.model.checks import check_object, check_together
from avinet.model.checks_monitor import HTTP_TYPES
from avinet.model.config import (
    DEFAULT_GROUP,
    DEFAULT_SERVER_PORT,
    KINDS,
    ConfigObject,
    FailActionType,
    HealthMonitorType,
    SSLKeyAndCertificate,
    kind_of,
)
from avinet.model.configuration import Configuration, Stored
from avinet.model.ids import ConfigVersion, ObjectId, new_object_id
from avinet.model.intake import Enough, Reader
from avinet.model.problems import MAX_PROBLEMS, InvalidConfigError, Problem, plain, quoted
from avinet.model.references import check_deletes

FOUND = 302
"""Of a redirect without a status: one that browsers do not remember, since the pool comes back."""
BUILT_IN = frozenset({("serviceenginegroup", DEFAULT_GROUP)})
"""What other objects and enrolment rely on; it can be changed but not removed."""


def title(thing: ConfigObject) -> str:
    """``pool/web``: an object as people read it."""
    return f"{kind_of(thing)}/{thing.name}"


@attrs.frozen
class Plan:
    """A change that can be made."""

    puts: tuple[ConfigObject, ...]
    """Created and updated ones."""
    deletes: tuple[ObjectId, ...]
    created: tuple[str, ...]
    updated: tuple[str, ...]
    deleted: tuple[str, ...]
    unchanged: tuple[str, ...]
    kept: tuple[ObjectId, ...] = ()
    """The unchanged ones: what is said of a change is said of them, too."""

    @property
    def empty(self) -> bool:
        """Whether nothing changes."""
        return not self.puts and not self.deletes


@attrs.frozen
class _Wanted:
    number: int
    kind: str
    name: str
    uuid: ObjectId
    document: Mapping[str, Any]


@attrs.define
class _Planner:
    before: Configuration
    new_id: Callable[[str], ObjectId]
    problems: list[Problem] = attrs.field(factory=list)
    wanted: dict[tuple[str, str], _Wanted] = attrs.field(factory=dict)
    by_uuid: dict[ObjectId, _Wanted] = attrs.field(factory=dict)

    @property
    def full(self) -> bool:
        """Whether there are as many problems as anybody is told of."""
        return len(self.problems) >= MAX_PROBLEMS

    def identify(self, number: int, document: Mapping[str, Any]) -> None:
        """Kind, name and UUID of a document, before any of them is read."""
        given, name, uuid = document.get("kind"), document.get("name"), document.get("uuid")
        kind = given.lower() if isinstance(given, str) else ""
        if kind not in KINDS:
            known = ", ".join(cls.__name__ for cls in KINDS.values())
            self._blame(number, plain(given or ""), plain(name or ""), "kind", f"it must be one of {known}")
            return
        if not isinstance(name, str) or not name:
            self._blame(number, kind, "", "name", "it is required, as text")
            return
        existing = self.before.find(kind, uuid if isinstance(uuid, str) else name)
        problem = self._clash(kind, name, uuid, existing)
        if problem is not None:
            self._blame(number, kind, name, *problem)
            return
        identifier = existing.thing.uuid if existing is not None else self.new_id(kind)
        self.wanted[kind, name] = self.by_uuid[identifier] = _Wanted(number, kind, name, identifier, document)

    def _clash(self, kind: str, name: str, uuid: Any, existing: Stored | None) -> tuple[str, str] | None:
        """Why a document cannot be about the object that its name or UUID says: (path, why)."""
        if why := _misnamed(kind, name, uuid, existing):
            return why
        twin = self.wanted.get((kind, name))
        if twin is not None:
            return "name", f"document {twin.number} has this name already"
        if existing is None:
            return None
        same = self.by_uuid.get(existing.thing.uuid)
        if same is not None:
            return "name" if uuid is None else "uuid", f"document {same.number} is about this object already"
        namesake = self.before.find(kind, name)
        if namesake is not None and namesake.thing.uuid != existing.thing.uuid:
            return "name", f"another {kind} has this name already"
        renamed_group = kind == "serviceenginegroup" and existing.thing.name != name
        return ("name", "a group keeps its name: its SEs know it by that") if renamed_group else None

    def _blame(self, number: int, kind: str, name: str, path: str, why: str) -> None:
        if not self.full:
            self.problems.append(Problem(number, kind, plain(name), path, why))

    def resolve(self, kind: str, name: str) -> ObjectId | None:
        """A reference: to a document beside it, or to what there is."""
        wanted = self.wanted.get((kind, name))
        if wanted is not None:
            return wanted.uuid
        stored = self.before.find(kind, name)
        return None if stored is None else stored.thing.uuid

    def read(self) -> list[ConfigObject]:
        """Every document that is right in itself."""
        read: list[ConfigObject] = []
        for wanted in self.wanted.values():
            document = self._with_key(wanted, _with_defaults(wanted.kind, wanted.document))
            reader = Reader(self.resolve)
            checked: list[tuple[str, str]] = []
            try:
                thing = reader.read(KINDS[wanted.kind], wanted.uuid, document)
                told = [path for path, _ in reader.problems]
                found = ((path, why) for path, why in self._check(thing, wanted) if _apart(path, told))
                checked = list(islice(found, MAX_PROBLEMS))
            except Enough:
                pass
            for path, why in (*reader.problems, *checked):
                self._blame(wanted.number, wanted.kind, wanted.name, path, why)
            if self.full:
                break
            if not reader.problems and not checked:
                read.append(thing)
        return read

    def _with_key(self, wanted: _Wanted, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """A key is not shown, so whoever sends back what he saw has none: the stored one stays."""
        stored = self.before.objects.get(wanted.uuid)
        if stored is None or not isinstance(stored.thing, SSLKeyAndCertificate) or "key" in document:
            return document
        return {**document, "key": stored.thing.key}

    def _check(self, thing: ConfigObject, wanted: _Wanted) -> Iterator[tuple[str, str]]:
        kept = isinstance(thing, SSLKeyAndCertificate) and "key" not in wanted.document
        for path, why in check_object(thing):
            if path == "key" and kept:
                yield path, f"the stored key stays when none is given, but {why}; give the certificate's own"
            else:
                yield path, why

    def check(self, read: list[ConfigObject], deletes: Sequence[ObjectId]) -> None:
        """What must hold among all objects afterwards."""
        after = self.before.with_changes(self.before.version, [Stored(t, 0) for t in read], deletes)
        numbers = {wanted.uuid: wanted.number for wanted in self.wanted.values()}
        for uuid, path, why in check_together(numbers, after):
            thing = after.objects[uuid].thing
            self._blame(numbers.get(uuid, 0), kind_of(thing), thing.name, path, why)
        for uuid, why in check_deletes(frozenset(deletes), after):
            thing = self.before.objects[uuid].thing
            self._blame(0, kind_of(thing), thing.name, "", f"it cannot be deleted: {why}")
        for uuid in deletes:
            thing = self.before.objects[uuid].thing
            if (kind_of(thing), thing.name) in BUILT_IN:
                self._blame(0, kind_of(thing), thing.name, "", "it cannot be deleted: it is built in")


def _misnamed(kind: str, name: str, uuid: Any, existing: Stored | None) -> tuple[str, str] | None:
    """A UUID that nothing has, or one in the place of a name: (path, why)."""
    if uuid is not None and (existing is None or existing.thing.uuid != uuid):
        return "uuid", f"there is no {kind} {quoted(uuid)}; leave it out to create one"
    if uuid is None and existing is not None and existing.thing.name != name:
        return "name", f"it is the UUID of {title(existing.thing)}; to rename that, give it as uuid"
    return None


def _apart(path: str, told: Sequence[str]) -> bool:
    """Whether a path is neither within nor around one of those told: else what stands in there may be its reason."""
    return not any(_within(path, other) or _within(other, path) for other in told)


def _within(path: str, outer: str) -> bool:
    return path == outer or (path.startswith(outer) and path[len(outer)] in ".[")


def _with_defaults(kind: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """What may be left out because something else says it."""
    if kind == "virtualservice":
        return {"se_group_ref": DEFAULT_GROUP, **document}
    if kind == "healthmonitor":
        asks_http = document.get("type", HealthMonitorType.HTTP) in tuple(HTTP_TYPES)
        empty = document.get("http_monitor") is None
        return {**document, "http_monitor": {}} if asks_http and empty else document
    return _pool_with_defaults(document) if kind == "pool" else document


def _pool_with_defaults(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """A server's port, and a redirect's status."""
    filled: dict[str, Any] = dict(document)
    servers, action = document.get("servers"), document.get("fail_action")
    if isinstance(servers, list):
        port = document.get("default_server_port", DEFAULT_SERVER_PORT)
        filled["servers"] = [{"port": port, **one} if isinstance(one, dict) else one for one in servers]
    if isinstance(action, dict) and action.get("type") == FailActionType.REDIRECT:
        filled["fail_action"] = {"status_code": FOUND, **action}
    return filled


def plan_change(
    before: Configuration,
    documents: Sequence[Mapping[str, Any]],
    deletes: Sequence[ObjectId] = (),
    new_id: Callable[[str], ObjectId] = new_object_id,
) -> Plan:
    """The change that ``documents`` (each whole; fields left out have their defaults) and ``deletes`` make.

    ``InvalidConfigError`` has every problem of every document, ``MAX_PROBLEMS`` at most.
    """
    planner = _Planner(before, new_id)
    for number, document in enumerate(documents, 1):
        planner.identify(number, document)
    read = [] if planner.full else planner.read()
    # Problems among objects are told only when each is right in itself: else they are often its echo.
    if not planner.problems:
        planner.check(read, deletes)
    if planner.problems:
        raise InvalidConfigError(problems=tuple(planner.problems))
    created: list[str] = []
    updated: list[str] = []
    unchanged: list[ConfigObject] = []
    puts: list[ConfigObject] = []
    for thing in read:
        old = before.objects.get(thing.uuid)
        if old is not None and old.thing == thing:
            unchanged.append(thing)
            continue
        (created if old is None else updated).append(title(thing))
        puts.append(thing)
    return Plan(
        puts=tuple(puts),
        deletes=tuple(deletes),
        created=tuple(created),
        updated=tuple(updated),
        deleted=tuple(title(before.objects[uuid].thing) for uuid in deletes),
        unchanged=tuple(map(title, unchanged)),
        kept=tuple(thing.uuid for thing in unchanged),
    )


def next_version(before: Configuration) -> ConfigVersion:
    """Versions count up by one."""
    return ConfigVersion(before.version + 1)
