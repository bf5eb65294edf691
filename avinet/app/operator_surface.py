"""What guards the operator API, and where it listens: users, sessions and tokens, TLS and the UNIX socket."""

import contextlib
import os
from typing import Any

import attrs

from avinet.app.listening import awaited
from avinet.app.settings import ApiSection
from avinet.app.software import software_version
from avinet.app.steady import WallClock
from avinet.controller.access_tokens import AccessTokens
from avinet.controller.api_audit import audit_routes
from avinet.controller.api_login import LoginApi
from avinet.controller.api_users import AccessTokenApi, UserApi
from avinet.controller.audit import Audit
from avinet.controller.engines import Emit
from avinet.controller.events import GATHER_S, Events
from avinet.controller.login_sessions import LoginSessions
from avinet.controller.operators import Credentials, LocalGuard, Operators, RequestLimits
from avinet.controller.reports import ControllerEvents
from avinet.controller.seat import Seat
from avinet.controller.users import Users
from avinet.rest.elsewhere import Elsewhere
from avinet.rest.listen import Place, listen_tls, listen_unix
from avinet.rest.route import Route
from avinet.rest.router import Router
from avinet.rest.site import BoundedSite
from avinet.store.eventlog import open_event_log
from avinet.store.threads import OwnThread
from avinet.trust.node import ControllerIdentity


@attrs.define(eq=False)
class OperatorSurface:
    """One controller's.  ``open`` first; its routes beside the others; then ``listen``."""

    reactor: Any
    settings: ApiSection
    identity: ControllerIdentity
    emit: Emit
    known: Credentials = attrs.field(init=False)
    operators: Operators = attrs.field(init=False)
    audit: Audit = attrs.field(init=False)

    async def open(self, seat: Seat, stack: contextlib.AsyncExitStack) -> None:
        """Read who is known; the admin that ``init`` made, where that is nobody."""
        store, wall = seat.store, WallClock(self.reactor)
        log = await open_event_log(self.identity.paths.audit, self.reactor)
        stack.push_async_callback(awaited(log.close))
        self.audit = Audit(Events(log, self.reactor, GATHER_S))
        stack.push_async_callback(self.audit.log.stop)
        thread = OwnThread(self.reactor, "logins")
        stack.callback(thread.stop)
        self.known = Credentials(
            Users(store, wall, thread),
            LoginSessions(self.reactor),
            AccessTokens(store, wall, notes=lambda: seat.role.leads),
        )
        await self.known.users.load()
        await seat.prepare(lambda term: self.known.users.lead(self.identity.admin))
        self.known.users.listen(self._initial_password_void)
        await self.known.tokens.load()
        seat.follow(self.known.users)
        seat.follow(self.known.tokens)
        refused = ControllerEvents(self.emit).login_refused
        limits = RequestLimits(burst=self.settings.requests_burst, per_s=self.settings.requests_per_s)
        self.operators = Operators(
            self.known, self.reactor, os.urandom(32), limits, refused, self.audit.ended
        )

    def _initial_password_void(self, name: str) -> None:
        """The file with the password that ``init`` made goes when that is no login any more."""
        admin = self.identity.admin
        record = self.known.users.find(admin.user)
        if name == admin.user and (record is None or record.hash != admin.hash):
            self.identity.paths.admin_password.unlink(missing_ok=True)

    def routes(self) -> tuple[Route, ...]:
        """Those that are about operators themselves."""
        known = self.known
        return (
            *LoginApi(self.operators, known.sessions, software_version(), self.identity.root_pem).routes(),
            *UserApi(known.users, known.tokens, self.operators).routes(),
            *AccessTokenApi(known.users, known.tokens).routes(),
            *audit_routes(self.audit, self.reactor),
        )

    async def listen(
        self, routes: tuple[Route, ...], elsewhere: Elsewhere, options: Any, stack: contextlib.AsyncExitStack
    ) -> None:
        """Serve ``routes`` on both; what another controller must do is done ``elsewhere``."""
        settings, reactor = self.settings, self.reactor
        router = Router(routes, reactor, self.operators, elsewhere)
        self.known.users.listen(lambda name: router.end_streams(lambda who: who.user == name))
        self.known.tokens.ended = lambda token: router.end_streams(
            lambda who: (who.user, who.token) == (token.user, token.name)
        )
        site = BoundedSite(router, reactor)
        port = listen_tls(reactor, Place(settings.port, "[api] port", settings.bind), site, options)
        stack.push_async_callback(awaited(port.stopListening))
        local = BoundedSite(Router(routes, reactor, LocalGuard(self.audit.ended), elsewhere), reactor)
        unix = listen_unix(reactor, self.identity.paths.api_socket, local)
        stack.push_async_callback(awaited(unix.stopListening))
