"""The routes of the configuration as a whole: many documents at once, and beside them each kind's own
(``api_objects``), what was before (``api_history``) and how far the fleet is (``api_convergence``).
"""

from typing import Any

import attrs
from twisted.internet.defer import execute

from avinet.controller.api_answers import (
    NOBODY,
    ApplyAnswer,
    ChangeQuery,
    advice_on,
    applied_answer,
    engines_touched,
    terms_of,
)
from avinet.controller.api_convergence import ConvergenceApi
from avinet.controller.api_history import ConfigDiff, HistoryApi
from avinet.controller.api_objects import ObjectApi
from avinet.controller.api_schemas import documents_schema
from avinet.controller.configuration import ConfigService, Terms
from avinet.controller.engines import Engines
from avinet.controller.sync import Sync
from avinet.controller.text_turns import InThread, TextTurns
from avinet.model.diff import diff
from avinet.model.documents import MAX_BYTES, MAX_DOCUMENTS, DocumentError, parse_documents, parse_json
from avinet.rest.access import Role
from avinet.rest.route import JSON_TYPE, Request, Response, Route
from avinet.units import KIB

DOCUMENT_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/plain", JSON_TYPE)
APPLY_TIMEOUT_S = 120.0
"""YAML is read at about 100 KiB a second, so the largest text takes a while; in a thread."""
QUICK_BYTES = 16 * KIB
"""Of JSON: read in 0.3 ms, where a thread's turn costs as much, and some milliseconds while the reactor is busy."""


@attrs.frozen(eq=False)
class ConfigApi:
    """The handlers."""

    config: ConfigService
    sync: Sync
    engines: Engines
    in_thread: InThread = execute
    """Runs a function where it may take its time: YAML is read slowly, and heartbeats must not wait for it."""
    texts: TextTurns = attrs.field(init=False)

    @texts.default
    def _texts_in_threads(self) -> TextTurns:
        return TextTurns(self.in_thread)

    async def apply(self, request: Request) -> Response:
        """``POST /api/config``."""
        author, terms = request.principal or NOBODY, terms_of(request)
        media_type, size = _media_type(request), len(request.body)
        async with self.texts.of(
            author, size, quick=media_type == JSON_TYPE and size <= QUICK_BYTES
        ) as in_thread:
            documents, before = (
                await in_thread(documents_of, request.body, media_type),
                self.config.current,
            )
            applied = await self.config.apply(documents, author, terms)
            touched = None
            if terms.dry_run:
                touched = engines_touched(self.sync, self.engines, before, applied.after)
            warnings = await in_thread(advice_on, applied, self.config.clock.seconds())
        return applied_answer(applied, touched, warnings)

    async def diff(self, request: Request) -> Response:
        """``POST /api/config/diff``."""
        author = request.principal or NOBODY
        async with self.texts.of(author, len(request.body)) as in_thread:
            documents, before = (
                await in_thread(documents_of, request.body, _media_type(request)),
                self.config.current,
            )
            applied = await self.config.apply(documents, author, Terms(dry_run=True))
            changes = await in_thread(diff, before, applied.after)
        return Response(
            body=ConfigDiff(
                before=applied.version,
                after=None,
                changes=changes,
                service_engines=engines_touched(self.sync, self.engines, before, applied.after),
            )
        )

    def routes(self) -> tuple[Route, ...]:
        """All of the configuration's."""
        wrong = {400: "Each wrong field by its path."}
        return (
            Route(
                method="POST",
                path="/api/config",
                handler=self.apply,
                summary="Create or update every object of a YAML or JSON text, all or none.",
                request=bytes,
                request_schema=documents_schema(),
                response=ApplyAnswer,
                query=ChangeQuery,
                consumes=DOCUMENT_TYPES,
                body_bytes=MAX_BYTES,
                timeout_s=APPLY_TIMEOUT_S,
                statuses={
                    200: "In force on the controller, or what would change.",
                    412: "Another version is in force than the one expected.",
                    **wrong,
                },
            ),
            Route(
                method="POST",
                path="/api/config/diff",
                handler=self.diff,
                summary="What applying a text would change, field by field, and on which service engines.",
                request=bytes,
                request_schema=documents_schema(),
                response=ConfigDiff,
                reads=True,
                consumes=DOCUMENT_TYPES,
                body_bytes=MAX_BYTES,
                timeout_s=APPLY_TIMEOUT_S,
                role=Role.READ_ONLY,
                statuses={200: "What would change.", **wrong},
            ),
            *HistoryApi(self.config, self.sync, self.engines, self.in_thread).routes(),
            *ConvergenceApi(self.config, self.sync, self.engines).routes(),
            *ObjectApi(self.config).routes(),
        )


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";", maxsplit=1)[0].strip().lower()


def documents_of(body: bytes, media_type: str) -> list[dict[str, Any]]:
    """The documents of a text: YAML or, where it is declared so, JSON (one object, or a list of them)."""
    try:
        text = body.decode()
    except UnicodeDecodeError as why:
        raise DocumentError(where="the input", why=f"it is not UTF-8 at byte {why.start}") from why
    if media_type != JSON_TYPE:
        return parse_documents(text)
    found = parse_json(body, "the input")
    documents = found if isinstance(found, list) else [found]
    if not 1 <= len(documents) <= MAX_DOCUMENTS:
        raise DocumentError(where="the input", why=f"it must have 1 to {MAX_DOCUMENTS} documents")
    for number, document in enumerate(documents, 1):
        if not isinstance(document, dict):
            odd = "it is not an object with kind, name and so on"
            raise DocumentError(where=f"the input, document {number}", why=odd)
    return documents
