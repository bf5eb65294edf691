"""A simulated fleet: many service engines in one process, against any real controller.

Each engine is what ``twistd avise`` runs, with three parts exchanged: its files are in memory, its data plane is the
recording fake, and host names are not resolved in a thread.  Keys, the signed request, TLS with all its checks, SSH,
the uplink's machine, the control session and the applier are the real ones.  An engine that loses its controller
backs off and dials again by itself, as real ones do.

By hand, against a controller of yours (the image from ``avinet image build``, the meta-info from ``avinet se token
create --count N``): ``python -m benchmarks.fleet --image FILE --meta-info FILE --engines N``.
"""

import argparse
import gc
import random
import secrets
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IProtocol
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogBeginner
from twisted.python.failure import Failure

from avinet.dataplane.fake import RecordingDataPlane
from avinet.model.ids import ConfigVersion, new_boot_id
from avinet.model.membership import Membership
from avinet.rest.tls import controller_client_options
from avinet.se.applier import Applier
from avinet.se.first_boot import read_meta_info
from avinet.se.lookout import Lookout
from avinet.se.registration_client import RegistrationClient
from avinet.se.session import Reply, SeParts
from avinet.se.uplink import Place, Reach, Uplink
from avinet.se.uplinks import SSH_USER
from avinet.ssh.client import SecureChannel, connect
from avinet.ssh.commands import CommandServer
from avinet.trust import keys
from avinet.trust.image import Image, open_image
from avinet.trust.membership import verify_membership
from avinet.trust.registration import Claims, sign_request
from avinet.wire.messages import (
    CONTROL_PORT,
    CONTROL_SERVICE,
    LIVE_AGAIN,
    LOG_LIMITS,
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    TRAFFIC,
    Hello,
    Message,
)
from avinet.wire.registration import EnrolmentAnswer, MetaInfo
from benchmarks.carried import Carried, Dialed
from benchmarks.harness import progress
from benchmarks.memory_files import Forgetful, MemoryFiles

ABREAST = 64
"""Engines that enrol, or log in, at once: under the controller's bounds a source (500 TLS, 512 SSH connections)."""
SOFTWARE = "0.1.0 simulated"
STATUS_S = 5.0
INTERRUPTED = 130
GC_THRESHOLDS = (50_000, 20, 100)
"""Objects, and collections of one generation to the next; Python's own are 700, 10, 10."""

RANDOM = random.SystemRandom()


@attrs.define(eq=False)
class SimulatedEngine:
    """One service engine.  ``enrol`` once, then ``attach`` and ``detach`` at will."""

    reactor: Any = attrs.field(repr=False)
    image: Image = attrs.field(repr=False)
    meta: MetaInfo
    root: x509.Certificate = attrs.field(repr=False)
    membership: Membership = attrs.field(repr=False)
    se_key: Ed25519PrivateKey = attrs.field(factory=keys.generate, init=False, repr=False)
    host_key: Ed25519PrivateKey = attrs.field(factory=keys.generate, init=False, repr=False)
    enrolled: EnrolmentAnswer | None = attrs.field(default=None, init=False)
    applier: Applier = attrs.field(init=False, repr=False)
    _lookout: Lookout = attrs.field(init=False, repr=False)
    uplinks: list[Uplink] = attrs.field(factory=list, init=False, repr=False)
    attached_s: float = attrs.field(default=0.0, init=False)
    """From the beginning of the dial to ``Welcome``, the last time."""
    _boot: str = attrs.field(factory=new_boot_id, init=False)
    _commands: CommandServer | None = attrs.field(default=None, init=False, repr=False)
    _sockets: list[Dialed] = attrs.field(factory=list, init=False, repr=False)
    _welcome: Deferred[None] | None = attrs.field(default=None, init=False, repr=False)
    _started: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        plane = RecordingDataPlane(calls=Forgetful(), applied=Forgetful())
        files: Any = MemoryFiles()
        self.applier = Applier(plane, files, self.reactor, announce=self._announce)
        # Seldom, since there are thousands in a process; a controller hears as much of it as of a real one.
        self._lookout = Lookout(plane, self.reactor, interval_s=10.0)

    # Enrolment

    async def enrol(self, address: str) -> None:
        """Sign, send to ``host:port``, keep the answer."""
        claims = Claims(
            cluster=self.image.cluster,
            image=self.image.image_id,
            se_key=keys.public_line(self.se_key.public_key()),
            se_host_key=keys.public_line(self.host_key.public_key()),
            token=self.meta.token or self.image.token,
            nonce=secrets.token_hex(16),
            issued_at=int(time.time()),
        )
        body = sign_request(claims, self.image.image_key, self.se_key)
        answer = await RegistrationClient(self.reactor, self.reactor, self._tls).enrol(address, body)
        if answer.status != 200:
            raise RuntimeError(f"enrolment was answered with {answer.status}: {answer.problem_text()}")
        self.enrolled = msgspec.json.decode(answer.body, type=EnrolmentAnswer)

    def _tls(self, listed: bool) -> Any:  # noqa: FBT001 - the form that RegistrationClient calls
        return controller_client_options(
            self.image.root_pem, self.image.cluster, self.membership, dates="strict", listed=listed
        )

    # The secure channel

    async def attach(self) -> None:
        """Dial every controller of the list; returns at the first ``Welcome``."""
        begun = time.monotonic()
        facts = self.enrolled
        if facts is None:
            raise AssertionError("not enrolled")
        if not self._started:
            self._started = True
            await self.applier.start()
            self._lookout.start()
        place = Place(
            facts.loopback, facts.services.get(CONTROL_SERVICE, CONTROL_PORT), self._command_connection
        )
        parts = SeParts(
            facts.cluster,
            partial(self._hello, facts),
            self.applier,
            self.applier.report,
            self._listed,
            self._lookout,
            live_again=self._live_again,
        )
        reach = Reach(resolve=lambda host: succeed([host]), dial=self._dial, refresh=lambda: succeed(None))
        welcome: Deferred[None] = Deferred()
        self._welcome = welcome
        for controller in self.membership.controllers:
            uplink = Uplink(
                controller, place, parts, reach, self.reactor, RANDOM.random, on_attached=self._attached
            )
            self.uplinks.append(uplink)
            uplink.start()
        await welcome
        self.attached_s = time.monotonic() - begun

    def _attached(self, uplink: Uplink) -> None:
        if self._welcome is not None and not self._welcome.called:
            self._welcome.callback(None)

    def _dial(self, address: str, port: int, verify: Callable[[str], bool]) -> Deferred[SecureChannel]:
        dialed = Dialed(TCP4ClientEndpoint(self.reactor, address, port))
        self._sockets = [one for one in self._sockets if one.socket is not None and one.socket.fileno() >= 0]
        self._sockets.append(dialed)
        endpoint: Any = dialed
        return connect(endpoint, user=SSH_USER, key=self.se_key, verify_host_key=verify, clock=self.reactor)

    def _hello(self, facts: EnrolmentAnswer) -> Hello:
        return Hello(
            se=facts.se,
            boot=self._boot,  # type: ignore[arg-type] # a BootId, as its factory says
            protocol=PROTOCOL_VERSION,
            oldest_protocol=OLDEST_PROTOCOL_VERSION,
            software=SOFTWARE,
            capabilities=(TRAFFIC, LOG_LIMITS, LIVE_AGAIN),
            fence=self.applier.fence,
            version=self.applier.version,
            hash=self.applier.hash,
            membership=self.membership.number,
            data_plane="recording 1",
        )

    def _listed(self, document: str) -> None:
        self.membership = verify_membership(document, self.root)
        for uplink in self.uplinks:
            for controller in self.membership.controllers:
                if controller.name == uplink.controller.name:
                    uplink.update(controller)

    def _live_again(self, name: str, spread_s: float) -> None:
        for uplink in self.uplinks:
            if uplink.controller.name == name:
                uplink.live_again(spread_s)

    def _announce(self, message: Message, told: Reply | None) -> None:
        for uplink in self.uplinks:
            if uplink.attached and uplink.session is not None and uplink.session.reply is not told:
                uplink.session.send(message)

    def _command_connection(self, controller: str) -> IProtocol:
        """A real command server, made when somebody connects first."""
        if self._commands is None:
            self._commands = CommandServer(
                self.host_key,
                lambda: [controller.id_se for controller in self.membership.controllers],
                self.reactor,
                lambda use: None,
            )
        return self._commands.build(controller)

    @property
    def attached(self) -> bool:
        """Whether any controller has it."""
        return any(uplink.attached for uplink in self.uplinks)

    @property
    def version(self) -> ConfigVersion:
        """Acknowledged last."""
        return self.applier.version

    def carried(self) -> Carried:
        """By its connections of now."""
        open_now = (one.socket for one in self._sockets if one.socket is not None)
        return sum((Carried.by(one) for one in open_now if one.fileno() >= 0), Carried())

    async def detach(self) -> None:
        """Leave every controller in good order."""
        leaving, self.uplinks = [uplink.stop() for uplink in self.uplinks], []
        await gatherResults(leaving)

    async def stop(self) -> None:
        """For good."""
        await self.detach()
        if self._started:
            self._started = False
            self._lookout.stop()
            await self.applier.stop()


@attrs.define(eq=False)
class Fleet:
    """Engines of one image.  ``abreast``: how many enrol, attach or leave at once."""

    reactor: Any
    image: Image
    abreast: int = ABREAST
    engines: list[SimulatedEngine] = attrs.field(factory=list, init=False)
    _root: x509.Certificate = attrs.field(init=False)
    _membership: Membership = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._root = x509.load_pem_x509_certificate(self.image.root_pem)
        self._membership = verify_membership(self.image.membership_document, self._root)

    def add(self, count: int, meta: MetaInfo) -> list[SimulatedEngine]:
        """More engines, which have their keys and are not enrolled yet."""
        more = [
            SimulatedEngine(self.reactor, self.image, meta, self._root, self._membership)
            for _ in range(count)
        ]
        self.engines.extend(more)
        return more

    async def enrol(self, engines: Iterable[SimulatedEngine]) -> None:
        """All of them."""
        await self._each(engines, lambda engine: engine.enrol(engine.meta.controllers[0]))

    async def attach(self, engines: Iterable[SimulatedEngine]) -> None:
        """All of them; returns when each has its ``Welcome``."""
        await self._each(engines, SimulatedEngine.attach)

    async def detach(self, engines: Iterable[SimulatedEngine]) -> None:
        """All of them."""
        await self._each(engines, SimulatedEngine.detach)

    async def stop(self) -> None:
        """Every engine, for good."""
        await self._each(self.engines, SimulatedEngine.stop)

    async def _each(
        self, engines: Iterable[SimulatedEngine], step: Callable[[SimulatedEngine], Coroutine[Any, Any, None]]
    ) -> None:
        # Workers over one iterator: a chain of Deferreds would recurse where steps are done at once.
        waiting = iter(tuple(engines))

        async def work() -> None:
            for engine in waiting:
                await step(engine)

        await gatherResults([ensureDeferred(work()) for _ in range(self.abreast)], consumeErrors=True)

    @property
    def attached(self) -> int:
        """How many are."""
        return sum(engine.attached for engine in self.engines)

    def carried(self) -> Carried:
        """By all of their connections of now."""
        return sum((engine.carried() for engine in self.engines), Carried())


async def hold(reactor: Any, arguments: argparse.Namespace) -> None:
    """Enrol, attach and stay until interrupted."""
    fleet = Fleet(reactor, open_image(arguments.image), arguments.abreast)
    fleet.add(arguments.engines, read_meta_info(arguments.meta_info))
    await fleet.enrol(fleet.engines)
    progress("{count} engines enrolled", count=len(fleet.engines))
    await fleet.attach(fleet.engines)
    while True:
        progress("{attached} of {count} attached", attached=fleet.attached, count=len(fleet.engines))
        await deferLater(reactor, STATUS_S)


def main(arguments: list[str] | None = None) -> int:
    """The fleet by hand, until interrupted; 1 when it could not be raised."""
    from twisted.internet import reactor

    parser = argparse.ArgumentParser(description="Simulated service engines against a controller of yours.")
    parser.add_argument("--image", type=Path, required=True, help="from: avinet image build --out FILE")
    parser.add_argument("--meta-info", type=Path, required=True, help="of a group token with count >= N")
    parser.add_argument("--engines", type=int, default=10, metavar="N")
    parser.add_argument("--abreast", type=int, default=ABREAST, help="that enrol or attach at once")
    return run(reactor, hold(reactor, parser.parse_args(arguments)))


def _log(event: LogEvent) -> None:
    """Defects of ours; what engines log besides (a dozen lines a session) costs only where it is written."""
    if event["log_level"] >= LogLevel.error:
        print(formatEvent(event), event.get("log_failure", ""), file=sys.stderr)


def run(reactor: Any, work: Any) -> int:
    """Run a coroutine; 0 when it is done, 1 when it failed, 130 when it was interrupted, as of a shell."""
    # A collection of a whole fleet stops all of its engines for 0.1 s: the generator would measure itself.
    gc.set_threshold(*GC_THRESHOLDS)
    observers: list[Any] = [_log]  # a function is one, but not to its type
    globalLogBeginner.beginLoggingTo(observers, discardBuffer=True, redirectStandardIO=False)
    failed: list[str] = []
    interrupted: list[bool] = []

    def begin() -> None:
        done = ensureDeferred(work)

        def interrupt() -> None:
            interrupted.append(True)
            done.cancel()  # so that it tidies up

        trigger = reactor.addSystemEventTrigger("before", "shutdown", interrupt)

        def over(outcome: Any) -> None:
            if interrupted:
                return
            if isinstance(outcome, Failure):
                failed.append(outcome.getTraceback())
            reactor.removeSystemEventTrigger(trigger)
            reactor.stop()

        done.addBoth(over)

    reactor.callWhenRunning(begin)
    reactor.run()
    for traceback in failed:
        print(traceback, file=sys.stderr)
    return 1 if failed else INTERRUPTED if interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
