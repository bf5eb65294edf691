"""Both ends of the log services over a real secure channel in memory: a spool here, an intake and a ledger there."""

import hashlib
import os
import tempfile
from concurrent.futures import Future
from pathlib import Path

import zstandard
from twisted.internet.defer import Deferred, execute
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.log_intake import LogIntake, Threads
from avinet.controller.pull_records import PullOrder
from avinet.controller.pulls import Pulls
from avinet.logs.incoming import IncomingLogs, IntakeLimits
from avinet.logs.ledger_damage import open_ledger
from avinet.logs.spool import Spool
from avinet.model.logs import LogClass, Selection, piece_name
from avinet.se.log_live import LiveLogs
from avinet.se.log_owners import LogOwners
from avinet.se.log_pulled import PulledLogs
from avinet.se.log_shipper import LogShipper
from avinet.se.log_sources import LogSource
from avinet.ssh.scheduler import Priority
from avinet.store.threads import InPlace
from avinet.wire.log_messages import BULK_PORT, BULK_SERVICE, LIVE_PORT, LIVE_SERVICE
from tests.unit.log_lines import BASE_US, line
from tests.unit.ssh_pipe import Controller

FULL, SIGNIFICANT = LogClass.FULL, LogClass.SIGNIFICANT
PORTS = (("localhost", LIVE_PORT), ("localhost", BULK_PORT))


class InThisThread:
    """An executor of fsyncs that does them at once."""

    def submit(self, call, *args):
        future = Future()
        try:
            future.set_result(call(*args))
        except Exception as why:
            future.set_exception(why)
        return future


class Held:
    """A runner whose calls wait until they are let go."""

    def __init__(self):
        self.waiting = []

    def run(self, call):
        done = Deferred()
        self.waiting.append((call, done))
        return done

    def let(self, count=None):
        waiting, self.waiting = self.waiting[:count], self.waiting[count or len(self.waiting) :]
        for call, done in waiting:
            execute(call).chainDeferred(done)
        return len(waiting)


class Engine:
    """An SE: its spool, its shipper, and what it wrote."""

    def __init__(self, folder, number=1):
        self.se = f"se-{number}"
        self.folder, self.logs = Path(folder, self.se, "logs"), Path(folder, self.se, "data-plane")
        self.folder.mkdir(parents=True)
        self.logs.mkdir()
        self.written = {FULL: [], SIGNIFICANT: []}
        self.key = self.pipe = self.channel = self.shipper = None
        self.flushed = self.last_piece = 0
        self.open()

    def open(self):
        self.spool = Spool.open(self.folder, self.logs, lambda: BASE_US / 1e6)

    def open_again(self):
        """The agent was killed, and starts again."""
        self.spool.close()
        self.open()

    def shipper_bulk(self):
        """The channel of the service ``logs``."""
        return self._shipper_channel(PulledLogs)

    def shipper_live(self):
        """The channel of the service ``logs-live``."""
        return self._shipper_channel(LiveLogs)

    def _shipper_channel(self, kind):
        for services in self.shipper._services.values():
            for service in services:
                if isinstance(service.role, kind):
                    return service.role.channel
        return None

    def log(self, log_class, *lines):
        """Written by the data plane."""
        self.written[log_class].extend(lines)
        with (self.logs / f"{log_class}.ndjson").open("ab") as file:
            file.write(b"".join(lines))

    def log_bulk(self, log_class, size, service=1, at_us=BASE_US):
        """Lines that do not compress, in one segment of about ``size`` bytes."""
        lines = [line(service, at_us + n, path=os.urandom(3_000).hex()) for n in range(max(1, size // 3_000))]
        self.log(log_class, *lines)
        self.spooled(log_class)

    def log_bulk_more(self, log_class, size, service, at_us):
        """The same of another service, not in a segment yet."""
        lines = [line(service, at_us + n, path=os.urandom(3_000).hex()) for n in range(max(1, size // 3_000))]
        self.log(log_class, *lines)

    def spooled(self, *classes):
        """Put what was written into segments."""
        for log_class in classes or (SIGNIFICANT, FULL):
            current = self.logs / f"{log_class}.ndjson"
            if current.exists():
                self.last_piece += 1
                current.rename(self.logs / piece_name(log_class, self.last_piece))
        for piece in self.spool.pieces():
            while not self.spool.take_in(piece).done:
                pass
        if self.shipper is not None:
            self.shipper.new_segments()

    def flush(self):
        self.flushed += 1
        self.spooled()
        return execute(self.spool.last_counter)

    def heads(self, **selection):
        return self.spool.pending(Selection(**selection), None, 0, 1000)


class Fleet(SynchronousTestCase):
    """One controller and some SEs."""

    limits = IntakeLimits(free_bytes=0)

    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.folder = Path(held.name)
        self.state = self.folder / "controller"
        self.state.mkdir()
        self.ssh = Controller()
        self.clock = self.ssh.clock
        self.events = []
        self.ingested = []
        self.writes, self.commits = InPlace(), InPlace()
        self.intake = None
        self.services_registered = False
        self.start_controller()
        self.addCleanup(lambda: self.ledger.close())  # noqa: PLW0108 - the one of that time
        self.engine = self.add_engine()

    # The controller

    def start_controller(self):
        """Or start it again, after ``stop_controller``."""
        self.ledger = open_ledger(self.state / "ledger.db")
        logs = IncomingLogs(self.state, self.ledger, InThisThread(), self.limits)
        self.intake = LogIntake(
            logs, Threads(self.writes, self.commits), self.clock, self.clock.seconds, self.emit
        )
        self.pulls = Pulls(self.ledger, self.intake, self.clock, self.clock.seconds)
        self.done(self.pulls.start())
        self.done(self.intake.start())
        if not self.services_registered:
            self.services_registered = True
            services = self.ssh.services

            def live(peer):
                return self.intake.build_live(peer)

            def bulk(peer):
                return self.intake.build_bulk(peer)

            services.register(LIVE_SERVICE, LIVE_PORT, live, Priority.LIVE_LOGS)
            services.register(BULK_SERVICE, BULK_PORT, bulk, Priority.BULK)

    def emit(self, code, level, subject, text, **facts):
        self.events.append(code)

    def done(self, coroutine):
        """The result of something that is done at once."""
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def data_of(self, segment):
        """The bytes of one that is received."""
        data = (self.state / "received" / segment.se / segment.file).read_bytes()
        begin = 0 if segment.place is None else segment.place.offset
        data = data[begin : begin + segment.head.size]
        self.assertEqual(hashlib.sha256(data).hexdigest(), segment.head.sha256)
        return data

    def received(self, se="se-1"):
        """Every segment that is here for good, decompressed, by class: lists of lines."""
        found = {FULL: [], SIGNIFICANT: []}
        waiting = [one for one in self.ledger.waiting(2**62) if one.se == se]
        for segment in waiting:
            raw = zstandard.ZstdDecompressor().decompress(self.data_of(segment))
            found[segment.head.log_class] += raw.splitlines(keepends=True)
        files = {path.name for path in (self.state / "received" / se).glob("*")}
        self.assertEqual(files, {one.file for one in waiting})
        return found

    def ingest(self, segment):
        """What the store does with one."""
        raw = zstandard.ZstdDecompressor().decompress(self.data_of(segment))
        self.ingested += raw.splitlines(keepends=True)
        for se, name in self.ledger.stored(None, [segment]):
            (self.state / "received" / se / name).unlink()

    def assert_all_here(self, *classes, engine=None):
        """Each line that was written is here once, and the spool has let go of it."""
        engine = engine or self.engine
        received = self.received(engine.se)
        for log_class in classes or (FULL, SIGNIFICANT):
            here, written = sorted(received[log_class]), sorted(engine.written[log_class])
            self.assertTrue(here == written, f"{len(here)} lines of {len(written)}, or others")
            self.assertEqual(engine.heads(classes=(log_class,)), [])

    def pull(self, *engines, **selection):
        """Ask; its number."""
        rate, limit = selection.pop("rate", 0), selection.pop("byte_limit", 0)
        order = PullOrder(
            by="admin",
            engines=tuple(engine.se for engine in engines or (self.engine,)),
            selection=Selection(**selection),
            rate=rate,
            byte_limit=limit,
        )
        return self.done(self.pulls.create(order)).id

    def state_of(self, pull):
        return self.pulls.get(pull).state.value

    # SEs

    def add_engine(self, number=1):
        engine = Engine(self.folder, number)
        engine.key = self.ssh.enrol(se=engine.se, permit_open=PORTS, loopback=f"127.1.0.{number}")
        self.addCleanup(lambda: engine.spool.close())  # noqa: PLW0108 - the one of that time
        return engine

    def attach(self, engine=None):
        """Dial and offer logs."""
        engine = engine or self.engine
        engine.pipe, engine.channel = self.ssh.channel(engine.key)
        source = LogSource(engine.spool, engine.flush, self.in_thread, self.clock, LogOwners(self.clock))
        engine.shipper = LogShipper(source)
        engine.shipper.attached("c1", engine.channel)

    def in_thread(self, call, *args):
        return execute(call, *args)

    def half_sent(self, size):
        """A pull of one segment of about that size, half of which is sent; the pull's number and the segment."""
        self.engine.log_bulk(FULL, size)
        (head,) = self.engine.heads()
        self.attach()
        self.pump()
        pull = self.pull()
        while self.engine.shipper_bulk().sent_bytes < head.size // 2:
            self.assertTrue(self.step())
        return pull, head

    def pump(self, *engines):
        for _ in range(3):
            for engine in engines or (self.engine,):
                engine.pipe.pump()

    def lose(self, engine=None):
        """The link is cut, both ways at once."""
        engine = engine or self.engine
        engine.channel.abort()
        engine.pipe.pump()

    def step(self, count=1, engine=None):
        """Move some packets."""
        pipe = (engine or self.engine).pipe
        for _ in range(count):
            self.clock.advance(0)
            if not pipe.client_end.step() | pipe.server_end.step():
                return False
        return True
