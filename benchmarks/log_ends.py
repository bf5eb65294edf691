"""Both ends of the log services, each a process of its own, made of the product's parts and joined by real SSH.

``controller`` runs the secure channel's server, the ledger, the intake and the pulls (``avinet.app.controller_logs``), but not
the store;
``engine`` runs the real client, the spool and the shipper.  What the two lack of a controller and an agent is what has
no part in logs: enrolment, sessions, configuration, a data plane.  A request a line, see ``benchmarks.processes``:

- controller ``{"do": "pull"}``: everything that the SE has, answered when it is here for good;
  ``{"do": "begin"}`` and ``{"do": "cancel"}``: the same without waiting, and its end;
- engine ``{"do": "take"}``: take in what the data plane's folder has; ``{"do": "plan"}``: what the spool holds;
  ``{"do": "beat", "every_s"}`` and ``{"do": "rest"}``: heartbeats at control priority, and what they took;
  ``{"do": "carried"}``: what the connection has carried, as the kernel counts.
"""

import argparse
import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.stdio import StandardIO
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from avinet.app.controller_logs import ControllerLogs, LogSurroundings
from avinet.app.garbage import Garbage
from avinet.app.settings import LogsSection
from avinet.controller.api_status import resident_kib
from avinet.controller.peers import NoPeers
from avinet.controller.pull_records import ENDED, PullOrder, PullState, PullView
from avinet.logs.spool import Spool
from avinet.model.ids import ControllerName
from avinet.model.logs import LogClass, Selection, piece_name
from avinet.se.log_owners import LogOwners
from avinet.se.log_shipper import LogShipper
from avinet.se.log_sources import LogSource
from avinet.ssh.client import SecureChannel, connect
from avinet.ssh.login import Access
from avinet.ssh.reverse import ReverseListeners
from avinet.ssh.scheduler import Priority
from avinet.ssh.server import SecureChannelServer
from avinet.ssh.services import ServiceTable
from avinet.trust import keys
from avinet.trust.authorized_keys import AuthorizedKeys, Permit
from benchmarks.carried import Carried, Dialed
from benchmarks.channel_ends import (
    ECHO_PORT,
    LOOPBACK,
    SE,
    USER,
    Echo,
    Heartbeat,
    Quiet,
    Requests,
    Steps,
)
from benchmarks.processes import say

POLL_S = 0.005
REVERSE_PORT = 5097
LIMIT_GIB = 1_000.0
"""What may wait for a store that does not run here."""


# The controller's end


@attrs.define(eq=False)
class Puller:
    """What an operator does."""

    reactor: Any
    logs: ControllerLogs
    _begun: int = attrs.field(default=0, init=False)

    @property
    def steps(self) -> Steps:
        """By name."""
        return {"pull": self.pull, "begin": self.begin, "cancel": self.cancel, "linked": self.linked}

    async def linked(self) -> dict[str, Any]:
        """Once the SE offers its logs."""
        while (link := self.logs.intake.bulk_link(SE)) is None or not link.ready:
            await deferLater(self.reactor, POLL_S)
        return {}

    async def pull(self) -> dict[str, Any]:
        """All that the SE has, and how long it took."""
        begun = time.monotonic()
        await self.begin()
        while (view := self._view()).state not in ENDED:
            await deferLater(self.reactor, POLL_S)
        took_s = time.monotonic() - begun
        if view.state is not PullState.DONE:
            raise RuntimeError(f"the pull is {view.state}: {[share.why for share in view.shares]}")
        (share,) = view.shares
        return {
            "s": took_s,
            "segments": share.segments,
            "records": share.records,
            "size": share.size,
            "raw_bytes": share.raw_bytes,
        }

    async def begin(self) -> dict[str, Any]:
        """Ask for all of it."""
        order = PullOrder(by="bench", engines=(SE,), selection=Selection(classes=(LogClass.FULL,)))
        self._begun = (await self.logs.pulls.create(order)).id
        return {}

    async def cancel(self) -> dict[str, Any]:
        """No more of it; how much came."""
        view = await self.logs.pulls.cancel(self._begun)
        return {"size": view.shares[0].size}

    def _view(self) -> PullView:
        return self.logs.pulls.get(self._begun)


def _told(code: str, level: object, subject: str, text: str, **facts: object) -> None:
    """An event: none should happen here."""
    raise RuntimeError(f"{code}: {text}")


async def serve(reactor: Any, given: argparse.Namespace) -> None:
    """The controller's server with one SE's line, and its logs."""
    settings = LogsSection(waiting_gib_per_se=LIMIT_GIB, waiting_gib=LIMIT_GIB, free_gib=0.25)
    stack = contextlib.AsyncExitStack()
    around = LogSurroundings(_told, str, NoPeers(ControllerName("one")))
    logs = await ControllerLogs.open(settings, given.folder, reactor, around, stack)
    # What it takes in has a figure of its own, and would take processors that the peer does not share with it.
    await logs.store.stop()
    services = ServiceTable()
    logs.offer(services, settings)
    services.register("echo", ECHO_PORT, lambda peer: Echo(), Priority.CONTROL)
    lines = AuthorizedKeys()
    public = keys.public_line(keys.load(given.identity).public_key())
    opens = tuple(("localhost", port) for port in services.ports().values())
    lines.put(Permit(SE, public, LOOPBACK, REVERSE_PORT, opens))
    access = Access({USER: lines}, services, ReverseListeners(reactor, reactor))
    server = SecureChannelServer(keys.generate(), access, reactor, Quiet())
    listening = reactor.listenTCP(0, server, interface="127.0.0.1")
    Garbage(reactor, resident_kib).start()
    StandardIO(Requests(Puller(reactor, logs).steps, reactor.stop), reactor=reactor)
    say(ready=listening.getHost().port)


# The SE's end


@attrs.define(eq=False)
class Agent:
    """What an agent does about logs."""

    reactor: Any
    spool: Spool
    data_plane: Path
    channel: SecureChannel
    dialed: Dialed
    _turn: int = attrs.field(default=0, init=False)
    _heartbeat: Heartbeat | None = attrs.field(default=None, init=False)
    _beating: LoopingCall | None = attrs.field(default=None, init=False)

    @property
    def steps(self) -> Steps:
        """By name."""
        return {
            "take": self.take,
            "plan": self.plan,
            "beat": self.beat,
            "rest": self.rest,
            "carried": self.carried,
        }

    def flush(self) -> Deferred[int]:
        """As a pull wants it: what was logged until now is in segments, up to this counter."""
        flushing: Deferred[int] = deferToThread(self._flush)
        return flushing

    def _flush(self) -> int:
        for log_class in LogClass:
            written = self.data_plane / f"{log_class}.ndjson"
            if written.exists():
                self._turn += 1
                written.rename(self.data_plane / piece_name(log_class, self._turn))
        for piece in self.spool.pieces():
            while not self.spool.take_in(piece).done:
                pass
        return self.spool.last_counter()

    async def take(self) -> dict[str, Any]:
        """Seconds that it took."""
        begun = time.monotonic()
        await self.flush()
        return {"s": time.monotonic() - begun}

    async def plan(self) -> dict[str, Any]:
        """All that is pulled."""
        totals = await deferToThread(self.spool.totals)
        return attrs.asdict(_Held(totals.full.segments, totals.full.records, totals.full.size))

    async def beat(self, every_s: float) -> dict[str, Any]:
        """Begin."""
        self._heartbeat = Heartbeat()
        await self.channel.open(ECHO_PORT, self._heartbeat, priority=Priority.CONTROL)
        self._beating = LoopingCall(self._heartbeat.beat)
        self._beating.clock = self.reactor
        self._beating.start(every_s)
        return {}

    async def rest(self) -> dict[str, Any]:
        """Stop, and say how long each took."""
        if self._heartbeat is None or self._beating is None:
            raise RuntimeError("there are no heartbeats")
        self._beating.stop()
        self._heartbeat.transport.loseConnection()  # type: ignore[union-attr]  # connected
        return {"rtt_s": self._heartbeat.rtt_s}

    async def carried(self) -> dict[str, Any]:
        """Both ways, since it connected."""
        if self.dialed.socket is None:
            raise RuntimeError("nothing was dialed")
        return attrs.asdict(Carried.by(self.dialed.socket))


@attrs.frozen
class _Held:
    segments: int
    records: int
    size: int


async def attach(reactor: Any, given: argparse.Namespace) -> None:
    """Log in, offer logs, take requests."""
    spool = await deferToThread(Spool.open, given.folder, given.data_plane, time.time)
    dialed = Dialed(TCP4ClientEndpoint(reactor, "127.0.0.1", given.port))
    key = keys.load(given.identity)
    channel = await connect(dialed, user=USER, key=key, verify_host_key=lambda line: True, clock=reactor)  # type: ignore[arg-type]  # all that is asked of it
    agent = Agent(reactor, spool, given.data_plane, channel, dialed)
    owners = LogOwners(reactor)
    source = LogSource(spool, agent.flush, deferToThread, reactor, owners)
    LogShipper(source).attached(ControllerName("c1"), channel)
    StandardIO(Requests(agent.steps, reactor.stop), reactor=reactor)
    say(ready=True)


def main() -> None:
    """As said above."""
    from twisted.internet import reactor

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ends = parser.add_subparsers(dest="end", required=True)
    controller, engine = ends.add_parser("controller"), ends.add_parser("engine")
    for one in (controller, engine):
        one.add_argument("--identity", type=Path, required=True, help="the SE's private key")
        one.add_argument("--folder", type=Path, required=True, help="for its logs")
    engine.add_argument("--data-plane", type=Path, required=True, help="where NDJSON is written")
    engine.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    loop: Any = reactor

    def failed(why: Failure) -> None:
        say(failed=why.getErrorMessage())
        loop.stop()

    begin: Callable[..., Any] = serve if given.end == "controller" else attach
    loop.callWhenRunning(lambda: Deferred.fromCoroutine(partial(begin, loop, given)()).addErrback(failed))
    loop.run()


if __name__ == "__main__":
    main()
