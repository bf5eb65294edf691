"""The routes of the configuration's history: the versions there were, what differs, and going back to one."""

from collections.abc import Callable
from typing import Annotated, Any

import attrs
import msgspec
from twisted.internet.defer import Deferred, execute

from avinet.controller.api_answers import (
    NOBODY,
    ApplyAnswer,
    ChangeQuery,
    EngineChange,
    Version,
    advice_on,
    applied_answer,
    engines_touched,
    terms_of,
)
from avinet.controller.api_shapes import shape
from avinet.controller.config_entries import VersionRecord
from avinet.controller.configuration import ConfigService
from avinet.controller.engines import Engines
from avinet.controller.sync import Sync
from avinet.model.config import kind_of
from avinet.model.configuration import Configuration
from avinet.model.diff import ObjectChange, diff
from avinet.rest.problem import InvalidQueryError
from avinet.rest.route import Request, Response, Route

HISTORY_TIMEOUT_S = 30.0
"""Going back over a thousand versions takes a quarter of a second, over the largest a few."""


class VersionsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``limit`` versions, those older than ``before`` where it is given."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 20
    before: Version | None = None


class VersionQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``whole``: every object as of the version, rather than what the version changed."""

    whole: bool = False


class DiffQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From one version to another; to the one in force without ``after``."""

    before: Version
    after: Version | None = None


class VersionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One version.  Objects as ``kind/name``, of each list the first hundred; ``objects`` counts all of them."""

    version: int
    author: str
    at: float
    created: tuple[str, ...]
    updated: tuple[str, ...]
    deleted: tuple[str, ...]
    objects: int
    note: str
    rolled_back_to: int | None
    """The version whose objects a rollback made anew."""


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /api/config/versions``: newest first; ``count`` is of all that are kept."""

    count: int
    results: tuple[VersionRow, ...]
    oldest: int | None
    next: str | None = None


class VersionDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One version with what it changed, or with every object as of it."""

    version: int
    author: str
    at: float
    note: str
    rolled_back_to: int | None
    changes: tuple[ObjectChange, ...] | None = None
    whole: tuple[dict[str, Any], ...] | None = None


class ConfigDiff(msgspec.Struct, frozen=True, kw_only=True):
    """What differs.  ``after`` is null, and ``service_engines`` there, when it is of documents not applied."""

    before: int
    after: int | None
    changes: tuple[ObjectChange, ...]
    service_engines: tuple[EngineChange, ...] | None = None


@attrs.frozen(eq=False)
class HistoryApi:
    """The handlers."""

    config: ConfigService
    sync: Sync
    engines: Engines
    in_thread: Callable[..., "Deferred[Any]"] = execute
    """For what takes its time: comparing ten thousand objects."""

    async def versions(self, request: Request) -> Response:
        """``GET /api/config/versions``."""
        query: VersionsQuery = request.query
        records = await self.config.history.records()
        older = [r for r in records if query.before is None or r.version < query.before]
        shown = older[: query.limit]
        return Response(
            body=Versions(
                count=len(records),
                results=tuple(map(_row, shown)),
                oldest=records[-1].version if records else None,
                next=f"/api/config/versions?limit={query.limit}&before={shown[-1].version}"
                if len(shown) < len(older)
                else None,
            )
        )

    async def version(self, request: Request) -> Response:
        """``GET /api/config/versions/{version}``."""
        query: VersionQuery = request.query
        past = await self.config.history.past(self.config.current, self._number(request))
        record = past.record
        detail = VersionDetail(
            version=record.version,
            author=record.author,
            at=record.at,
            note=record.note,
            rolled_back_to=record.rolled_back_to or None,
        )
        if query.whole:
            whole = await self.in_thread(_whole, past.after)
            return Response(body=msgspec.structs.replace(detail, whole=whole))
        changes = await self.in_thread(diff, past.before, past.after)
        return Response(body=msgspec.structs.replace(detail, changes=changes))

    async def rollback(self, request: Request) -> Response:
        """``POST /api/config/versions/{version}/rollback``."""
        terms, before = terms_of(request), self.config.current
        applied = await self.config.roll_back(self._number(request), request.principal or NOBODY, terms)
        touched = None
        if terms.dry_run:
            touched = engines_touched(self.sync, self.engines, before, applied.after)
        warnings = await self.in_thread(advice_on, applied, self.config.clock.seconds())
        return applied_answer(applied, touched, warnings)

    async def between(self, request: Request) -> Response:
        """``GET /api/config/diff``."""
        query: DiffQuery = request.query
        now = self.config.current
        before = (await self.config.history.past(now, query.before)).after
        after = now if query.after is None else (await self.config.history.past(now, query.after)).after
        changes = await self.in_thread(diff, before, after)
        return Response(body=ConfigDiff(before=before.version, after=after.version, changes=changes))

    def _number(self, request: Request) -> int:
        text = request.params["version"]
        # More digits than any version has are no number worth reading.
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise InvalidQueryError(where="version", what="it must be a whole number of at most 18 digits")
        return int(text)

    def routes(self) -> tuple[Route, ...]:
        """All of them."""
        missing = {404: "There is no such version yet.", 410: "It is not kept any more."}
        return (
            Route(
                method="GET",
                path="/api/config/versions",
                handler=self.versions,
                summary="The versions of the configuration, newest first: by whom, when and what.",
                query=VersionsQuery,
                response=Versions,
                timeout_s=HISTORY_TIMEOUT_S,
            ),
            Route(
                method="GET",
                path="/api/config/versions/{version}",
                handler=self.version,
                summary="What one version changed, field by field; or the whole configuration as of it.",
                query=VersionQuery,
                response=VersionDetail,
                statuses={200: "As it was.", **missing},
                timeout_s=HISTORY_TIMEOUT_S,
            ),
            Route(
                method="POST",
                path="/api/config/versions/{version}/rollback",
                handler=self.rollback,
                summary="Make a new version whose objects are those of an older one.",
                query=ChangeQuery,
                response=ApplyAnswer,
                statuses={
                    200: "In force on the controller, or what would change.",
                    409: "It no longer fits; the body says why.",
                    412: "Another version is in force than the one expected.",
                    **missing,
                },
                timeout_s=HISTORY_TIMEOUT_S,
            ),
            Route(
                method="GET",
                path="/api/config/diff",
                handler=self.between,
                summary="What differs between two versions, field by field.",
                query=DiffQuery,
                response=ConfigDiff,
                statuses={200: "What differs.", **missing},
                timeout_s=HISTORY_TIMEOUT_S,
            ),
        )


def _row(record: VersionRecord) -> VersionRow:
    return VersionRow(
        version=record.version,
        author=record.author,
        at=record.at,
        created=record.created,
        updated=record.updated,
        deleted=record.deleted,
        objects=record.objects,
        note=record.note,
        rolled_back_to=record.rolled_back_to or None,
    )


def _whole(configuration: Configuration) -> tuple[dict[str, Any], ...]:
    """Every object as documents that ``apply`` takes, by kind and name."""
    ordered = sorted(configuration.objects.values(), key=lambda s: (kind_of(s.thing), s.thing.name))
    return tuple({"kind": kind_of(stored.thing), **shape(configuration, stored)} for stored in ordered)
