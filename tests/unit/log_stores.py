"""Several controllers of one SE, each by hand: what it is sent is seen, and what it answers is said."""

from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from avinet.logs.spool import Spool
from avinet.se.log_owners import LogOwners
from avinet.se.log_shipper import LogPorts, LogShipper
from avinet.se.log_sources import LogSource
from avinet.units import KIB
from avinet.wire import log_messages as m
from avinet.wire.log_codec import LogDecoder, encode
from tests.unit.log_lines import BASE_US, line
from tests.unit.test_logs_spool import SIGNIFICANT, Kit

PORTS = {m.LIVE_PORT: "live", m.BULK_PORT: "bulk"}


class End:
    """What the SE's protocol has for a transport: filled when the test moves on."""

    def __init__(self, store, protocol):
        self.store, self.protocol, self.producer = store, protocol, None
        self.decoder = LogDecoder()
        self.out = bytearray()
        self.lost = False

    def write(self, data):
        self.out += data

    def registerProducer(self, producer, streaming):
        self.producer = producer

    def unregisterProducer(self):
        self.producer = None

    def abortConnection(self):
        self.lose()

    def lose(self):
        if not self.lost:
            self.lost = True
            self.protocol.connectionLost(Failure(ConnectionDone()))

    def say(self, message):
        if not self.lost:
            self.protocol.dataReceived(encode(message))

    def step(self):
        """Whether something moved."""
        if self.lost:
            return False
        if self.producer is not None:
            room = bytearray(64 * KIB)
            self.out += room[: self.producer.produce_into(memoryview(room))]
        data, self.out = bytes(self.out), bytearray()
        for thing in self.decoder.feed(data):
            self.store.heard(self, thing)
        return bool(data)


class Store:
    """A controller: ``answers`` says what becomes of a segment, by its name and what is said of it."""

    def __init__(self, case, name, store):
        self.case, self.name, self.store = case, name, store
        self.batches, self.kept, self.last_counter = True, (), 0
        self.begun = []
        """Counters, and what was said of each where something was."""
        self.said = []
        self.waiting = []
        """What has no answer, while ``answers`` gives none."""
        self.ends = {}
        self.channel = None
        self.answers = lambda name, was: m.Ack(names=(name,))

    def attach(self):
        """A secure channel, on which its services are opened."""
        self.channel = Channel(self)
        self.case.shipper.attached(self.name, self.channel)
        self.case.pump()

    def lose(self):
        """Without a word."""
        for end in tuple(self.ends.values()):
            end.lose()
        self.channel.lost.callback(ConnectionDone())
        self.ends = {}
        self.case.pump()

    def hold(self, *, held=True):
        """No room, or room again."""
        message = m.Pause(pull=0) if held else m.Resume(pull=0)
        for end in self.ends.values():
            end.say(message)
        self.case.pump()

    def pull(self, **fields):
        """On the bulk channel; what is said of it comes to ``said``."""
        self.ends["bulk"].say(m.Pull(pull=1, selection=m.Selection(**fields)))
        self.case.pump()
        return self.said

    def heard(self, end, thing):
        if isinstance(thing, m.LogHello):
            welcome = m.LogWelcome(
                store=self.store, batches=self.batches, kept=self.kept, last_counter=self.last_counter
            )
            end.say(welcome)
        elif isinstance(thing, m.Begin | m.Batch):
            heads = thing.heads if isinstance(thing, m.Batch) else (thing.head,)
            for head in heads:
                self.begun.append((head.counter, thing.was))
                self.answer(end, head.name, thing.was)
        elif isinstance(thing, m.Planned | m.PullDone):
            self.said.append(thing)

    def answer(self, end, name, was):
        said = self.answers(name, was)
        if said is None:
            self.waiting.append((end, name))
        else:
            self.case.later.append((end, said))

    def counters(self):
        """What was begun since the last look, in order."""
        begun, self.begun = self.begun, []
        return [counter for counter, _ in begun]

    def silent(self):
        """Take all, and say nothing."""
        self.answers = lambda name, was: None


class Channel:
    """The secure channel."""

    def __init__(self, store):
        self.store, self.lost = store, Deferred()
        self.lost.addErrback(lambda why: None)

    def open(self, port, protocol, *, priority):
        end = self.store.ends[PORTS[port]] = End(self.store, protocol)
        protocol.makeConnection(end)
        return succeed(protocol)


class Stores(Kit):
    """An SE, and controllers ``a``, ``b`` and ``c``."""

    def setUp(self):
        super().setUp()
        self.clock = Clock()
        self.later = []
        """Answers that are on their way."""
        self.shipper = None
        self.stores = {name: Store(self, name, digit * 32) for name, digit in zip("abc", "123", strict=True)}
        self.a, self.b, self.c = self.stores.values()
        self.start()

    def in_thread(self, call, *args):
        return execute(call, *args)

    def start(self, listed="abc"):
        """The agent."""
        self.owners = LogOwners(self.clock)
        self.owners.list(list(listed))
        source = LogSource(self.spool, self.flush, self.in_thread, self.clock, self.owners)
        self.shipper = LogShipper(source, LogPorts())
        self.addCleanup(self.shipper.stop)

    def kill(self, listed="abc"):
        """The agent, which starts again; what was on its way is lost."""
        for store in self.stores.values():
            for end in store.ends.values():
                end.lost = True
            store.ends, store.waiting = {}, []
        self.later.clear()
        self.clock = Clock()
        self.spool.close()
        self.spool = Spool.open(self.folder, self.logs, lambda: self.now)
        self.start(listed)

    def flush(self):
        return succeed(self.spool.last_counter())

    def made(self, *services, log_class=SIGNIFICANT):
        """A segment each."""
        self.spooled(log_class, *[line(number, BASE_US) for number in services])
        self.shipper.new_segments()
        self.pump()

    def pump(self):
        """Until nothing moves."""
        moved = True
        while moved:
            ends = [end for store in self.stores.values() for end in tuple(store.ends.values())]
            moved = bool([end for end in ends if end.step()])
            answers, self.later = self.later, []
            for end, message in answers:
                moved = True
                end.say(message)

    def tick(self, seconds):
        self.clock.advance(seconds)
        self.pump()

    def attach(self, *stores):
        """And wait until all of them count."""
        for store in stores or self.stores.values():
            store.attach()
        self.tick(6)

    def left(self, log_class=SIGNIFICANT):
        """Counters of what is in the spool."""
        return [head.counter for head in self.heads(classes=(log_class,))]
