"""Where blocking calls run: a thread of one's own, so that they follow one another and never wait behind others'."""

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
    """A thread started at once.  A daemon: what it does survives being killed, so it need not hold up an exit."""

    def __init__(self, reactor: Any, name: str) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=1, maxthreads=1, name=name)
        self._pool.threadFactory = _DaemonThread
        self._pool.start()

    def run(self, call: Callable[[], _T]) -> Deferred[_T]:
        """The call's result."""
        return deferToThreadPool(self._reactor, self._pool, call)

    def stop(self) -> None:
        """Wait for the thread; it has nothing left to do."""
        self._pool.stop()


class InPlace:
    """Runs calls at once, where they are made: for tests."""

    def run(self, call: Callable[[], _T]) -> Deferred[_T]:
        """The call's result."""
        return execute(call)

    def stop(self) -> None:
        """Nothing to stop."""
