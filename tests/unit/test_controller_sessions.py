"""Control sessions as the controller holds them, with SEs played by hand."""

import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.boots import REMEMBERED, WINDOW_S, BootHistory
from avinet.controller.session import (
    MAX_REQUESTS,
    Phase,
    SessionSettings,
    SessionTimeoutError,
    TooManyRequestsError,
)
from avinet.controller.sessions import (
    STOP_TIMEOUT_S,
    About,
    CurrentList,
    Knowledge,
    SessionListener,
    Sessions,
)
from avinet.model.fence import Fence
from avinet.wire import messages as m
from avinet.wire.codec import MAX_HELLO_BYTES
from avinet.wire.link import LinkLostError

from .links import Wire

SE = "se-1"
HELLO = m.Hello(se=SE, boot="boot-a", protocol=1, oldest_protocol=1, software="0.1", membership=7)


class Connection:
    def __init__(self):
        self.calls = []

    def close(self, text):
        self.calls.append("close")

    def abort(self):
        self.calls.append("abort")

    def mark_attached(self):
        self.calls.append("attached")

    def status(self):
        raise AssertionError("nobody asks")


class Peer:
    def __init__(self, se=SE):
        self.se, self.address, self.connection = se, "192.0.2.1", Connection()


class Diary(SessionListener):
    def __init__(self):
        self.entries, self.sessions, self.messages = [], [], []

    def note(self, what, se):
        self.entries.append((what, se))

    def attached(self, session):
        self.sessions.append(session)
        self.note("attached", session.se)

    def received(self, session, message):
        self.messages.append(message)

    def detached(self, session, why):
        self.note("detached", session.se)

    def rtt_high(self, session):
        self.note("high", session.se)

    def rtt_cleared(self, session):
        self.note("cleared", session.se)

    def up(self, se):
        self.note("up", se)

    def down(self, se, why):
        self.note("down", se)


class SessionsCase(SynchronousTestCase):
    def setUp(self):
        self.clock, self.diary, self.quarantined = Clock(), Diary(), []
        self.membership = CurrentList(7, "list-7")
        self.sessions = Sessions(
            self.clock,
            About("ctl-1", "cluster-1", "0.1"),
            Knowledge(
                lambda: self.membership, lambda: Fence(1, 2, 3), lambda se, why: self.quarantined.append(se)
            ),
            SessionSettings(),
        )
        self.sessions.add_listener(self.diary)

    def dial(self, se=SE):
        self.peer = Peer(se)
        wire = Wire(self.sessions.build(self.peer)).connect()
        wire.peer = self.peer
        return wire

    def attach(self, **changes):
        wire = self.dial(changes.get("se", SE))
        wire.say(msgspec.structs.replace(HELLO, **changes))
        wire.welcome = wire.heard()
        return wire

    def pong(self, wire):
        for message in wire.heard():
            if isinstance(message, m.Ping):
                wire.say(m.Pong(id=message.id, sent_at=message.sent_at))

    def beat(self, wire, times=1, rtt=0.0):
        for _ in range(times):
            self.clock.advance(rtt)
            self.pong(wire)
            self.clock.advance(10 - rtt)


class Hello(SessionsCase):
    def test_it_is_welcomed_and_pinged_at_once(self):
        wire = self.attach()
        welcome, ping = wire.welcome
        self.assertEqual(
            welcome,
            m.Welcome(
                controller="ctl-1",
                cluster="cluster-1",
                protocol=1,
                software="0.1",
                heartbeat_interval_s=10.0,
                heartbeat_misses=6,
                report_interval_s=60.0,
                fence=Fence(1, 2, 3),
                capabilities=(m.TRAFFIC,),
            ),
        )
        self.assertIsInstance(ping, m.Ping)
        self.assertEqual(self.diary.entries, [("up", SE), ("attached", SE)])
        session = self.sessions.get(SE)
        self.assertEqual((self.sessions.all(), session.hello.software), ((session,), "0.1"))
        self.assertEqual(wire.peer.connection.calls, ["attached"])

    def test_an_older_membership_list_is_replaced(self):
        self.assertEqual(self.attach(membership=6).welcome[-1], m.MembershipUpdate(document="list-7"))

    def test_a_list_as_new_as_ours_or_newer_is_left_alone(self):
        for number in (7, 8):
            self.assertEqual(len(self.attach(membership=number).welcome), 2)

    def test_a_changed_list_goes_to_all(self):
        wires = [self.attach(), self.attach(se="se-2")]
        self.membership = CurrentList(8, "list-8")
        self.sessions.publish_membership()
        for wire in wires:
            self.assertEqual(wire.heard(), [m.MembershipUpdate(document="list-8")])

    def test_a_channel_without_hello_is_cut_after_ten_seconds(self):
        wire = self.dial()
        self.clock.advance(9.9)
        self.assertFalse(wire.aborted)
        self.clock.advance(0.2)
        self.assertTrue(wire.aborted)
        self.assertIn("abort", wire.peer.connection.calls)
        self.assertEqual((self.diary.entries, self.sessions._waiting), ([], set()))

    def test_another_name_than_the_keys_is_refused(self):
        wire = self.dial()
        wire.say(msgspec.structs.replace(HELLO, se="se-2"))
        self.assertEqual([type(x) for x in wire.heard()], [m.Goodbye])
        self.assertTrue(wire.disconnecting)
        self.assertIsNone(self.sessions.get("se-2"))

    def test_versions_that_do_not_meet_are_told_so(self):
        for newest, oldest in ((0, 0), (3, 2)):
            wire = self.attach(protocol=newest, oldest_protocol=oldest)
            self.assertEqual([x.reason for x in wire.welcome], ["version"])
        self.assertEqual(self.diary.entries, [])

    def test_a_newer_se_that_still_speaks_ours_is_welcome(self):
        self.assertEqual(self.attach(protocol=2, oldest_protocol=1).welcome[0].protocol, 1)

    def test_a_hello_is_small(self):
        wire = self.dial()
        wire.protocol.dataReceived((MAX_HELLO_BYTES + 1).to_bytes(4, "big"))
        self.assertEqual([x.reason for x in wire.heard()], ["protocol"])

    def test_a_version_of_absurd_length_is_refused(self):
        self.assertEqual([x.reason for x in self.attach(software="x" * 201).welcome], ["protocol"])

    def test_a_session_takes_large_messages_once_attached(self):
        wire = self.attach()
        wire.say(m.Notice(code="C", level="info", text="x" * MAX_HELLO_BYTES))
        self.assertEqual(len(self.diary.messages), 1)


FROM_SE = (
    m.Ack(push=1, version=1, hash="h"),
    m.Nack(push=1, version=1, reason="rejected"),
    m.InForce(version=1, hash="h"),
    m.Report(),
    m.Report(id=99),
    m.Traffic(),
    m.Notice(code="C", level="info", text="t"),
)
NEVER_FROM_SE = (
    m.Welcome(
        controller="", cluster="", protocol=1, software="", heartbeat_interval_s=1.0, heartbeat_misses=1
    ),
    m.Ping(id=1, sent_at=0.0),
    m.ConfigStart(push=1, fence=Fence(), base=None, hash="", puts=0, removes=0, size=0),
    m.ConfigPut(push=1, name="n", body=b""),
    m.ConfigRemove(push=1, names=()),
    m.ConfigEnd(push=1),
    m.MembershipUpdate(document=""),
    m.StatsRequest(id=1),
    m.Watch(names=("pool/p",)),
    m.CommandClasses(allowed=("EXEC",)),
    m.LiveAgain(controller="c", spread_s=1.0),
)
QUIET = (m.Pong(id=1, sent_at=0.0), m.Unsupported(tag_="x"))
LEAVING = (m.Goodbye(reason="stopping", text="t"),)
EVERY_KIND = (HELLO, *FROM_SE, *NEVER_FROM_SE, *QUIET, *LEAVING)


class EveryMessageInEveryPhase(SessionsCase):
    def test_no_kind_of_message_is_forgotten_here(self):
        self.assertEqual({type(x) for x in EVERY_KIND}, set(m.Message.__subclasses__()))

    def test_waiting_takes_hello_and_nothing_else(self):
        for message in EVERY_KIND:
            wire = self.dial()
            session = wire.protocol.handler
            wire.say(message)
            if message is HELLO:
                self.assertIs(session.phase, Phase.ATTACHED)
            elif isinstance(message, m.Unsupported):
                self.assertIs(session.phase, Phase.WAITING)
            else:
                self.assertEqual([x.reason for x in wire.heard()], ["protocol"], message)
        self.assertEqual(self.diary.messages, [])

    def test_attached_passes_on_what_an_se_says_and_cuts_on_the_rest(self):
        for number, message in enumerate(EVERY_KIND):
            se = f"se-{number}"
            wire = self.attach(se=se)
            self.diary.messages.clear()
            wire.say(message)
            if message in FROM_SE:
                self.assertEqual(self.diary.messages, [message])
            else:
                self.assertEqual(self.diary.messages, [])
            if message in FROM_SE or message in QUIET:
                self.assertIsNotNone(self.sessions.get(se))
                continue
            self.assertTrue(wire.disconnecting, message)
            wire.lose()
            self.assertIsNone(self.sessions.get(se))

    def test_ended_hears_nothing(self):
        for message in EVERY_KIND:
            wire = self.attach()
            self.sessions.get(SE).close("stopping", "t")
            wire.heard()
            wire.say(message)
            self.assertEqual((self.diary.messages, wire.heard()), ([], []))
            self.sessions.pardon(SE)


class Heartbeats(SessionsCase):
    def test_an_se_that_answers_stays_up(self):
        wire = self.attach()
        self.clock.advance(10)
        self.beat(wire, 20)
        self.assertEqual(self.diary.entries, [("up", SE), ("attached", SE)])

    def test_six_misses_make_it_down_and_cut_its_connection(self):
        wire = self.attach()
        for _ in range(5):
            self.clock.advance(10)
        self.assertTrue(self.sessions.is_up(SE))
        self.clock.advance(9.9)
        self.assertTrue(self.sessions.is_up(SE))
        self.clock.advance(0.1)
        self.assertEqual(self.diary.entries[2:], [("detached", SE), ("down", SE)])
        self.assertFalse(self.sessions.is_up(SE))
        self.assertIn("abort", wire.peer.connection.calls)

    def test_anything_said_is_a_sign_of_life(self):
        wire = self.attach()
        for _ in range(20):
            self.clock.advance(10)
            wire.say(m.Report())
        self.assertTrue(self.sessions.is_up(SE))

    def test_rtt_is_measured_and_warned_of_once_with_hysteresis(self):
        wire = self.attach()
        self.clock.advance(10)
        self.beat(wire, 4, rtt=0.1)
        self.assertAlmostEqual(self.sessions.get(SE).rtt.last, 0.1)
        self.assertEqual(self.diary.entries[2:], [("high", SE)])
        self.beat(wire, 4, rtt=0.065)
        self.assertEqual(self.diary.entries[2:], [("high", SE)])
        self.beat(wire, 4, rtt=0.01)
        self.assertEqual(self.diary.entries[2:], [("high", SE), ("cleared", SE)])

    def test_a_pong_that_is_late_twice_or_made_up_measures_nothing(self):
        wire = self.attach()
        ping = wire.welcome[1]
        wire.say(m.Pong(id=ping.id, sent_at=-1000.0), m.Pong(id=77, sent_at=0.0))
        self.assertIsNone(self.sessions.get(SE).rtt.last)
        self.clock.advance(0.5)
        pong = m.Pong(id=ping.id, sent_at=ping.sent_at)
        wire.say(pong)
        self.clock.advance(1)
        wire.say(pong)
        self.assertEqual(self.sessions.get(SE).rtt.last, 0.5)


class LostLinks(SessionsCase):
    def test_the_count_starts_at_once(self):
        wire = self.attach()
        wire.lose()
        self.assertEqual(self.diary.entries[2:], [("detached", SE)])
        self.assertEqual((self.sessions.get(SE), self.sessions.is_up(SE)), (None, True))
        self.clock.advance(59.9)
        self.assertTrue(self.sessions.is_up(SE))
        self.clock.advance(0.2)
        self.assertEqual(self.diary.entries[3:], [("down", SE)])

    def test_an_se_that_is_back_in_time_was_never_down(self):
        self.attach().lose()
        self.clock.advance(59)
        wire = self.attach()
        self.clock.advance(10)
        self.beat(wire, 10)
        self.assertEqual([what for what, _ in self.diary.entries], ["up", "attached", "detached", "attached"])

    def test_an_se_that_was_down_comes_up_again(self):
        self.attach().lose()
        self.clock.advance(61)
        self.attach()
        self.assertEqual(self.diary.entries[-3:], [("down", SE), ("up", SE), ("attached", SE)])

    def test_the_secure_channel_goes_with_the_session(self):
        wire = self.attach()
        wire.lose()
        self.assertEqual(wire.peer.connection.calls, ["attached", "close"])

    def test_one_that_was_connected_before_the_restart_is_expected(self):
        self.sessions.expect([SE, "se-2"])
        self.assertFalse(self.sessions.is_up(SE))
        wire = self.attach()
        self.clock.advance(10)
        self.beat(wire, 6)
        self.assertEqual(self.diary.entries, [("up", SE), ("attached", SE), ("down", "se-2")])


class Replacement(SessionsCase):
    def test_a_newer_hello_ends_the_older_session(self):
        older = self.attach()
        newer = self.attach(boot="boot-b")
        self.assertEqual([x.reason for x in older.heard()], ["replaced"])
        self.assertIs(self.sessions.get(SE), newer.protocol.handler)
        self.assertEqual(self.diary.entries[2:], [("detached", SE), ("attached", SE)])

    def test_the_end_of_the_older_one_does_not_touch_the_newer(self):
        older = self.attach()
        newer = self.attach()
        older.lose()
        self.assertIs(self.sessions.get(SE), newer.protocol.handler)
        self.assertEqual(self.diary.entries[2:], [("detached", SE), ("attached", SE)])

    def test_a_mere_login_replaces_nothing(self):
        wire = self.attach()
        self.dial()
        self.assertIs(self.sessions.get(SE), wire.protocol.handler)

    def test_two_machines_that_take_turns_are_quarantined(self):
        wires = [self.attach(boot=boot) for boot in ("a", "b", "a", "b")]
        self.assertEqual(self.quarantined, [])
        last = self.attach(boot="a")
        self.assertEqual(self.quarantined, [SE])
        self.assertEqual([x.reason for x in last.welcome], ["quarantined"])
        self.assertEqual(wires[-1].heard()[-1].reason, "quarantined")
        self.assertFalse(self.sessions.is_up(SE))

    def test_neither_is_let_in_for_a_minute_unless_pardoned(self):
        for boot in "ababa":
            self.attach(boot=boot)
        self.assertEqual(self.attach(boot="b").welcome[0].reason, "quarantined")
        self.clock.advance(30)
        self.assertEqual(self.attach(boot="a").welcome[0].retry_after_s, 30.0)
        self.sessions.pardon(SE)
        self.assertIsInstance(self.attach(boot="a").welcome[0], m.Welcome)

    def test_a_quarantine_that_cannot_be_stored_still_lets_nobody_in(self):
        self.sessions.knowledge = Knowledge(lambda: self.membership, quarantine=lambda se, why: 1 / 0)
        for boot in "ababa":
            wire = self.attach(boot=boot)
        self.assertEqual(wire.welcome[0].reason, "quarantined")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Boots(SynchronousTestCase):
    def history(self, boots, every_s=1.0):
        history = BootHistory()
        return [history.hello(boot, place * every_s) for place, boot in enumerate(boots)]

    def test_a_machine_that_crashes_again_and_again_is_one_machine(self):
        self.assertNotIn(True, self.history([str(n) for n in range(50)]))

    def test_a_machine_whose_network_flaps_is_one_machine(self):
        self.assertNotIn(True, self.history("a" * 50))

    def test_the_fourth_switch_between_two_is_a_fight(self):
        self.assertEqual(self.history("abab"), [False] * 4)
        self.assertEqual(self.history("ababa")[-1], True)

    def test_a_restart_whose_past_comes_back_once_is_no_fight(self):
        self.assertNotIn(True, self.history("aabaab"[:4] + "b"))

    def test_slow_turns_are_no_fight(self):
        self.assertNotIn(True, self.history("ab" * 10, every_s=WINDOW_S / 3 + 1))

    def test_what_is_remembered_is_bounded(self):
        history = BootHistory()
        for number in range(100):
            history.hello(str(number), 0.0)
        self.assertEqual(len(history._seen), REMEMBERED)


class Requests(SessionsCase):
    def test_a_report_answers_its_request_and_reaches_the_listeners(self):
        wire = self.attach()
        answer = self.sessions.get(SE).request_stats()
        (asked,) = wire.heard()
        report = m.Report(id=asked.id, data_plane_started_at=5.0)
        wire.say(report)
        self.assertEqual(self.successResultOf(answer), report)
        self.assertEqual(self.diary.messages, [report])

    def test_no_answer_is_a_timeout_and_a_late_one_harmless(self):
        wire = self.attach()
        answer = self.sessions.get(SE).request_stats()
        (asked,) = wire.heard()
        self.clock.advance(5)
        self.failureResultOf(answer, SessionTimeoutError)
        wire.say(m.Report(id=asked.id))
        self.assertEqual(len(self.diary.messages), 1)

    def test_they_fail_when_the_session_ends(self):
        wire = self.attach()
        session = self.sessions.get(SE)
        answer = session.request_stats()
        wire.lose()
        self.failureResultOf(answer, LinkLostError)
        self.failureResultOf(session.request_stats(), LinkLostError)
        self.failureResultOf(session.send_all([]), LinkLostError)

    def test_their_number_is_bounded(self):
        self.attach()
        session = self.sessions.get(SE)
        answers = [session.request_stats() for _ in range(MAX_REQUESTS)]
        self.failureResultOf(session.request_stats(), TooManyRequestsError)
        self.clock.advance(5)
        for answer in answers:
            self.failureResultOf(answer, SessionTimeoutError)
        self.assertNoResult(session.request_stats().addErrback(lambda _: None))

    def test_a_push_goes_out_whole(self):
        wire = self.attach()
        push = [m.ConfigPut(push=1, name=str(n), body=b"b") for n in range(50)]
        self.successResultOf(self.sessions.get(SE).send_all(push))
        self.assertEqual(wire.heard(), push)


class Endings(SessionsCase):
    def test_an_se_that_is_closed_is_told_why_and_down_at_once(self):
        wire = self.attach()
        self.sessions.close(SE, "deleted", "gone", 60.0)
        self.assertEqual(wire.heard(), [m.Goodbye(reason="deleted", text="gone", retry_after_s=60.0)])
        self.assertEqual(self.diary.entries[2:], [("detached", SE), ("down", SE)])

    def test_a_forgotten_se_leaves_nothing(self):
        self.attach().lose()
        self.sessions.forget(SE)
        self.clock.advance(100)
        self.assertEqual(self.diary.entries[2:], [("detached", SE)])
        self.assertEqual((self.sessions._presences, self.clock.getDelayedCalls()), ({}, []))

    def test_closing_a_stranger_is_nothing(self):
        self.sessions.close("se-9", "deleted", "gone")
        self.assertEqual(self.diary.entries, [])

    def test_a_listener_that_fails_costs_nobody_else(self):
        class Broken(SessionListener):
            def attached(self, session):
                raise ZeroDivisionError

        after = Diary()
        self.sessions.add_listener(Broken())
        self.sessions.add_listener(after)
        self.attach()
        self.assertEqual(after.entries, [("up", SE), ("attached", SE)])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_stopping_says_goodbye_and_waits_for_the_channels(self):
        wires = [self.attach(), self.dial()]
        stopped = self.sessions.stop()
        for wire in wires:
            self.assertEqual(wire.heard()[-1].reason, "stopping")
        wires[0].lose()
        self.assertNoResult(stopped)
        wires[1].lose()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopping_does_not_wait_for_ever(self):
        wire = self.attach()
        stopped = self.sessions.stop()
        self.clock.advance(STOP_TIMEOUT_S)
        self.successResultOf(stopped)
        self.assertIn("abort", wire.peer.connection.calls)

    def test_stopping_an_empty_registry_is_done_at_once_and_once(self):
        self.successResultOf(self.sessions.stop())
        self.successResultOf(self.sessions.stop())

    def test_nobody_is_let_in_after_it(self):
        self.sessions.stop()
        self.assertEqual([x.reason for x in self.attach().welcome], ["stopping"])
