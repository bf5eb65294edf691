"""Controllers that copy request logs to each other: real ledgers and files, links in memory, one clock."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.log_claims import Claims
from avinet.controller.log_copies import Copies, CopyThreads, WithoutPeer
from avinet.controller.log_copy_set import CopySet
from avinet.controller.log_intake import LogIntake, Threads
from avinet.controller.log_keeper import Keeper, SetFolders
from avinet.controller.log_sets import STORE
from avinet.controller.peers import PEER_COPIES
from avinet.controller.peers_memory import MemoryPeers, PeerHub
from avinet.logs.copies import CopiesElsewhere, CopiesHere
from avinet.logs.incoming import IncomingLogs, IntakeLimits
from avinet.logs.ledger_damage import open_ledger
from avinet.logs.store.folders import Folders
from avinet.model.ids import ControllerName
from avinet.model.logs import LogClass, SegmentHead, SpoolTotals
from avinet.wire import log_messages as m
from avinet.wire.log_codec import LogDecoder, encode, raw_head
from tests.unit.log_kit import InThisThread

SPOOL = "0123456789abcdef0123456789abcdef"
SE = "se-9"
LIMITS = IntakeLimits(free_bytes=0)


IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Each of these tests makes a dozen ledgers, whose fsyncs would take seconds."""


def data_of(counter, size=1000):
    """A segment's bytes."""
    return (hashlib.sha256(str(counter).encode()).digest() * (size // 32 + 1))[:size]


def head_of(counter, size=1000):
    data = data_of(counter, size)
    return SegmentHead(
        incarnation=SPOOL,
        counter=counter,
        service="virtualservice-00000000-0000-4000-8000-000000000001",
        log_class=LogClass.SIGNIFICANT,
        first_us=1,
        last_us=counter,
        records=1,
        raw_bytes=size,
        size=size,
        sha256=hashlib.sha256(data).hexdigest(),
    )


class Service:
    """As much of a set's store as the keeper needs."""

    def __init__(self):
        self.arrivals = 0

    def arrived(self, raw_bytes):
        self.arrivals += 1


class Channel(StringTransport):
    """An SE's channel to one controller."""

    def __init__(self, link):
        super().__init__()
        self.link, self.decoder, self.acked, self.refused, self.held = link, LogDecoder(), [], [], False
        link.makeConnection(self)
        self.say(m.LogHello(incarnation=SPOOL, totals=SpoolTotals()))

    def abortConnection(self):
        self.end(ConnectionLost())

    def end(self, why=None):
        link, self.link = self.link, None
        if link is not None:
            link.connectionLost(Failure(why or ConnectionDone()))

    def pauseProducing(self):
        pass

    def resumeProducing(self):
        pass

    def say(self, *things):
        for thing in things:
            if self.link is not None:
                data = raw_head(len(thing)) + thing if isinstance(thing, bytes) else encode(thing)
                self.link.view_received(memoryview(data))

    def hear(self):
        data, _ = self.value(), self.clear()
        for message in self.decoder.feed(data):
            if isinstance(message, m.Ack):
                self.acked += [int(name[-16:]) for name in message.names]
            elif isinstance(message, m.LogWelcome):
                self.acked += [int(name[-16:]) for name in message.kept]
            elif isinstance(message, m.Refuse):
                self.refused.append((int(message.name[-16:]), message.reason))
            elif isinstance(message, m.Pause | m.Resume):
                self.held = isinstance(message, m.Pause)


class Steps:
    """Runs calls at once, as threads do in time; ``at`` says what happens at which of them, before it or after it."""

    def __init__(self):
        self.count, self.at, self.dead = 0, {}, False

    def run(self, call):
        number, self.count = self.count, self.count + 1
        for happens in self.at.pop((number, "before"), ()):
            happens()
        if self.dead:
            return Deferred()
        done = execute(call)
        for happens in self.at.pop((number, "after"), ()):
            happens()
        if self.dead:
            done.addErrback(lambda _: None)
            return Deferred()
        return done

    def then(self, steps, happens, when="before"):
        """So many steps from now."""
        self.at.setdefault((self.count + steps, when), []).append(happens)


class Member:
    """One controller's process."""

    def __init__(self, case, name):
        self.case, self.name, self.clock = case, name, Clock()
        self.folder = case.folder / name
        self.folder.mkdir(exist_ok=True)
        self.peers = case.hub.peers(name)
        self.events = []
        self.ledger = open_ledger(self.folder / "ledger.db")
        self.steps = Steps()
        threads, run = Threads(self.steps, self.steps), self.steps.run
        self.rows = CopiesElsewhere(self.ledger)
        self.copies = Copies(
            self.peers, self.rows, CopyThreads(run, run), self.clock, self.emit, case.without_peer
        )
        logs = IncomingLogs(self.folder, self.ledger, InThisThread(), LIMITS)
        self.intake = LogIntake(logs, threads, self.clock, self.clock.seconds, self.emit, copier=self.copies)
        self.copies.hold = lambda held: self.intake.hold("copies", held=held)
        folders = SetFolders(self.make, self.found, lambda store: shutil.rmtree(self.copies_folder / store))
        self.keeper = Keeper(self.peers, threads, self.clock, folders)
        self.claims = Claims(self.keeper, self.peers, self.ledger, self.clock, run)
        self.intake.elsewhere = self.claims.had
        self.peers.offer(PEER_COPIES, self.keeper.build)
        self.peers.publish(STORE, self.ledger.store_id)
        for starting in (self.keeper.start(), self.intake.start()):
            case.successResultOf(Deferred.fromCoroutine(starting))
        self.claims.start()
        self.copies.start()
        self.channel = None

    def emit(self, code, level, subject, text, **facts):
        self.events.append(code)

    @property
    def copies_folder(self):
        return self.folder / "copies"

    def found(self):
        return sorted(path.name for path in self.copies_folder.glob("*"))

    async def make(self, store, controller):
        folder = self.copies_folder / store
        folder.mkdir(parents=True, exist_ok=True)
        ledger = open_ledger(folder / "ledger.db")
        rows = CopiesHere(ledger)
        if controller is not None and rows.whose() is None:
            rows.be(controller)
        logs = IncomingLogs(folder, ledger, InThisThread(), LIMITS)
        logs.sweep(copied=True)

        def close():
            ledger.close()
            return succeed(None)

        whose = rows.whose()
        return CopySet(
            store, whose, Folders(folder), logs, Service(), close, rows.uncopied(), bool(rows.held())
        )

    # As an SE

    def se(self):
        """An SE's channel to it, made anew if there is none."""
        if self.channel is None or self.channel.link is None:
            self.channel = Channel(self.intake.build_bulk(type("Peer", (), {"se": SE})))
            self.clock.advance(0)
            self.channel.hear()
        return self.channel

    def send(self, *counters, was="", size=1000):
        """Segments, each alone."""
        channel = self.se()
        for counter in counters:
            channel.say(m.Begin(head=head_of(counter, size), was=was), data_of(counter, size))

    def send_batch(self, *counters, size=1000, was=""):
        self.se().say(
            m.Batch(heads=tuple(head_of(counter, size) for counter in counters), was=was),
            b"".join(data_of(counter, size) for counter in counters),
        )

    def acked(self):
        self.clock.advance(0)
        self.se().hear()
        return sorted(self.channel.acked)

    # What it has

    @property
    def has(self):
        """Counters that count in its own store."""
        return counters(self.ledger, "segment")

    def set_of(self, owner):
        return self.keeper.sets.get(owner if isinstance(owner, str) and len(owner) == 32 else owner.store)

    @property
    def store(self):
        return self.ledger.store_id

    def kept(self, store, table="segment"):
        """Counters that count in its copy of a store."""
        set_ = self.keeper.sets.get(store)
        return [] if set_ is None else counters(set_.logs.ledger, table)

    def die(self):
        """As kill -9: nothing is said, nothing is done, files stay."""
        self.steps.dead = True
        self.case.hub.cut(self.name)
        self.ledger.close()
        for set_ in self.keeper.sets.values():
            set_.logs.ledger.close()


def counters(ledger, table):
    with ledger.reading() as connection:
        return sorted(counter for (counter,) in connection.execute(f"SELECT counter FROM {table}"))


class Cluster(SynchronousTestCase):
    """Controllers of these names."""

    names = ("a", "b", "c")
    without_peer = WithoutPeer.HOLD

    def setUp(self):
        held = tempfile.TemporaryDirectory(dir=IN_MEMORY)
        self.addCleanup(held.cleanup)
        self.folder = Path(held.name)
        self.hub = PeerHub(*self.names)
        self.members = {}
        for name in self.names:
            self.start(name)
        self.addCleanup(self.end)
        self.settle()

    def end(self):
        for member in self.members.values():
            member.ledger.close()
            for set_ in member.keeper.sets.values():
                set_.logs.ledger.close()

    def start(self, name):
        self.members[name] = Member(self, name)
        return self.members[name]

    def kill(self, name):
        """``kill -9``; its files stay."""
        self.members.pop(name).die()

    def kept_of(self, store):
        """Counters that count in copies of a store, anywhere."""
        return sorted(counter for member in self.members.values() for counter in member.kept(store))

    def restart(self, name, *, heal=True):
        """A new process on the files of one that was killed."""
        self.hub._peers[ControllerName(name)] = MemoryPeers(ControllerName(name), self.hub)
        member = self.start(name)
        if heal:
            self.hub.heal(name, *(one for one in self.members if one != name))
        self.settle()
        return member

    def settle(self, seconds=3):
        """Time passes."""
        for _ in range(seconds * 4):
            for member in tuple(self.members.values()):
                member.clock.advance(0.25)

    def __getattr__(self, name):
        if name in type(self).names:
            return self.members[name]
        raise AttributeError(name)

    def files(self, member):
        return sorted(
            str(path.relative_to(member.folder))
            for path in member.folder.rglob("*")
            if path.is_file() and path.suffix in {".zst", ".pack", ".part"}
        )
