"""The audit log: every write that was asked of the operator API, and what came of it.

It is a log of its own (``audit.db``), bounded like that of the events and apart from it, so that neither can push the
other out.  An entry names who (user, role, access token, source address), what (method, path, what the answer says it
was about) and the outcome, under the id that the caller was given as ``X-Request-Id``; never a query or a body, which
may hold secrets.  Writes that were done have an entry each.  Refused ones are coalesced by caller and reason as events
are: the first at once, the rest of a minute as a count, so that nobody can fill the log by being refused.

Reads are not audited, but for refusals of a role.
"""

from collections.abc import Callable
from typing import Any

import attrs
import msgspec

from avinet.controller.events import Events
from avinet.model.events import Event, Level
from avinet.rest.access import READS, Access
from avinet.rest.connections import source_of

CODE = "AUDIT"
MAX_PATH = 200
"""Characters; the longest of ours is some 100."""
SCAN_PAGE = 1_000
SCAN_MOST = 20_000
"""Entries looked through for those of one user: some 50 ms, in a thread."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One write.  ``outcome`` is ``done``, ``tried`` (a dry run) or ``refused``; ``at`` is UNIX seconds."""

    id: int
    at: float
    user: str
    """Empty: it was refused before it was known who asked."""
    role: str
    token: str
    source: str
    """An address; empty on the controller's UNIX socket."""
    method: str
    path: str
    object: str
    """What the answer says it was about: a name, or the configuration's version."""
    outcome: str
    status: int
    reason: str
    """Why it was refused, as a stable word."""
    request_id: str
    count: int
    """How many like it this entry stands for."""
    asked_at: str = ""
    """The controller that was asked, where this one did it for another."""
    done_by: str = ""
    """The controller that it was handed on to, which has an entry of the same ``request_id``."""


def entry_of(event: Event) -> AuditEntry:
    """An event of the log as an entry."""
    facts: dict[str, Any] = event.facts
    return AuditEntry(
        id=event.id,
        at=event.at,
        user=str(facts.get("user", "")),
        role=str(facts.get("role", "")),
        token=str(facts.get("token", "")),
        source=str(facts.get("source", "")),
        method=str(facts.get("method", "")),
        path=str(facts.get("path", "")),
        object=str(facts.get("object", "")),
        outcome=str(facts.get("outcome", "")),
        status=int(facts.get("status", 0)),
        reason=str(facts.get("reason", "")),
        request_id=str(facts.get("request_id", "")),
        count=event.count,
        asked_at=str(facts.get("asked_at", "")),
        done_by=str(facts.get("done_by", "")),
    )


@attrs.frozen(eq=False)
class Audit:
    """The log, and what is written to it."""

    log: Events

    def ended(self, access: Access) -> None:
        """A request has its answer; see the module for which of them count."""
        is_read = access.reads or access.method in READS or access.method == "OPTIONS"
        if is_read and access.reason != "role-needed":
            return
        who = access.principal
        facts: dict[str, Any] = {
            "user": "" if who is None else who.user,
            "role": "" if who is None else who.role.value,
            "token": "" if who is None else who.token,
            "source": access.peer,
            "method": access.method,
            "path": access.path[:MAX_PATH],
            "object": access.object,
            "outcome": _outcome(access),
            "status": access.status,
            "request_id": access.request_id,
        }
        if access.asked_at:
            facts["asked_at"] = access.asked_at
        if access.done_by:
            facts["done_by"] = access.done_by
        if access.reason:
            facts["reason"] = access.reason
        subject = source_of(access.peer) if who is None else who.user
        level = Level.WARNING if access.reason else Level.INFO
        self.log.emit(CODE, level, subject or "local", _sentence(access), **facts)

    async def page(
        self, since: int | None, limit: int, user: str | None
    ) -> tuple[tuple[AuditEntry, ...], int]:
        """(entries, the id up to which was looked): the oldest after ``since``, or without it the newest."""
        last = self.log.last_id()
        if user is None:
            after = max(0, last - limit) if since is None else since
            found = tuple(map(entry_of, await self.log.since(after, limit)))
            return found, found[-1].id if found else max(after, last)
        after = max(0, last - SCAN_MOST) if since is None else since
        return await self._of_user(user, after, limit, newest=since is None)

    async def _of_user(
        self, user: str, after: int, limit: int, *, newest: bool
    ) -> tuple[tuple[AuditEntry, ...], int]:
        found: list[AuditEntry] = []
        for _ in range(SCAN_MOST // SCAN_PAGE):
            page = await self.log.since(after, SCAN_PAGE)
            for event in page:
                after = event.id
                entry = entry_of(event)
                if entry.user == user:
                    found.append(entry)
                    if not newest and len(found) >= limit:
                        return tuple(found), after
            if len(page) < SCAN_PAGE:
                break
        return tuple(found[-limit:]), after

    def follow(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``callback`` with each new entry's event; the answer ends that."""
        return self.log.follow(callback)


def _outcome(access: Access) -> str:
    if access.reason:
        return "refused"
    return "tried" if access.dry_run else "done"


def _sentence(access: Access) -> str:
    who = access.principal
    name = "somebody" if who is None else f"{who.user} ({who.role.value})"
    by = f" by token {who.token}" if who is not None and who.token else ""
    place = f" from {access.peer}" if access.peer else ""
    about = f" ({access.object})" if access.object else ""
    end = f"refused: {access.reason}" if access.reason else _outcome(access)
    at = f" at {access.asked_at}" if access.asked_at else ""
    elsewhere = f" by {access.done_by}" if access.done_by else ""
    return f"{name}{by}{place}{at}: {access.method} {access.path[:MAX_PATH]}{about}: {end}{elsewhere}."
