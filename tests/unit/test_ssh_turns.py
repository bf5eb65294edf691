"""Windows and turns through whole links: who may send, how much, and who goes first."""

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from avinet.ssh import profile
from avinet.ssh.client import Timeouts, _Login
from avinet.ssh.outlet import QUEUED_BYTES
from avinet.ssh.scheduler import Priority
from avinet.units import KIB, MIB
from tests.unit.ssh_line import run, stretch
from tests.unit.ssh_pipe import Collector, Controller
from tests.unit.test_ssh_channel import HalfCloser, Held


@implementer(IPushProducer)
class Source(Protocol):
    """Sends for ever, in pieces, while it may."""

    def __init__(self, piece=64 * KIB):
        self.piece = bytes(piece)
        self.sent = 0
        self.going = True

    def connectionMade(self):
        self.transport.registerProducer(self, True)
        if self.going:
            self.resumeProducing()

    def resumeProducing(self):
        self.going = True
        while self.going:
            self.sent += len(self.piece)
            self.transport.write(self.piece)

    def pauseProducing(self):
        self.going = False

    stopProducing = pauseProducing


class Counter(Protocol):
    """Counts what arrives, and notes it in a list shared with others."""

    def __init__(self, name="", order=None):
        self.name = name
        self.got = 0
        self.order = order if order is not None else []

    def dataReceived(self, data):
        self.got += len(data)
        self.order.append((self.name, len(data)))


class Turns(SynchronousTestCase):
    def setUp(self):
        self.controller = Controller()
        self.pipe, self.channel = self.controller.channel(self.controller.enrol())
        self.server = self.pipe.server_end.protocol
        self.client = self.pipe.client_end.protocol

    def join(self, client, server, priority=Priority.COMMANDS):
        self.controller.build = lambda: server
        self.channel.open(5001, client, priority=priority)
        self.pipe.pump()

    def sizes(self):
        """Of the data packets that reach the server from now on."""
        seen = []
        service, original = self.server.service, self.server.service.ssh_CHANNEL_DATA

        def note(packet):
            seen.append(len(packet) - 8)
            original(packet)

        self.patch(service, "ssh_CHANNEL_DATA", note)
        return seen


class Windows(Turns):
    def test_a_paused_reader_gives_no_credit_at_all(self):
        given = []
        original = self.client.service.ssh_CHANNEL_WINDOW_ADJUST

        def note(packet):
            given.append(packet)
            original(packet)

        self.patch(self.client.service, "ssh_CHANNEL_WINDOW_ADJUST", note)
        sink, end = Held(), Source()
        self.join(end, sink)
        self.assertEqual((given, end.going), ([], False))
        waiting = sink.transport.incoming.waiting.size
        self.assertEqual((waiting, sink.transport.localWindowLeft), (sink.transport.localWindowSize, 0))
        sink.transport.resumeProducing()
        self.pipe.client_end.step()
        self.pipe.server_end.step()
        self.assertNotEqual(given, [])

    def test_a_reader_that_takes_nothing_delays_no_other(self):
        stuck, end = Held(), Source()
        self.join(end, stuck)
        self.assertEqual(end.transport.remoteWindowLeft, 0)
        other, sink = Collector(), Collector()
        self.join(other, sink)
        for _ in range(20):
            other.transport.write(bytes(100_000))
            self.pipe.pump()
        self.assertEqual(len(sink.data), 2_000_000)
        self.assertEqual(stuck.data, b"")

    def test_either_side_can_end_first_and_the_other_go_on(self):
        for server_first in (False, True):
            sink, end = HalfCloser(), HalfCloser()
            self.join(end, sink)
            first, second = (sink, end) if server_first else (end, sink)
            first.transport.write(b"bye")
            first.transport.loseWriteConnection()
            self.pipe.pump()
            self.assertEqual(
                (second.data, second.ended, second.reason, first.reason), (b"bye", True, None, None)
            )
            second.transport.write(bytes(3 * MIB))
            self.pipe.pump()
            self.assertEqual(len(first.data), 3 * MIB)
            second.transport.loseWriteConnection()
            self.pipe.pump()
            self.assertTrue(first.ended)

    def test_a_window_grows_to_its_most_on_a_long_line_and_shrinks_when_memory_is_short(self):
        sink, end = Counter(), Source()
        self.join(Collector(), Collector())
        stretch(self.pipe)
        self.controller.build = lambda: sink
        self.channel.open(5001, end, priority=Priority.CONTROL)
        run(
            self.pipe,
            1.2,
            until=lambda: sink.transport and sink.transport.localWindowSize >= 16 * MIB,
            tick_s=0.005,
        )
        self.assertEqual(sink.transport.localWindowSize, profile.MAX_WINDOW_BYTES)
        memory = self.server.service.memory
        memory.process.limit = 1
        memory.hold(1)
        self.assertTrue(memory.pressed)
        self.assertIsNone(self.server.ended)
        run(
            self.pipe, 1.2, until=lambda: sink.transport.localWindowSize == profile.WINDOW_BYTES, tick_s=0.005
        )
        self.assertEqual(sink.transport.localWindowSize, profile.WINDOW_BYTES)
        run(self.pipe, 0.2, tick_s=0.005)
        self.assertEqual(sink.transport.localWindowSize, profile.WINDOW_BYTES)
        self.assertLessEqual(sink.transport.localWindowLeft, profile.WINDOW_BYTES)

    def test_a_window_grows_no_further_than_its_channel_allows(self):
        sink, end = Counter(), Source()
        self.join(Collector(), Collector())
        stretch(self.pipe)
        self.controller.build = lambda: sink
        self.channel.open(5001, end, priority=Priority.CONTROL)
        run(self.pipe, 0.2, until=lambda: sink.transport, tick_s=0.005)
        sink.transport.max_window = 3 * MIB
        run(self.pipe, 1.2, tick_s=0.005)
        self.assertEqual(sink.transport.localWindowSize, 3 * MIB)


class Packets(Turns):
    def test_two_of_us_use_packets_of_256_kib(self):
        sink, end = Counter(), Collector()
        self.join(end, sink, Priority.CONTROL)
        sizes = self.sizes()
        end.transport.write(bytes(MIB))
        self.pipe.pump()
        self.assertEqual(sizes, [256 * KIB] * 4)

    def test_others_get_and_send_32_kib(self):
        controller = self.controller
        key = controller.enrol(se="se-2", loopback="127.1.0.2")
        login = _Login("aviseuser", key, lambda line: True, controller.clock, Timeouts())
        link = login.buildProtocol(None)
        link.ourVersionString = b"SSH-2.0-OpenSSH_9.9"
        channels = []
        login.done.addCallback(channels.append)
        self.pipe = controller.raw(link)
        self.pipe.pump()
        self.server, self.channel = self.pipe.server_end.protocol, channels[0]
        sizes = self.sizes()
        sink, end = Collector(), Counter()
        self.join(end, sink, Priority.CONTROL)
        end.transport.write(bytes(MIB))
        self.pipe.pump()
        self.assertEqual(sizes, [32 * KIB] * 32)
        sink.transport.priority = Priority.CONTROL
        sink.transport.write(bytes(MIB))
        self.pipe.pump()
        self.assertEqual({size for _, size in end.order}, {32 * KIB})


class Classes(Turns):
    def saturate(self, priority, order, name):
        sink, end = Counter(name, order), Source()
        self.controller.build = lambda: sink
        self.channel.open(5001, end, priority=priority)
        while sink.transport is None:
            for pipe_end in (self.pipe.client_end, self.pipe.server_end):
                pipe_end.leave() if hasattr(pipe_end, "leave") else pipe_end.step()
            if hasattr(self.pipe.client_end, "leave"):
                run(self.pipe, 0.01)
        return sink, end

    def test_control_goes_before_everything_that_is_not_in_the_socket_yet(self):
        order = []
        control = Collector()
        self.join(control, Counter("control", order), Priority.CONTROL)
        self.saturate(Priority.BULK, order, "bulk")
        for _ in range(300):
            self.pipe.client_end.step()
            self.pipe.server_end.step()
        self.pipe.server_end.reading = False  # the socket fills
        del order[:]
        waiting = len(self.pipe.client_end.sent)
        control.transport.write(b"urgent")
        self.pipe.server_end.reading = True
        for _ in range(30):
            self.pipe.client_end.step()
            self.pipe.server_end.step()
        names = [name for name, _ in order]
        before = sum(size for name, size in order[: names.index("control")])
        self.assertLessEqual(before, waiting + 64 * KIB)
        self.assertLessEqual(waiting, QUEUED_BYTES + 256 * KIB)
        self.assertIn("bulk", names[names.index("control") :])

    def test_bulk_makes_progress_under_commands_without_end_but_little(self):
        order = []
        commands, _ = self.saturate(Priority.COMMANDS, order, "commands")
        bulk, _ = self.saturate(Priority.BULK, order, "bulk")
        for _ in range(600):
            self.pipe.client_end.step()
            self.pipe.server_end.step()
        self.assertGreater(commands.got, 5 * MIB)
        self.assertGreater(bulk.got, commands.got // 32)
        self.assertLess(bulk.got, commands.got // 8)

    def test_two_of_a_class_share_alike(self):
        order = []
        one, _ = self.saturate(Priority.BULK, order, "one")
        two, _ = self.saturate(Priority.BULK, order, "two")
        for _ in range(600):
            self.pipe.client_end.step()
            self.pipe.server_end.step()
        self.assertGreater(one.got, MIB)
        self.assertLess(abs(one.got - two.got), one.got // 5)

    def test_bulk_on_a_slow_line_leaves_no_queue_for_a_heartbeat_to_wait_in(self):
        self.join(Collector(), Collector())
        stretch(self.pipe, rate=12.5e6)
        order = []
        bulk, _ = self.saturate(Priority.BULK, order, "bulk")
        line = self.pipe.client_end
        run(self.pipe, 2.0, tick_s=0.002)
        line.worst_queue_s, before = 0.0, bulk.got
        run(self.pipe, 1.5, tick_s=0.002)
        self.assertLess(line.worst_queue_s, 0.040)
        self.assertGreater(bulk.got - before, 0.85 * 1.5 * 12.5e6)


class Produced(Turns):
    """Producers that fill packets in place."""

    def produce(self, *closing):
        """What arrives from one that fills 1000 bytes and then calls ``closing`` of its transport from within."""
        sink, end = Collector(), HalfCloser()
        self.join(end, sink)

        class Filler:
            left = 3

            def produce_into(self, room):
                if not self.left:
                    return 0
                self.left -= 1
                room[:1000] = bytes((self.left,)) * 1000
                if not self.left:
                    end.transport.unregisterProducer()
                    for call in closing:
                        getattr(end.transport, call)()
                return 1000

            def resumeProducing(self):
                raise AssertionError

            def stopProducing(self):
                pass

        end.transport.registerProducer(Filler(), False)
        self.pipe.pump()
        self.assertIsNone(self.server.ended)
        self.assertIsNone(self.client.ended)
        return sink

    WHOLE = b"\2" * 1000 + b"\1" * 1000 + b"\0" * 1000

    def test_the_last_piece_arrives_although_its_producer_ends_the_channel_with_it(self):
        for closing in ("loseConnection", "loseWriteConnection"):
            sink = self.produce(closing)
            self.assertEqual((len(sink.data), sink.data), (3000, self.WHOLE), closing)
            self.assertIsNotNone(sink.reason)

    def test_nothing_follows_an_abort_from_within(self):
        sink = self.produce("abortConnection")
        self.assertEqual(sink.data, self.WHOLE[:2000])
        self.assertIsNotNone(sink.reason)

    def test_a_producer_that_only_leaves_is_whole(self):
        sink = self.produce()
        self.assertEqual(sink.data, self.WHOLE)
