"""What several routes of the configuration take and answer."""

from typing import Annotated

import msgspec

from avinet.controller.configuration import Applied, Terms
from avinet.controller.engines import Engines
from avinet.controller.sync import Sync
from avinet.model.advice import Advice, advice
from avinet.model.configuration import Configuration
from avinet.model.ids import ConfigVersion, ObjectId, SeId
from avinet.rest.problem import InvalidQueryError
from avinet.rest.route import Request, Response

NOBODY = "unknown"
MAX_NAMED = 1_000
"""Resources that are named of one SE in one answer."""

Version = Annotated[int, msgspec.Meta(ge=0)]


class ChangeQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """On which terms a change is made.

    ``dry_run``: say what would change, and change nothing.  ``note``: kept with the version.  ``expect_version``: only
    if this version is in force (as does ``If-Match``); else 412.
    """

    dry_run: bool = False
    note: str = ""
    expect_version: Version | None = None


class EngineChange(msgspec.Struct, frozen=True, kw_only=True):
    """What one SE would be sent: objects as ``kind/name``, ``MAX_NAMED`` of each at most."""

    uuid: SeId
    name: str
    set: tuple[str, ...]
    removed: tuple[str, ...]


class ApplyAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a change came to, or would; objects as ``kind/name``."""

    version: int
    created: tuple[str, ...]
    updated: tuple[str, ...]
    deleted: tuple[str, ...]
    unchanged: tuple[str, ...]
    service_engines: tuple[EngineChange, ...] | None = None
    """Of a dry run: those that would be sent something."""
    warnings: tuple[Advice, ...] = ()
    """What is worth a word though it was done, such as a certificate that expired."""


def terms_of(request: Request) -> Terms:
    """The query's, and ``If-Match``."""
    query: ChangeQuery = request.query
    expected = query.expect_version
    match = request.headers.get("if-match", "*").strip().removeprefix("W/").strip('"')
    if match != "*":
        try:
            expected = int(match)
        except ValueError as why:
            raise InvalidQueryError(where="If-Match", what='it must be a version, such as "12"') from why
    return Terms(query.dry_run, query.note, None if expected is None else ConfigVersion(expected))


def advice_on(applied: Applied, now: float) -> tuple[Advice, ...]:
    """Warnings about every object that a change was about, at ``now`` (UNIX seconds)."""
    return advice(applied.after, (*(thing.uuid for thing in applied.plan.puts), *applied.plan.kept), now)


def applied_answer(
    applied: Applied,
    engines: tuple[EngineChange, ...] | None = None,
    warnings: tuple[Advice, ...] = (),
) -> Response:
    """As JSON."""
    plan = applied.plan
    return Response(
        body=ApplyAnswer(
            version=applied.version,
            created=plan.created,
            updated=plan.updated,
            deleted=plan.deleted,
            unchanged=plan.unchanged,
            service_engines=engines,
            warnings=warnings,
        ),
        headers={"ETag": f'"{applied.version}"'},
    )


def engines_touched(
    sync: Sync, engines: Engines, before: Configuration, after: Configuration
) -> tuple[EngineChange, ...]:
    """Which SEs would be sent something if ``after`` came after ``before``, by name."""

    def titled(resource: str) -> str:
        kind, _, uuid = resource.partition("/")
        stored = after.objects.get(ObjectId(uuid)) or before.objects.get(ObjectId(uuid))
        return resource if stored is None else f"{kind}/{stored.thing.name}"

    found: list[EngineChange] = []
    for se, delta in sync.preview(after).items():
        record = engines.find(se)
        found.append(
            EngineChange(
                uuid=se,
                name=se if record is None else record.name,
                set=tuple(sorted(titled(resource.name) for resource in delta.put[:MAX_NAMED])),
                removed=tuple(sorted(titled(name) for name in delta.remove[:MAX_NAMED])),
            )
        )
    return tuple(sorted(found, key=lambda one: one.name))
