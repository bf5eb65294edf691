"""The two ends of the log services as processes: ``python -m tests.integration.log_ends controller|engine FOLDER``.

The controller asks for everything once, and goes on with that after each start; the engine takes in what lies in its log
folder and offers it, dialing again and again.  Both have the reactor, the threads and the files that roles have.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python import log

from avinet.controller.log_intake import LogIntake, Threads
from avinet.controller.pull_records import PullOrder
from avinet.controller.pulls import Pulls
from avinet.errors import AvinetError
from avinet.logs.incoming import IncomingLogs, IntakeLimits
from avinet.logs.ledger import Ledger
from avinet.logs.spool import Spool
from avinet.model.logs import LogClass, Selection
from avinet.se.log_owners import LogOwners
from avinet.se.log_shipper import LogShipper
from avinet.se.log_sources import LogSource
from avinet.ssh import keys
from avinet.ssh.client import connect
from avinet.ssh.login import Access
from avinet.ssh.memory import ProcessMemory
from avinet.ssh.observer import Observer
from avinet.ssh.reverse import ReverseListeners
from avinet.ssh.reverse_socket import SocketEach
from avinet.ssh.scheduler import Priority
from avinet.ssh.server import SecureChannelServer, ServerSettings
from avinet.ssh.services import ServiceTable
from avinet.store.threads import OwnThread
from avinet.trust.authorized_keys import AuthorizedKeys, Permit
from avinet.wire.log_messages import BULK_PORT, BULK_SERVICE, LIVE_PORT, LIVE_SERVICE

SE = "se-1"
FULL = Selection(classes=(LogClass.FULL,))


def key(folder: Path, name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes((folder / name).read_bytes())


class Silent:
    """An observer without an interest."""

    def __getattr__(self, name):
        return lambda *args: None


async def controller(folder: Path) -> None:
    state = folder / "controller"
    state.mkdir(exist_ok=True)
    ledger = Ledger(state / "ledger.db")
    logs = IncomingLogs(state, ledger, ThreadPoolExecutor(4), IntakeLimits(free_bytes=0))
    threads = Threads(OwnThread(reactor, "writes", 2), OwnThread(reactor, "commits"))
    intake = LogIntake(
        logs, threads, reactor, reactor.seconds, lambda *args, **facts: print(args, flush=True)
    )
    pulls = Pulls(ledger, intake, reactor, reactor.seconds)
    await pulls.start()
    await intake.start()
    if not pulls.all():
        await pulls.create(PullOrder(by="test", engines=(SE,), selection=FULL))
    services = ServiceTable()
    services.register(LIVE_SERVICE, LIVE_PORT, intake.build_live, Priority.LIVE_LOGS)
    services.register(BULK_SERVICE, BULK_PORT, intake.build_bulk, Priority.BULK)
    index = AuthorizedKeys()
    index.put(
        Permit(
            se=SE,
            key=keys.line_of(keys.blob_of(key(folder, "se.key").public_key())),
            loopback="127.1.0.1",
            reverse_port=5097,
            permit_open=(("localhost", LIVE_PORT), ("localhost", BULK_PORT)),
        )
    )
    access = Access(
        {"aviseuser": index, "avictlruser": AuthorizedKeys()},
        services,
        ReverseListeners(reactor, reactor, SocketEach),
        ProcessMemory(),
    )
    observer: Observer = Silent()
    server = SecureChannelServer(key(folder, "host.key"), access, reactor, observer, ServerSettings())
    port = reactor.listenTCP(0, server, interface="127.0.0.1")
    fresh = folder / "port.new"
    fresh.write_text(str(port.getHost().port))
    fresh.rename(folder / "port")
    while True:
        (pull,) = pulls.all()
        (share,) = pull.shares
        (folder / "progress.new").write_text(f"{pull.state} {share.size}")
        (folder / "progress.new").rename(folder / "progress")
        await deferLater(reactor, 0.02)


async def engine(folder: Path) -> None:
    spool = Spool.open(folder / "spool", folder / "data-plane", lambda: 1.8e9)

    def take_in() -> int:
        for piece in spool.pieces():
            while not spool.take_in(piece).done:
                pass
        return spool.last_counter()

    def flush() -> Deferred[int]:
        return deferToThread(take_in)

    while True:
        shipper = LogShipper(LogSource(spool, flush, deferToThread, reactor, LogOwners(reactor)))
        try:
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", int((folder / "port").read_text()))
            channel = await connect(
                endpoint,
                user="aviseuser",
                key=key(folder, "se.key"),
                verify_host_key=lambda line: True,
                clock=reactor,
            )
        except (AvinetError, OSError):
            await deferLater(reactor, 0.1)
            continue
        shipper.attached("c1", channel)
        await channel.lost
        shipper.stop()


def main() -> None:
    log.startLogging(sys.stderr, setStdout=False)
    role = {"controller": controller, "engine": engine}[sys.argv[1]]

    def failed(failure) -> None:
        failure.printTraceback()
        reactor.stop()

    def start() -> None:
        Deferred.fromCoroutine(role(Path(sys.argv[2]))).addErrback(failed)

    reactor.callWhenRunning(start)
    reactor.run()


if __name__ == "__main__":
    main()
