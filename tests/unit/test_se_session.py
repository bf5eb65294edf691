"""The SE's end of a control session, with the controller played by hand."""

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.fake import RecordingDataPlane
from avinet.dataplane.interface import ServerStatus, ServiceCounters, Status
from avinet.se.lookout import Lookout
from avinet.se.session import MAX_ASKED, ControlSession, Phase, SeParts
from avinet.wire import messages as m

from .links import Wire
from .test_controller_sessions import EVERY_KIND

HELLO = m.Hello(se="se-1", boot="b", protocol=1, oldest_protocol=1, software="0.1")
WELCOME = m.Welcome(
    controller="ctl-1",
    cluster="cluster-1",
    protocol=1,
    software="0.1",
    heartbeat_interval_s=10.0,
    heartbeat_misses=6,
    report_interval_s=60.0,
)
CONFIG = (m.ConfigStart, m.ConfigPut, m.ConfigRemove, m.ConfigEnd)


class Sink:
    def __init__(self):
        self.messages, self.replies, self.forgotten = [], [], []

    def received(self, message, reply):
        self.messages.append(message)
        self.replies.append(reply)

    def forget(self, reply):
        self.forgotten.append(reply)


class User:
    def __init__(self):
        self.welcomes, self.ends = [], []

    def session_welcomed(self, welcome):
        self.welcomes.append(welcome)

    def session_ended(self, why, goodbye):
        self.ends.append((why, goodbye))


class SessionCase(SynchronousTestCase):
    def setUp(self):
        self.clock, self.lists = Clock(), []
        self.report = lambda: succeed(m.Report(data_plane_started_at=5.0))
        self.begin()

    def begin(self):
        self.sink, self.user = Sink(), User()
        parts = SeParts("cluster-1", lambda: HELLO, self.sink, self.make_report, self.lists.append)
        self.session = ControlSession(parts, self.user, self.clock, lambda: 0.5)
        self.wire = Wire(self.session.protocol).connect()

    def make_report(self):
        return self.report()

    def attach(self, **changes):
        self.wire.say(msgspec.structs.replace(WELCOME, **changes))
        self.wire.greeting = self.wire.heard()


class Greeting(SessionCase):
    def test_hello_goes_out_at_once(self):
        self.assertEqual(self.wire.heard(), [HELLO])

    def test_a_welcome_attaches(self):
        self.attach()
        self.assertTrue(self.session.attached)
        self.assertEqual(self.user.welcomes, [WELCOME])

    def test_without_a_welcome_it_ends_after_ten_seconds(self):
        self.clock.advance(9.9)
        self.assertEqual(self.user.ends, [])
        self.clock.advance(0.2)
        self.assertEqual(len(self.user.ends), 1)
        self.assertTrue(self.wire.aborted)

    def test_a_welcome_that_cannot_be_meant_is_refused(self):
        for changes in (
            {"cluster": "cluster-2"},
            {"protocol": 2},
            {"protocol": 0},
            {"heartbeat_interval_s": 0.0},
            {"heartbeat_misses": 10_000_000},
            {"heartbeat_interval_s": float("nan")},
            {"report_interval_s": 0.0},
        ):
            self.begin()
            self.attach(**changes)
            self.assertEqual(self.wire.greeting[-1].reason, "protocol", changes)
            self.assertEqual(self.user.welcomes, [])

    def test_a_goodbye_instead_is_told_with_its_wait(self):
        goodbye = m.Goodbye(reason="overload", text="later", retry_after_s=30.0)
        self.wire.say(goodbye)
        self.assertEqual(self.user.ends, [("overload: later", goodbye)])
        self.assertTrue(self.wire.disconnecting)

    def test_the_end_is_told_once(self):
        self.wire.lose()
        self.session.close("stopping", "t")
        self.assertEqual(len(self.user.ends), 1)


class EveryMessageInEveryPhase(SessionCase):
    def test_greeting(self):
        for message in EVERY_KIND:
            self.begin()
            self.wire.heard()
            self.wire.say(message)
            if isinstance(message, m.Unsupported):
                self.assertIs(self.session.phase, Phase.GREETING)
            elif isinstance(message, m.Goodbye):
                self.assertEqual(self.user.ends[0][1], message)
            else:
                # The welcome in the table is another cluster's.
                self.assertEqual([x.reason for x in self.wire.heard()], ["protocol"], message)

    def test_attached(self):
        taken = (
            *CONFIG,
            m.Ping,
            m.StatsRequest,
            m.MembershipUpdate,
            m.Watch,
            m.CommandClasses,
            m.LiveAgain,
            m.Unsupported,
        )
        for message in EVERY_KIND:
            self.begin()
            self.attach()
            self.wire.say(message)
            if isinstance(message, taken):
                self.assertTrue(self.session.attached, message)
                self.assertFalse(self.wire.disconnecting, message)
            elif isinstance(message, m.Goodbye):
                self.assertEqual(self.user.ends[0][1], message)
            else:
                self.assertEqual([x.reason for x in self.wire.heard()], ["protocol"], message)
            self.assertEqual(self.sink.messages, [message] if isinstance(message, CONFIG) else [])

    def test_ended(self):
        for message in EVERY_KIND:
            self.begin()
            self.attach()
            self.session.close("stopping", "t")
            self.wire.heard()
            self.wire.say(message)
            self.assertEqual((self.wire.heard(), self.sink.messages, len(self.user.ends)), ([], [], 1))


class Attached(SessionCase):
    def setUp(self):
        super().setUp()
        self.attach()

    def test_a_ping_is_answered_at_once(self):
        self.wire.say(m.Ping(id=3, sent_at=1.5))
        self.assertEqual(self.wire.heard(), [m.Pong(id=3, sent_at=1.5)])

    def test_a_controller_silent_for_interval_times_misses_is_given_up(self):
        self.clock.advance(30)
        self.wire.say(m.Ping(id=1, sent_at=0.0))
        self.clock.advance(59.9)
        self.assertEqual(self.user.ends, [])
        self.clock.advance(0.2)
        self.assertIn("silent for 60 s", self.user.ends[0][0])
        self.assertTrue(self.wire.aborted)

    def test_configuration_goes_to_the_sink_and_its_answers_back(self):
        end = m.ConfigEnd(push=1)
        self.wire.say(end, end)
        self.assertEqual(self.sink.messages, [end, end])
        self.assertEqual(len(set(self.sink.replies)), 1)
        ack = m.Ack(push=1, version=4, hash="h")
        self.sink.replies[0](ack)
        self.assertEqual(self.wire.heard(), [ack])

    def test_the_sink_is_told_to_forget_it_and_late_answers_are_dropped(self):
        self.wire.say(m.ConfigEnd(push=1))
        self.wire.lose()
        self.assertEqual(self.sink.forgotten, self.sink.replies)
        self.sink.replies[0](m.Ack(push=1, version=4, hash="h"))
        self.assertEqual(self.wire.heard(), [])

    def test_a_newer_list_is_handed_on(self):
        self.wire.say(m.MembershipUpdate(document="list-8"))
        self.assertEqual(self.lists, ["list-8"])

    def test_a_report_goes_out_each_interval_the_first_at_a_random_time(self):
        self.clock.advance(29.9)
        self.assertEqual(self.wire.heard(), [])
        self.clock.advance(0.2)
        self.assertEqual(self.wire.heard(), [m.Report(data_plane_started_at=5.0)])
        self.clock.advance(29)
        self.wire.say(m.Ping(id=1, sent_at=0.0))
        self.wire.heard()
        self.clock.advance(30.9)
        self.assertEqual(self.wire.heard(), [])
        self.clock.advance(0.2)
        self.assertEqual(self.wire.heard(), [m.Report(data_plane_started_at=5.0)])

    def test_a_report_asked_for_bears_its_number(self):
        self.wire.say(m.StatsRequest(id=9))
        self.assertEqual(self.wire.heard(), [m.Report(id=9, data_plane_started_at=5.0)])

    def test_one_report_answers_all_who_asked_meanwhile_and_they_are_bounded(self):
        made = []
        self.report = lambda: made.append(Deferred()) or made[-1]
        self.wire.say(*(m.StatsRequest(id=n + 1) for n in range(MAX_ASKED + 5)))
        self.assertEqual(len(made), 1)
        made[0].callback(m.Report())
        self.assertEqual([x.id for x in self.wire.heard()], list(range(1, MAX_ASKED + 1)))

    def test_a_report_that_fails_or_hangs_is_given_up_and_the_next_one_is_made(self):
        self.report = lambda: fail(ZeroDivisionError())
        self.wire.say(m.StatsRequest(id=1))
        self.report = Deferred
        self.wire.say(m.StatsRequest(id=2))
        self.clock.advance(5)
        self.report = lambda: succeed(m.Report())
        self.wire.say(m.StatsRequest(id=3))
        self.assertEqual([x.id for x in self.wire.heard()], [3])

    def test_a_message_too_long_is_dropped_and_the_session_goes_on(self):
        self.session.send(m.Notice(code="C", level="info", text="x" * 2_000_000))
        self.assertTrue(self.session.attached)
        self.assertEqual(self.wire.heard(), [])

    def test_no_timer_is_left_after_the_end(self):
        self.report = Deferred
        self.wire.say(m.StatsRequest(id=1))
        self.session.close("stopping", "t")
        self.wire.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ReportingUnasked(SessionCase):
    def begin(self):
        self.plane = RecordingDataPlane()
        self.plane.status_now = self.status(up=True)
        self.lookout = Lookout(self.plane, self.clock)
        self.lookout.start()
        self.sink, self.user = Sink(), User()
        parts = SeParts(
            "cluster-1", lambda: HELLO, self.sink, self.make_report, self.lists.append, self.lookout
        )
        self.session = ControlSession(parts, self.user, self.clock, lambda: 0.5)
        self.wire = Wire(self.session.protocol).connect()

    def status(self, *, up):
        return Status(5.0, (ServerStatus("pool/p", "10.0.0.1:80", up),), (ServiceCounters("v", requests=7),))

    def reports(self, seconds):
        for _ in range(seconds):
            self.clock.advance(1.0)
            self.wire.say(m.Ping(id=1, sent_at=0.0))
        return [x for x in self.wire.heard() if isinstance(x, m.Report | m.Traffic)]

    def test_a_controller_that_takes_traffic_is_told_in_traffic(self):
        self.attach(capabilities=(m.TRAFFIC,))
        (whole,) = self.reports(20)
        self.assertEqual((whole.scope, whole.rows[0].counts[0]), ("whole", 7))
        self.plane.status_now = self.status(up=False)
        self.assertEqual([x.health[0].state for x in self.reports(3)], ["DOWN"])
        self.wire.say(m.Watch(names=(), anew=True))
        self.assertEqual([x.scope for x in self.reports(3)], ["whole"])

    def test_an_older_controller_is_told_in_reports_and_of_health_at_once(self):
        self.attach()
        self.assertEqual([type(x) for x in self.reports(40)], [m.Report])
        self.plane.status_now = self.status(up=False)
        (report,) = self.reports(3)
        self.assertFalse(report.health[0].up)

    def test_after_the_end_nothing_is_looked_at_for_it(self):
        self.attach(capabilities=(m.TRAFFIC,))
        self.wire.lose()
        self.clock.advance(30.0)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(self.lookout._watchers, {})
