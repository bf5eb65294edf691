"""Certificates issued anew in time, also in a controller that is never restarted.

Once a day what ``ControllerIdentity.init`` does at a start is done again: a certificate with little time left is
issued anew and the membership list says so (``OwnEntry``, which asks whoever has the root key where it is elsewhere).
The ports then show the new certificates to whoever connects next, and attached SEs have the new list by then.  An
operator's own certificate for the API, put in the place of ours, is taken up the same way.  Where the root key is
offline nothing can be issued; the operator hears of it while there is time.
"""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from avinet.controller.engines import Emit
from avinet.errors import AvinetError
from avinet.model.events import Level
from avinet.rest.tls import ServerOptions, api_context_factory, node_context_factory
from avinet.trust import keys
from avinet.trust.ca import days_left
from avinet.trust.files import read_private
from avinet.trust.node import RENEW_DAYS, ControllerIdentity, NodeFacts
from avinet.units import DAY_S, MINUTE_S

CHECK_S = DAY_S
"""A certificate is renewed ``RENEW_DAYS`` before its end, so there are that many chances."""
RETRY_S = 5 * MINUTE_S
"""After a failure: an address that was changed should not wait for a day because the other controllers started later."""

_log = Logger()


@attrs.define
class Shown:
    """The two TLS surfaces and what they show: certificates as PEM."""

    registration: ServerOptions
    api: ServerOptions
    node_pem: bytes
    api_pem: bytes

    @classmethod
    def of(cls, identity: ControllerIdentity) -> "Shown":
        """What a controller with this identity shows."""
        api_pem = identity.paths.api_pem.read_bytes()
        return cls(
            node_context_factory(keys.pkcs8_private(identity.node_key), identity.node_pem),
            api_context_factory(read_private(identity.paths.api_key), api_pem),
            identity.node_pem,
            api_pem,
        )

    def become(self, other: "Shown") -> None:
        """Show what ``other`` does, from the next handshake on."""
        self.registration.use(other.registration)
        self.api.use(other.api)
        self.node_pem, self.api_pem = other.node_pem, other.api_pem


@attrs.define(eq=False)
class Renewal:
    """``agree`` has the list say what an identity does; ``took`` is told of one whose certificates are new.

    ``start`` it, and ``stop`` it.
    """

    state: Path
    facts: NodeFacts
    shown: Shown
    agree: Callable[[ControllerIdentity], Awaitable[None]]
    took: Callable[[ControllerIdentity], None]
    emit: Emit
    clock: IReactorTime
    in_thread: Callable[..., "Deferred[Any]"]
    wall: Callable[[], float] = time.time
    _looks: LoopingCall = attrs.field(init=False, repr=False)
    _again: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._looks = LoopingCall(lambda: Deferred.fromCoroutine(self.look()))
        self._looks.clock = self.clock

    def start(self) -> None:
        """Look now, which says what ends soon, and then each day."""
        self._looks.start(CHECK_S).addErrback(lambda f: _log.failure("renewing certificates ended", f))

    def stop(self) -> None:
        """Look no more."""
        if self._looks.running:
            self._looks.stop()
        if self._again is not None and self._again.active():
            self._again.cancel()

    async def look(self) -> None:
        """Renew what is to be renewed.  Whatever fails is an event, and tried again soon."""
        try:
            identity, now_shown = await self.in_thread(self._issue)
            await self.agree(identity)
            # What another has signed for us is on disk by now.
            identity, now_shown = await self.in_thread(self._issue)
        except (AvinetError, OSError) as why:
            self.emit(
                "CERTIFICATE_RENEWAL_FAILED",
                Level.ERROR,
                "controller",
                f"The controller's certificates, or what the membership list says of it, could not be looked after: {why}",
                reason=getattr(why, "reason", "io"),
            )
            if self._looks.running:
                self._again = self.clock.callLater(RETRY_S, self._look_again)
            return
        before = (self.shown.node_pem, self.shown.api_pem)
        if (now_shown.node_pem, now_shown.api_pem) != before:
            self.shown.become(now_shown)
            self.took(identity)
            text = "The controller shows new certificates from now on."
            self.emit("CERTIFICATE_RENEWED", Level.INFO, "controller", text)
        for what, pem in (("node", self.shown.node_pem), ("operator API", self.shown.api_pem)):
            left = days_left(pem, self.wall())
            if left < RENEW_DAYS / 2:
                self.emit(
                    "CERTIFICATE_ENDING",
                    Level.WARNING,
                    "controller",
                    f"The {what} certificate ends in {left:.0f} days and was not renewed: the root key is offline, "
                    "or the certificate is not of this cluster's root. See: avinet doctor.",
                    reason=what,
                    days_left=round(left),
                )

    def _look_again(self) -> None:
        if self._looks.running:
            self._looks.reset()
            Deferred.fromCoroutine(self.look()).addErrback(lambda f: _log.failure("renewing certificates", f))

    def _issue(self) -> tuple[ControllerIdentity, Shown]:
        identity = ControllerIdentity.init(self.state, self.facts, sign=False)
        return identity, Shown.of(identity)
