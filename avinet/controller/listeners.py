"""Those who want to hear of something: told in the order in which they came, and a defect of one costs the others nothing."""

from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

import attrs
from twisted.logger import Logger

_Listener = TypeVar("_Listener")


@attrs.frozen(eq=False)
class Listeners(Generic[_Listener]):
    """Of one thing; ``of`` says in the log which one that is."""

    of: str
    _all: list[_Listener] = attrs.field(factory=list, init=False, repr=False)
    _log: ClassVar[Logger] = Logger()

    def add(self, listener: _Listener) -> None:
        """From now on, after those added before it."""
        self._all.append(listener)

    def tell(self, call: Callable[[_Listener], None]) -> None:
        """Each of them; what one raises is logged.  One that is added meanwhile is not called."""
        for listener in tuple(self._all):
            try:
                call(listener)
            except Exception:  # noqa: BLE001 - neither whoever tells nor the others can do anything about it
                self._log.failure("a listener of {of} failed", of=self.of)
