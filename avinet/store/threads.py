"""Where blocking calls run: in threads of one's own, so that they never wait behind others', and begin in order."""

from collections.abc import Callable
from threading import Thread
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, execute
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

_T = TypeVar("_T")


class Runner(Protocol):
    """Runs one call after another, away from the reactor."""

    def run(self, call: Callable[[], _T]) -> Deferred[_T]:
        """The call's result."""

    def stop(self) -> None:
        """No call follows."""


class _DaemonThread(Thread):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)


class OwnThread:
    """A thread started at once, or ``count``.  Daemons: what they do survives being killed, so they hold up no exit."""

    def __init__(self, reactor: Any, name: str, count: int = 1) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=count, maxthreads=count, name=name)
        self._pool.threadFactory = _DaemonThread
        self._pool.start()

    def run(self, call: Callable[[], _T]) -> Deferred[_T]:
        """The call's result."""
        return deferToThreadPool(self._reactor, self._pool, call)

    def stop(self) -> None:
        """Wait for what is under way."""
        self._pool.stop()


class InPlace:
    """Runs calls at once, where they are made: for tests."""

    def run(self, call: Callable[[], _T]) -> Deferred[_T]:
        """The call's result."""
        return execute(call)

    def stop(self) -> None:
        """Nothing to stop."""
