"""A link: whole messages over a transport, bounded both ways."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import LocalProtocolError, RemoteProtocolError
from avinet.wire.codec import MAX_FRAME_BYTES, encode
from avinet.wire.link import MAX_SERIES, TURN_BYTES, LinkLimits, LinkLostError, MessageLink
from avinet.wire.messages import ConfigEnd, ConfigPut, Goodbye, Ping, Report, StatsRequest, Unsupported

from .links import Wire
from .test_wire_codec import packed


class Recorder:
    def __init__(self):
        self.made, self.messages, self.lost = [], [], []
        self.on_message = lambda message: None

    def link_made(self, link):
        self.made.append(link)

    def message_received(self, message):
        self.messages.append(message)
        self.on_message(message)

    def link_lost(self, why):
        self.lost.append(why)


def puts(count, size=1000, asked=None):
    for number in range(count):
        if asked is not None:
            asked.append(number)
        yield ConfigPut(push=1, name=str(number), body=bytes(size))


class LinkCase(SynchronousTestCase):
    def join(self, *, takes=None, **limits):
        self.clock, self.handler = Clock(), Recorder()
        self.link = MessageLink(self.handler, self.clock, LinkLimits(**limits))
        self.wire = Wire(self.link, takes=takes).connect()
        return self.link


class Messages(LinkCase):
    def test_the_handler_hears_of_the_link_then_of_messages_then_of_the_end_once(self):
        link = self.join()
        self.assertEqual(self.handler.made, [link])
        self.wire.say(ConfigEnd(push=1), StatsRequest(id=2))
        self.assertEqual(self.handler.messages, [ConfigEnd(push=1), StatsRequest(id=2)])
        self.wire.lose()
        link.connectionLost()
        self.assertEqual(self.handler.lost, ["Connection was closed cleanly."])

    def test_a_sent_message_arrives(self):
        self.join().send(StatsRequest(id=1))
        self.assertEqual(self.wire.heard(), [StatsRequest(id=1)])

    def test_bytes_both_ways_are_counted(self):
        self.join().send(StatsRequest(id=1))
        self.wire.say(ConfigEnd(push=1))
        self.assertEqual(self.link.sent_bytes, len(encode(StatsRequest(id=1))))
        self.assertEqual(self.link.received_bytes, len(encode(ConfigEnd(push=1))))

    def test_an_unknown_message_is_answered_and_the_session_goes_on(self):
        self.join()
        self.link.dataReceived(packed(t="telepathy"))
        self.assertEqual(self.wire.heard(), [Unsupported(tag_="telepathy")])
        self.wire.say(ConfigEnd(push=1))
        self.assertEqual(self.handler.messages, [ConfigEnd(push=1)])

    def test_a_malformed_frame_is_answered_with_goodbye_and_cuts(self):
        self.join()
        self.link.dataReceived(encode(ConfigEnd(push=1)) + b"\0\0\0\1\xc1")
        self.assertEqual(self.handler.messages, [ConfigEnd(push=1)])
        self.assertEqual([message.reason for message in self.wire.heard()], ["protocol"])
        self.assertTrue(self.wire.disconnecting)

    def test_a_handler_that_finds_a_message_wrong_cuts(self):
        self.join()

        def refuse(message):
            raise RemoteProtocolError(protocol="control session", detail="not now")

        self.handler.on_message = refuse
        self.wire.say(ConfigEnd(push=1), ConfigEnd(push=2))
        self.assertEqual(self.wire.heard(), [Goodbye(reason="protocol", text="not now")])
        self.assertEqual(len(self.handler.messages), 1)

    def test_a_defect_costs_this_session_only_and_is_logged(self):
        self.join()
        self.handler.on_message = lambda message: 1 / 0
        self.wire.say(ConfigEnd(push=1))
        self.assertTrue(self.wire.aborted)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_nothing_is_received_or_sent_once_it_closes(self):
        self.join()
        self.link.close(None, "enough")
        self.wire.say(ConfigEnd(push=1))
        self.link.send(StatsRequest(id=1))
        self.assertEqual((self.handler.messages, self.wire.heard()), ([], []))

    def test_the_end_is_told_with_our_reason_when_we_ended_it(self):
        self.join()
        self.link.abort("enough")
        self.assertEqual(self.handler.lost, ["enough"])


class Closing(LinkCase):
    def test_goodbye_goes_out_even_when_the_transport_is_full(self):
        self.join(takes=0)
        self.wire.producer.pauseProducing()
        self.link.send(StatsRequest(id=1))
        self.link.close(Goodbye(reason="replaced", text="t"), "replaced")
        self.assertEqual(self.wire.heard(), [Goodbye(reason="replaced", text="t")])
        self.assertIsNone(self.wire.producer)

    def test_a_peer_that_does_not_take_it_is_aborted(self):
        self.join(close_s=5.0)
        self.link.close(Goodbye(reason="stopping", text="t"), "stopping")
        self.clock.advance(4.9)
        self.assertFalse(self.wire.aborted)
        self.clock.advance(0.2)
        self.assertTrue(self.wire.aborted)

    def test_no_timer_is_left(self):
        self.join(frames_per_s=1.0, frames_burst=1)
        self.wire.say(ConfigEnd(push=1), ConfigEnd(push=2))
        self.link.send_all(puts(2, TURN_BYTES)).addErrback(lambda failure: None)
        self.link.close(None, "enough")
        self.wire.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class BackPressure(LinkCase):
    def test_messages_wait_while_the_transport_is_full(self):
        self.join(takes=1)
        for number in range(3):
            self.link.send(StatsRequest(id=number))
        self.assertEqual(self.wire.heard(), [StatsRequest(id=0)])
        self.wire.take(10_000)
        self.assertEqual(self.wire.heard(), [StatsRequest(id=1), StatsRequest(id=2)])

    def test_a_peer_that_does_not_read_is_cut_at_the_bound(self):
        self.join(takes=1, max_queue_bytes=3000)
        for number in range(3):
            self.link.send(ConfigPut(push=1, name=str(number), body=bytes(1000)))
        self.assertFalse(self.wire.aborted)
        self.link.send(ConfigPut(push=1, name="3", body=bytes(1000)))
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.handler.lost, ["the peer does not take what is sent to it"])

    def test_a_series_is_asked_for_only_as_the_transport_takes_it(self):
        asked = []
        self.join(takes=2500)
        done = self.link.send_all(puts(10, asked=asked))
        self.assertEqual(asked, [0, 1, 2])
        self.assertNoResult(done)
        self.wire.take(1_000_000)
        self.assertIsNone(self.successResultOf(done))
        self.assertEqual(len(self.wire.heard()), 10)

    def test_a_heartbeat_goes_between_the_messages_of_a_series(self):
        self.join(takes=1)
        self.link.send_all(puts(3))
        self.link.send(Ping(id=1, sent_at=0.0))
        self.wire.take(1_000_000)
        self.assertEqual(
            [type(message) for message in self.wire.heard()], [ConfigPut, Ping, ConfigPut, ConfigPut]
        )

    def test_a_long_series_leaves_the_reactor_its_turn(self):
        self.join()
        done = self.link.send_all(puts(3, TURN_BYTES))
        self.assertEqual(len(self.wire.heard()), 1)
        self.clock.advance(0)
        self.clock.advance(0)
        self.clock.advance(0)
        self.successResultOf(done)
        self.assertEqual(len(self.wire.heard()), 2)

    def test_series_go_one_after_another(self):
        self.join()
        self.link.send_all([ConfigEnd(push=1), ConfigEnd(push=2)])
        self.link.send_all([ConfigEnd(push=3)])
        self.assertEqual([message.push for message in self.wire.heard()], [1, 2, 3])

    def test_series_that_wait_are_bounded(self):
        self.join(takes=1)
        self.link.send(StatsRequest(id=1))
        waiting = [self.link.send_all([ConfigEnd(push=1)]) for _ in range(MAX_SERIES)]
        self.failureResultOf(self.link.send_all([]), LocalProtocolError)
        for done in waiting:
            self.assertNoResult(done)

    def test_a_series_fails_when_the_link_goes_and_at_once_when_it_is_gone(self):
        self.join(takes=1)
        done = self.link.send_all(puts(10))
        self.wire.lose()
        self.failureResultOf(done, LinkLostError)
        self.failureResultOf(self.link.send_all([]), LinkLostError)

    def test_a_series_that_raises_cuts_the_link_and_tells_its_owner(self):
        self.join()
        done = self.link.send_all(1 / 0 if number else ConfigEnd(push=1) for number in range(2))
        self.failureResultOf(done, ZeroDivisionError)
        self.assertTrue(self.wire.aborted)

    def test_a_message_too_long_in_a_series_tells_its_owner(self):
        self.join()
        self.failureResultOf(self.link.send_all(puts(1, MAX_FRAME_BYTES)), LocalProtocolError)


class Rate(LinkCase):
    def test_a_peer_that_talks_too_much_is_paused_then_heard(self):
        self.join(frames_per_s=10.0, frames_burst=3)
        self.link.dataReceived(b"".join(encode(ConfigEnd(push=n)) for n in range(5)))
        self.assertEqual((len(self.handler.messages), self.wire.producerState), (3, "paused"))
        self.clock.advance(0.1)
        self.assertEqual((len(self.handler.messages), self.wire.producerState), (4, "paused"))
        self.clock.advance(0.1)
        self.clock.advance(0.1)
        self.assertEqual((len(self.handler.messages), self.wire.producerState), (5, "producing"))

    def test_the_budget_fills_up_to_the_burst_and_no_further(self):
        self.join(frames_per_s=10.0, frames_burst=3)
        self.clock.advance(1000)
        self.link.dataReceived(b"".join(encode(ConfigEnd(push=n)) for n in range(5)))
        self.assertEqual(len(self.handler.messages), 3)

    def test_a_large_message_costs_more(self):
        self.join(frames_per_s=10.0, frames_burst=3)
        self.wire.say(ConfigPut(push=1, name="n", body=bytes(40_000)), ConfigEnd(push=1))
        self.assertEqual(len(self.handler.messages), 1)

    def test_a_peer_that_sends_on_while_told_to_wait_is_cut(self):
        self.join(frames_per_s=1.0, frames_burst=1, max_early_bytes=100)
        self.wire.say(Report(), Report())
        self.assertFalse(self.wire.aborted)
        self.link.dataReceived(bytes(100))
        self.assertTrue(self.wire.aborted)

    def test_a_trusted_peer_has_no_rate(self):
        self.join()
        self.link.dataReceived(b"".join(encode(ConfigEnd(push=n)) for n in range(1000)))
        self.assertEqual(len(self.handler.messages), 1000)
