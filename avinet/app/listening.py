"""Opening a port without TLS, and undoing steps whose undoing may take a while."""

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from avinet.ports import cannot_listen
from avinet.rest.listen import BACKLOG


def listen_plain(reactor: Any, port: int, interface: str, setting: str, factory: Any) -> Any:
    """A TCP port; ``PortTakenError`` names who holds it."""
    try:
        return reactor.listenTCP(port, factory, backlog=BACKLOG, interface=interface)
    except CannotListenError as why:
        raise cannot_listen(port, interface, setting, why.socketError) from why


def awaited(call: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    """A call whose result may be a Deferred or None, as a coroutine function for an exit stack."""

    async def run() -> Any:
        result = call()
        return await result if isinstance(result, Deferred) else result

    return run
