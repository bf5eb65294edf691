"""Where SEs and other controllers log in: the controller's SSH server, its reverse listeners, who may log in, and what came of those who tried."""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import ip_address
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avinet.app.listening import awaited, listen_plain
from avinet.app.secure_channel import secure_channel_server
from avinet.app.settings import SshSection
from avinet.controller.api_status import StrangerCounts
from avinet.controller.engines import Engines
from avinet.controller.permits import LOGS_IN
from avinet.controller.reports import ChannelEvents
from avinet.model.engine import SeRecord
from avinet.ssh.login import Access, Account
from avinet.ssh.memory import ProcessMemory
from avinet.ssh.reverse import ReverseListeners
from avinet.ssh.reverse_socket import shared_socket
from avinet.ssh.server import SecureChannelServer
from avinet.ssh.services import ServiceTable

SE_USER = "aviseuser"


@attrs.define(eq=False)
class ChannelSurface:
    """One controller's.  ``open``, ``let_in`` once the engines are loaded, and ``listen`` after either.

    ``services`` are what SEs reach; ``others`` are the users that are no SEs, within one bound on memory.
    """

    reactor: Any
    settings: SshSection
    host_key: Ed25519PrivateKey = attrs.field(repr=False)
    services: ServiceTable
    events: ChannelEvents
    others: Callable[[ProcessMemory], Mapping[str, Account]]
    _listening: bool = attrs.field(default=False, init=False)
    _server: SecureChannelServer = attrs.field(init=False, repr=False)

    def open(self, stack: contextlib.AsyncExitStack) -> None:
        """All but the port: what is undone after this may still use the channels, and finds them open."""
        settings = self.settings
        reverse = ReverseListeners(
            self.reactor, self.reactor, partial(shared_socket, port=settings.reverse_port)
        )
        stack.push_async_callback(reverse.stop)

        def access(memory: ProcessMemory) -> Access:
            return Access({}, self.services, reverse, memory, self.others(memory))

        self._server = secure_channel_server(settings, self.host_key, access, self.events, self.reactor)
        # SEs dial at once, and nothing is known of them before the store has answered.
        self._server.shut_out(SE_USER, "the controller starts")
        stack.callback(self._server.drop_all, "the controller stops")

    def let_in(self, engines: Engines, stack: contextlib.AsyncExitStack) -> None:
        """Known SEs, from now on."""
        permits = engines.permits
        # After a start nobody has logged in yet, and the whole fleet comes at once.
        for record in engines.all():
            self._expect(None, record)
        engines.listen(self._expect)
        permits.start()
        stack.push_async_callback(permits.stop)
        self._server.let_in(SE_USER, permits.keys)
        stack.callback(self._server.shut_out, SE_USER, "the controller stops")

    def listen(self, stack: contextlib.AsyncExitStack) -> None:
        """Open the port, if it is not open yet."""
        if self._listening:
            return
        self._listening = True
        settings = self.settings
        port = listen_plain(self.reactor, settings.port, settings.bind, "[ssh] port", self._server)
        stack.push_async_callback(awaited(port.stopListening))

    def _expect(self, before: SeRecord | None, after: SeRecord) -> None:
        """Its network is an SE's from now on, as far as the SSH server's bounds go."""
        if after.lifecycle in LOGS_IN and after.source and (before is None or before.source != after.source):
            self._server.gate.know(after.source)

    def expect(self, address: str) -> None:
        """Another controller comes from there; a name says nothing until it has been here."""
        with contextlib.suppress(ValueError):
            self._server.gate.know(str(ip_address(address)))

    def drop(self, owner: str) -> None:
        """Cut every connection of an SE, or of another ``Login.owner``."""
        self._server.drop(owner)

    def counts(self) -> StrangerCounts:
        """As they are now."""
        gate = self._server.gate
        return StrangerCounts(
            in_progress=gate.total,
            turned_away=gate.turned_away,
            logged_in=self.events.logged_in,
            refused=self.events.refused_logins,
            login_ms=round(gate.rate.interval_s * 1000, 2),
        )
