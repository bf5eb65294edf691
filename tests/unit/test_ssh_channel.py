"""Channels push back, half close, and bound what they keep."""

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from avinet.ssh import profile
from tests.unit.ssh_pipe import Collector, Controller


@implementer(IPushProducer)
class Source:
    """Writes until told to stop."""

    def __init__(self, transport):
        self.transport = transport
        self.sent = 0
        self.going = True
        self.stopped = False

    def run(self):
        while self.going:
            self.sent += 1000
            self.transport.write(bytes(1000))

    def pauseProducing(self):
        self.going = False

    def resumeProducing(self):
        self.going = True
        self.run()

    def stopProducing(self):
        self.going = False
        self.stopped = True


class Held(Collector):
    """Takes nothing until told to."""

    def connectionMade(self):
        self.transport.pauseProducing()


@implementer(IHalfCloseableProtocol)
class HalfCloser(Collector):
    ended = False

    def readConnectionLost(self):
        self.ended = True

    def writeConnectionLost(self):
        pass


class ChannelCase(SynchronousTestCase):
    def setUp(self):
        self.controller = Controller()
        self.pipe, self.channel = self.controller.channel(self.controller.enrol())

    def join(self, client, server):
        self.controller.build = lambda: server
        self.channel.open(5001, client)
        self.pipe.pump()


class Flow(ChannelCase):
    def test_a_paused_consumer_stops_the_sender_within_one_window(self):
        sink, end = Held(), Collector()
        self.join(end, sink)
        source = Source(end.transport)
        end.transport.registerProducer(source, True)
        source.run()
        self.pipe.pump()
        self.assertFalse(source.going)
        self.assertLessEqual(source.sent, profile.WINDOW_BYTES + 1000)
        held = source.sent
        sink.transport.resumeProducing()
        for _ in range(5):
            self.pipe.client_end.step()
            self.pipe.server_end.step()
        self.assertGreater(source.sent, held)
        source.going = False
        end.transport.unregisterProducer()
        self.pipe.pump()
        self.assertEqual(len(sink.data), source.sent)

    def test_a_window_used_up_to_the_byte_stops_the_sender(self):
        sink, end = Held(), Collector()
        self.join(end, sink)
        source = Source(end.transport)
        source.run = lambda: None
        end.transport.registerProducer(source, True)
        for _ in range(profile.WINDOW_BYTES // profile.MAX_DATA_PACKET):
            end.transport.write(bytes(profile.MAX_DATA_PACKET))
            self.pipe.pump()
        self.assertEqual(end.transport.remoteWindowLeft, 0)
        self.assertEqual(end.transport.unsent.size, 0)
        self.assertFalse(source.going)

    def test_a_writer_who_ignores_it_loses_the_channel_and_only_that(self):
        sink, end, other = Held(), Collector(), Collector()
        self.join(end, sink)
        self.join(other, Collector())
        for _ in range(7):
            end.transport.write(bytes(1024 * 1024))
            self.pipe.pump()
        self.assertIsNotNone(end.reason)
        self.assertIsNone(sink.reason, "a paused reader hears of it when it resumes, as with TCP")
        sink.transport.resumeProducing()
        self.assertIsNotNone(sink.reason)
        self.assertIsNone(other.reason)

    def test_a_full_socket_holds_the_data_in_its_channel(self):
        sink, end = Collector(), Collector()
        self.join(end, sink)
        self.pipe.server_end.reading = False
        source = Source(end.transport)
        end.transport.registerProducer(source, True)
        source.run()
        self.assertFalse(source.going)
        self.assertLess(len(self.pipe.client_end.sent), 256 * 1024)

    def test_credit_is_given_for_what_was_taken_only(self):
        sink, end = Held(), Collector()
        self.join(end, sink)
        end.transport.write(bytes(profile.WINDOW_BYTES))
        self.pipe.pump()
        self.assertEqual(end.transport.remoteWindowLeft, 0)
        sink.transport.resumeProducing()
        self.pipe.pump()
        self.assertGreaterEqual(end.transport.remoteWindowLeft, profile.WINDOW_BYTES // 2)

    def test_a_pull_producer_is_asked_while_there_is_room(self):
        sink, end = Collector(), Collector()
        self.join(end, sink)

        class Pull:
            left = 300

            def resumeProducing(self):
                if self.left:
                    self.left -= 1
                    end.transport.write(b"z" * 1000)

            def stopProducing(self):
                pass

        end.transport.registerProducer(Pull(), False)
        self.pipe.pump()
        self.assertEqual(len(sink.data), 300_000)


class Ends(ChannelCase):
    def test_half_closing_leaves_the_other_direction_open(self):
        sink, end = HalfCloser(), HalfCloser()
        self.join(end, sink)
        end.transport.write(b"question")
        end.transport.loseWriteConnection()
        self.pipe.pump()
        self.assertTrue(sink.ended)
        self.assertIsNone(sink.reason)
        sink.transport.write(b"answer")
        sink.transport.loseConnection()
        self.pipe.pump()
        self.assertEqual((sink.data, end.data), (b"question", b"answer"))
        self.assertIsInstance(end.reason, ConnectionDone)
        self.assertIsInstance(sink.reason, ConnectionDone)

    def test_eof_closes_a_protocol_that_knows_no_half_closing(self):
        sink, end = Collector(), HalfCloser()
        self.join(end, sink)
        end.transport.loseWriteConnection()
        self.pipe.pump()
        self.assertIsInstance(sink.reason, ConnectionDone)
        self.assertIsInstance(end.reason, ConnectionDone)

    def test_what_was_sent_before_a_close_still_arrives_at_a_paused_reader(self):
        sink, end = Held(), Collector()
        self.join(end, sink)
        end.transport.write(b"last words")
        end.transport.loseConnection()
        self.pipe.pump()
        self.assertEqual((sink.data, sink.reason), (b"", None))
        sink.transport.resumeProducing()
        self.assertEqual(sink.data, b"last words")
        self.assertIsInstance(sink.reason, ConnectionDone)

    def test_a_lost_connection_ends_channels_and_stops_producers(self):
        sink, end = Held(), Collector()
        self.join(end, sink)
        source = Source(end.transport)
        source.run = lambda: None
        end.transport.registerProducer(source, True)
        self.pipe.client_end.abortConnection()
        self.pipe.pump()
        self.assertTrue(source.stopped)
        self.assertIsNotNone(end.reason)
        self.assertIsNotNone(sink.reason)

    def test_connection_lost_never_comes_inside_the_call_that_closes(self):
        class Closer(Collector):
            inside = False

            def dataReceived(self, data):
                self.inside = True
                self.transport.loseConnection()
                assert self.reason is None
                self.inside = False

            def connectionLost(self, reason):
                assert not self.inside
                super().connectionLost(reason)

        sink, end = Closer(), Collector()
        self.join(end, sink)
        end.transport.write(b"x")
        self.pipe.pump()
        self.assertIsNotNone(sink.reason)

    def test_writing_after_the_end_is_ignored(self):
        sink, end = Collector(), Collector()
        self.join(end, sink)
        transport = end.transport
        transport.loseConnection()
        transport.write(b"late")
        self.pipe.pump()
        transport.write(b"later")
        transport.loseConnection()
        transport.abortConnection()
        self.pipe.pump()
        self.assertEqual(sink.data, b"")

    def test_an_open_that_was_given_up_closes_if_it_succeeds(self):
        sink = Collector()
        self.controller.build = lambda: sink
        opening = self.channel.open(5001, Protocol())
        opening.addErrback(lambda _: None)
        opening.cancel()
        self.pipe.pump()
        self.assertIsNotNone(sink.reason)
