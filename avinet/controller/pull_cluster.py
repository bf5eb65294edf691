"""The pulls of all controllers, told and changed through any of them."""

from collections.abc import Awaitable, Callable
from typing import ClassVar

import attrs
from twisted.internet.defer import Deferred

from avinet.controller.log_questions import AskPulls, LogQuestions
from avinet.controller.pull_records import PullUnknownError, PullView
from avinet.controller.pull_rows import BASE, PullRow
from avinet.errors import AvinetError, Kind, error
from avinet.logs.query.answers import Missing
from avinet.model.ids import ControllerName
from avinet.rest.route import Request, Response

LIST_TIMEOUT_S = 5.0
"""A controller says from memory how far its pulls are."""
MAX_DIGITS = 15

OwnRows = Callable[[], Awaitable[tuple[PullRow, ...]]]


@error
class NoSuchPullError(AvinetError):
    """There is no pull {pull!r}{unasked}. List them: avinet logs pulls."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    pull: str
    unasked: str = ""


@error
class AmbiguousPullError(AvinetError):
    """Several controllers have a pull {pull}: say which, {names}."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    pull: str
    names: str


@attrs.frozen(eq=False)
class PullsOfAll:
    """``own`` gives the rows of this controller, ``get`` one of its pulls, ``hand_on`` has another controller do a request."""

    questions: LogQuestions
    own: OwnRows
    get: Callable[[int], PullView]
    hand_on: Callable[[ControllerName, Request], Awaitable[Response]]

    async def all(self) -> tuple[list[PullRow], tuple[Missing, ...]]:
        """Every pull, the newest first; and which controllers have not answered."""
        asking = self.questions.ask_all(
            ((name, AskPulls()) for name in self.questions.others), LIST_TIMEOUT_S
        )
        others = Deferred.fromCoroutine(asking)
        rows = list(await self.own())
        missing = []
        for name, said in (await others).items():
            rows += said.pulls or ()
            if said.pulls is None:
                missing.append(Missing(se="", se_uuid="", controller=name, why=said.why))
        rows.sort(key=lambda row: (row.created, row.id), reverse=True)
        return rows, tuple(missing)

    async def find(self, text: str) -> tuple[ControllerName, int]:
        """Whose a pull is, and its number: ``7@c1``, or a number, which is of this controller if it has such a one.

        ``NoSuchPullError``, ``AmbiguousPullError``.
        """
        number, at, name = text.partition("@")
        me, others = self.questions.peers.me, self.questions.others
        if not (number.isascii() and number.isdigit() and len(number) <= MAX_DIGITS):
            raise NoSuchPullError(pull=text)
        if at:
            if name not in {me, *others}:
                raise NoSuchPullError(pull=text)
            return ControllerName(name), int(number)
        if not others or self._has(int(number)):
            return me, int(number)
        rows, missing = await self.all()
        found = [row for row in rows if row.id == int(number)]
        if len(found) > 1:
            names = " or ".join(sorted(row.name for row in found))
            raise AmbiguousPullError(pull=text, names=names)
        if not found:
            unasked = ", ".join(one.controller for one in missing)
            raise NoSuchPullError(pull=text, unasked=f"; not asked: {unasked}" if unasked else "")
        return found[0].controller, found[0].id

    def _has(self, number: int) -> bool:
        try:
            self.get(number)
        except PullUnknownError:
            return False
        return True

    async def shown(self, name: ControllerName, number: int) -> PullRow:
        """Another controller's pull."""
        said = await self.questions.ask(name, AskPulls(), LIST_TIMEOUT_S)
        if said.pulls is None:
            raise PullsNotToldError(why=said.why)
        found = next((row for row in said.pulls if row.id == number), None)
        if found is None:
            raise NoSuchPullError(pull=f"{number}@{name}")
        return found

    async def changed(self, name: ControllerName, number: int, what: str, request: Request) -> Response:
        """Have another controller do it, which may be of a version that knows its own numbers alone."""
        path = f"{BASE}/{number}/{what}"
        return await self.hand_on(name, attrs.evolve(request, path=path, target=path))


@error
class PullsNotToldError(AvinetError):
    """{why} See: avinet cluster status."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    why: str
