"""Keeps a controller's configuration what another has put in force: see ``avinet.controller.following``.

The store's head tells that there is a newer version; what it did has come with it, or is read then, in the turn that
changes of our own take, so that each of the two finds the other whole.
"""

import contextlib
from collections.abc import Sequence

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.controller.config_entries import HEAD, ConfigDamagedError
from avinet.controller.config_news import MAX_NEWS, News, news_of
from avinet.controller.configuration import ConfigService
from avinet.errors import AvinetError
from avinet.store.interface import Change

RETRY_S = 1.0
"""Between tries to read a new version while the store cannot be reached."""

_log = Logger()


@attrs.define(eq=False)
class ConfigMirror:
    """The configuration as a ``Mirror``; ``stop`` it with the following."""

    config: ConfigService
    clock: IReactorTime
    _told: int = attrs.field(default=0, init=False)
    """The newest revision of the head that was heard of."""
    _news: list[News] = attrs.field(factory=list, init=False, repr=False)
    """What was heard and not taken yet: ``MAX_NEWS`` at most."""
    _as_of: float = attrs.field(default=0.0, init=False)
    """When what is here was in force, while there is more to read."""
    _reading: Deferred[None] | None = attrs.field(default=None, init=False, repr=False)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The head tells of everything."""
        return (HEAD,)

    def revisions(self) -> dict[str, int]:
        """Of the head."""
        known = self.config.stored.revision
        return {HEAD: known} if known else {}

    def took(self, changes: Sequence[Change]) -> None:
        """The head has moved: what it names is taken, or read, which takes a moment."""
        heads = [change.revision for change in changes if change.key == HEAD]
        if not heads:
            return  # what is staged, or was removed
        self._told = max(self._told, heads[-1])
        try:
            self._news = [*self._news, *news_of(changes)][-MAX_NEWS:]
        except ConfigDamagedError:
            self._news = []  # whoever reads it says so
        if self._reading is None:
            self._as_of = self.clock.seconds()
            self._reading = Deferred.fromCoroutine(self._read())
            self._reading.addBoth(self._ended)

    @property
    def behind_s(self) -> float:
        """How old the version here may be."""
        return 0.0 if self._reading is None else max(0.0, self.clock.seconds() - self._as_of)

    async def settled(self) -> None:
        """Once what was heard of has been read; not at all while the store does not answer."""
        if self._reading is not None:
            with contextlib.suppress(AvinetError):
                await self.config.catch_up(self._told)

    async def _read(self) -> None:
        read = 0
        while read < self._told:
            wanted, begun = self._told, self.clock.seconds()
            news, self._news = self._news, []
            try:
                await self.config.catch_up(wanted, news)
                read, self._as_of = wanted, begun
            except AvinetError as why:
                _log.warn("a new version of the configuration cannot be read: {why}", why=str(why))
                await deferLater(self.clock, RETRY_S)

    def _ended(self, result: Failure | None) -> None:
        self._reading = None
        if isinstance(result, Failure) and not result.check(CancelledError):
            _log.failure("following the configuration failed", result)

    def stop(self) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()
