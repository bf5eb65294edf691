"""One uplink: every fact in every state, then whole lives against a controller played by hand."""

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.model.membership import Controller, Membership
from avinet.se.session import SeParts
from avinet.se.uplink import ASK_AFTER, FORWARD_RETRY_S, STABLE_S, Place, Reach, Uplink
from avinet.se.uplink_machine import Loss, UplinkMachine, UplinkState
from avinet.se.uplinks import MAX_KEPT_NOTICES, Uplinks
from avinet.ssh.backoff import PROVEN_WAIT_S, Backoff, BackoffSettings
from avinet.ssh.errors import DialError, ForwardRefusedError, HostKeyMismatchError, ServerBusyError
from avinet.wire import messages as m

from .links import Wire
from .test_se_session import HELLO, WELCOME, Sink

S = UplinkState
LOSS = Loss("why")
INPUTS = {
    "start": (),
    "stop": (),
    "resolved": (),
    "host_key_accepted": (),
    "host_key_unknown": (),
    "list_changed": (),
    "logged_in": ("channel",),
    "welcomed": (WELCOME,),
    "address_failed": (),
    "lost": (LOSS,),
    "wait_over": (),
}
PATHS = {
    S.STOPPED: (),
    S.RESOLVING: ("start",),
    S.DIALING: ("start", "resolved"),
    S.ASKING: ("start", "resolved", "host_key_unknown"),
    S.LOGGING_IN: ("start", "resolved", "host_key_accepted"),
    S.SAYING_HELLO: ("start", "resolved", "host_key_accepted", "logged_in"),
    S.ATTACHED: ("start", "resolved", "host_key_accepted", "logged_in", "welcomed"),
    S.BACKING_OFF: ("start", "lost"),
}
RESOLVE, DIAL, BACK_OFF, STOP = (
    (S.RESOLVING, "resolve"),
    (S.DIALING, "dial"),
    (S.BACKING_OFF, "back_off"),
    (S.STOPPED,),
)
MOVES = {
    S.STOPPED: {"start": RESOLVE},
    S.RESOLVING: {"resolved": DIAL, "lost": BACK_OFF, "stop": STOP},
    S.DIALING: {
        "host_key_accepted": (S.LOGGING_IN,),
        "host_key_unknown": (S.ASKING, "ask_for_list"),
        "address_failed": DIAL,
        "lost": BACK_OFF,
        "stop": STOP,
    },
    S.ASKING: {"list_changed": RESOLVE, "address_failed": DIAL, "lost": BACK_OFF, "stop": STOP},
    S.LOGGING_IN: {
        "logged_in": (S.SAYING_HELLO, "greet"),
        "address_failed": DIAL,
        "lost": BACK_OFF,
        "stop": STOP,
    },
    S.SAYING_HELLO: {"welcomed": (S.ATTACHED, "serve"), "lost": BACK_OFF, "stop": STOP},
    S.ATTACHED: {"lost": BACK_OFF, "stop": STOP},
    S.BACKING_OFF: {"wait_over": RESOLVE, "list_changed": RESOLVE, "stop": STOP},
}


class Steps:
    def __init__(self):
        self.done = []

    def entered(self, state):
        self.done.append(state)

    def __getattr__(self, name):
        return lambda *args: self.done.append(name)


class EveryInputInEveryState(SynchronousTestCase):
    def test_it_does_what_the_table_says_and_nothing_else(self):
        self.assertEqual(set(MOVES), set(S))
        for state, path in PATHS.items():
            for name, arguments in INPUTS.items():
                steps = Steps()
                machine = UplinkMachine(steps)
                for step in path:
                    getattr(machine, step)(*INPUTS[step])
                if path:
                    self.assertIn(state, steps.done)
                steps.done.clear()
                getattr(machine, name)(*arguments)
                expected = MOVES[state].get(name, ("discard",) if name == "logged_in" else ())
                self.assertEqual(tuple(steps.done), expected, (state, name))


class Waits(SynchronousTestCase):
    def test_they_double_up_to_the_cap_with_full_jitter(self):
        most = Backoff(lambda: 1.0, BackoffSettings(1.0, 60.0))
        self.assertEqual([most.next_wait_s() for _ in range(8)], [1, 2, 4, 8, 16, 32, 60, 60])
        self.assertEqual(Backoff(lambda: 0.0).next_wait_s(), 0.0)

    def test_they_start_anew_after_a_reset_and_are_long_after_exhaustion(self):
        backoff = Backoff(lambda: 1.0)
        backoff.exhaust()
        self.assertEqual(backoff.next_wait_s(), 60.0)
        backoff.reset()
        self.assertEqual(backoff.next_wait_s(), 1.0)

    def test_a_stranger_is_believed_for_a_minute_and_a_controller_for_an_hour(self):
        backoff = Backoff(lambda: 0.0)
        self.assertEqual(backoff.next_wait_s(30.0), 30.0)
        self.assertEqual(backoff.next_wait_s(86_400.0), 60.0)
        self.assertEqual(backoff.next_wait_s(86_400.0, proven=True), PROVEN_WAIT_S)

    def test_a_place_in_a_queue_is_kept_also_after_a_long_outage(self):
        backoff = Backoff(lambda: 1.0)
        for _ in range(10):
            backoff.next_wait_s()
        self.assertEqual([backoff.next_wait_s(3.0) for _ in range(5)], [4.0] * 5)

    def test_to_be_told_again_and_again_is_no_queue(self):
        backoff = Backoff(lambda: 1.0)
        waits = [backoff.next_wait_s(0.1) for _ in range(20)]
        self.assertEqual((waits[4], waits[-1]), (1.1, 60.1))

    def test_nonsense_is_no_wait(self):
        for asked in (-5.0, 0.0, float("nan")):
            self.assertEqual(Backoff(lambda: 0.0).next_wait_s(asked), 0.0)

    def test_it_is_cut_short_when_the_server_is_said_to_be_there_again(self):
        backoff = Backoff(lambda: 0.5)
        for _ in range(10):
            backoff.next_wait_s()
        self.assertEqual(backoff.sooner_s(30.0, 4.0), 2.0)
        self.assertEqual(backoff.sooner_s(3.0, 4.0), 3.0)
        self.assertEqual(backoff.next_wait_s(), 1.0)

    def test_what_the_server_itself_has_asked_for_is_not_cut_short(self):
        told, sent_away = Backoff(lambda: 0.5), Backoff(lambda: 0.5)
        told.next_wait_s(30.0, proven=True)
        sent_away.exhaust()
        sent_away.next_wait_s()
        self.assertEqual([one.sooner_s(30.0, 4.0) for one in (told, sent_away)], [30.0, 30.0])
        sent_away.reset()
        self.assertEqual(sent_away.sooner_s(30.0, 4.0), 2.0)

    def test_a_thousand_failures_overflow_nothing(self):
        backoff = Backoff(lambda: 1.0)
        self.assertEqual({backoff.next_wait_s() for _ in range(5000)} - {1, 2, 4, 8, 16, 32}, {60.0})


class Channel:
    """A secure channel in memory; ``wire`` is the controller's end of the control service."""

    def __init__(self):
        self.lost, self.calls, self.listens = Deferred(), [], []
        self.wire = None
        self.listening = lambda: succeed(None)

    def open(self, port, protocol, *, priority):
        self.calls.append(("open", port))
        self.wire = Wire(protocol).connect()
        return succeed(protocol)

    def listen(self, address, port, build):
        self.listens.append((address, port, build))
        return self.listening()

    def close(self, text="closed"):
        self.calls.append("close")

    def abort(self):
        self.calls.append("abort")

    def cut(self):
        if self.wire is not None:
            self.wire.lose()
        if not self.lost.called:
            self.lost.callback(DialError(address="a", detail="cut"))


CONTROLLER = Controller(
    name="ctl-1",
    addresses=("ctl.example", "192.0.2.9"),
    ssh_port=2222,
    node_certificate="",
    ssh_host_key="key-1",
    id_se="",
)
NAMES = {"ctl.example": ["192.0.2.1", "192.0.2.2"], "192.0.2.9": ["192.0.2.9"]}


class UplinkCase(SynchronousTestCase):
    def setUp(self):
        self.clock, self.dials, self.refreshes, self.attached = Clock(), [], [], []
        self.names = dict(NAMES)
        self.parts = SeParts("cluster-1", lambda: HELLO, Sink(), Deferred, lambda document: None)
        self.place = Place("127.1.0.2", 5096, lambda controller: controller)
        self.reach = Reach(self.resolve, self.dial, self.refresh)
        self.uplink = Uplink(
            CONTROLLER,
            self.place,
            self.parts,
            self.reach,
            self.clock,
            lambda: 1.0,
            on_attached=self.attached.append,
        )

    def resolve(self, host):
        found = self.names[host]
        return fail(found) if isinstance(found, Exception) else succeed(found)

    def dial(self, address, port, verify):
        dialed = Deferred()
        self.dials.append((address, port, verify, dialed))
        return dialed

    def refresh(self):
        self.refreshes.append(Deferred())
        return self.refreshes[-1]

    def log_in(self, key="key-1"):
        *_, verify, dialed = self.dials[-1]
        if not verify(key):
            dialed.errback(HostKeyMismatchError(fingerprint="SHA256:x"))
            return None
        channel = Channel()
        dialed.callback(channel)
        return channel

    def refuse(self, why=None):
        self.dials[-1][-1].errback(why or DialError(address="a", detail="refused"))

    def attach(self):
        self.uplink.start()
        channel = self.log_in()
        channel.wire.say(WELCOME)
        return channel

    def addresses(self):
        return [dial[0] for dial in self.dials]


class Lives(UplinkCase):
    def test_it_goes_from_start_to_attached_and_asks_for_its_forward(self):
        self.uplink.start()
        self.assertIs(self.uplink.state, S.DIALING)
        self.assertEqual(self.dials[0][:2], ("192.0.2.1", 2222))
        channel = self.log_in()
        self.assertIs(self.uplink.state, S.SAYING_HELLO)
        self.assertEqual(channel.calls, [("open", 5096)])
        self.assertEqual(channel.wire.heard(), [HELLO])
        channel.wire.say(WELCOME)
        self.assertIs(self.uplink.state, S.ATTACHED)
        [(address, port, build)] = channel.listens
        self.assertEqual((address, port, build()), ("127.1.0.2", 5097, CONTROLLER.name))
        self.assertEqual(self.attached, [self.uplink])

    def test_every_address_is_dialed_in_order_and_then_it_waits(self):
        self.uplink.start()
        for _ in range(3):
            self.refuse()
        self.assertEqual(self.addresses(), ["192.0.2.1", "192.0.2.2", "192.0.2.9"])
        self.assertIs(self.uplink.state, S.BACKING_OFF)
        self.clock.advance(1.0)
        self.assertEqual(len(self.dials), 4)

    def test_it_dials_soon_a_controller_that_is_live_again(self):
        self.uplink.start()
        for _ in range(6):
            while self.uplink.state is not S.BACKING_OFF:
                self.refuse()
                if self.uplink.state is S.ASKING:
                    self.refreshes[-1].errback(OSError("nobody there either"))
            left = self.clock.getDelayedCalls()[0].getTime() - self.clock.seconds()
            self.clock.advance(left - 0.01 if left > 30 else left)
        dialed = len(self.dials)
        self.assertGreater(left, 30)
        self.uplink.live_again(0.0)
        self.clock.advance(0)
        self.assertEqual(len(self.dials), dialed + 1)
        self.uplink.live_again(0.0)  # while it dials
        self.log_in().wire.say(WELCOME)
        self.uplink.live_again(0.0)
        self.clock.advance(0)
        self.assertEqual((len(self.dials), self.uplink.state), (dialed + 1, S.ATTACHED))

    def test_it_never_gives_up(self):
        self.uplink.start()
        for _ in range(300):
            self.refuse()
            if self.uplink.state is S.ASKING:
                self.refreshes[-1].errback(OSError("nobody there either"))
            self.clock.advance(60)
        self.assertIs(self.uplink.state, S.DIALING)

    def test_after_some_rounds_without_an_answer_it_asks_where_the_controller_is(self):
        self.uplink.start()
        for _ in range(ASK_AFTER):
            for _ in range(3):
                self.refuse()
            self.clock.advance(30)
        self.assertEqual((self.refreshes, self.uplink.state), ([], S.DIALING))
        for _ in range(3):
            self.refuse()
        self.assertEqual((len(self.refreshes), self.uplink.state), (1, S.ASKING))
        self.uplink.update(msgspec.structs.replace(CONTROLLER, ssh_port=2223))
        self.refreshes[0].callback(True)
        self.assertEqual(self.dials[-1][:2], ("192.0.2.1", 2223))

    def test_a_name_that_does_not_resolve_leaves_the_others(self):
        self.names["ctl.example"] = OSError("no such host")
        self.uplink.start()
        self.assertEqual(self.addresses(), ["192.0.2.9"])

    def test_no_address_at_all_is_waited_out(self):
        self.names.update({"ctl.example": [], "192.0.2.9": OSError("no")})
        self.uplink.start()
        self.assertIs(self.uplink.state, S.BACKING_OFF)
        self.names.update(NAMES)
        self.clock.advance(1)
        self.assertIs(self.uplink.state, S.DIALING)

    def test_names_and_dials_that_hang_are_given_up(self):
        self.names["ctl.example"] = Deferred()
        self.uplink.reach = Reach(lambda host: self.names[host], self.dial, self.refresh)
        self.uplink.start()
        self.clock.advance(10)
        self.assertIs(self.uplink.state, S.BACKING_OFF)
        self.uplink.reach = self.reach
        self.names.update(NAMES)
        self.clock.advance(1)
        self.clock.advance(35)
        self.assertEqual(self.addresses(), ["192.0.2.1", "192.0.2.2"])

    def test_a_place_in_a_busy_controllers_queue_is_kept_within_a_second(self):
        self.random = lambda: 1.0
        for said_s in (7.5, 3.0, 0.1):
            self.uplink.start()
            for _ in range(3):
                self.refuse(ServerBusyError(retry_after_s=said_s))
            self.clock.advance(said_s + 0.9)
            self.assertIs(self.uplink.state, S.BACKING_OFF)
            self.clock.advance(0.2)
            self.assertIs(self.uplink.state, S.DIALING)

    def test_a_busy_stranger_is_believed_for_a_minute(self):
        self.uplink.start()
        self.refuse(ServerBusyError(retry_after_s=86_400.0))
        self.refuse()
        self.refuse()
        self.clock.advance(60.9)
        self.assertIs(self.uplink.state, S.BACKING_OFF)
        self.clock.advance(0.2)
        self.assertIs(self.uplink.state, S.DIALING)


class HostKeys(UplinkCase):
    def test_an_unknown_one_makes_it_ask_for_the_list_and_use_what_it_says(self):
        self.uplink.start()
        self.log_in("key-2")
        self.assertIs(self.uplink.state, S.ASKING)
        self.uplink.update(msgspec.structs.replace(CONTROLLER, ssh_host_key="key-2"))
        self.refreshes[0].callback(None)
        self.assertIs(self.uplink.state, S.DIALING)
        self.log_in("key-2")
        self.assertIs(self.uplink.state, S.SAYING_HELLO)

    def test_when_the_list_says_nothing_new_the_next_address_is_tried_and_nobody_asked_again(self):
        self.uplink.start()
        self.log_in("key-2")
        self.refreshes[0].callback(None)
        self.assertEqual(self.addresses(), ["192.0.2.1", "192.0.2.2"])
        self.log_in("key-2")
        self.log_in("key-2")
        self.assertEqual(len(self.refreshes), 1)
        self.assertIs(self.uplink.state, S.BACKING_OFF)

    def test_it_asks_again_in_the_next_round(self):
        self.uplink.start()
        for _ in range(2):
            self.log_in("key-2")
            self.refreshes[-1].errback(OSError("8443 is down"))
            self.log_in("key-2")
            self.log_in("key-2")
            self.clock.advance(60)
        self.assertEqual(len(self.refreshes), 2)

    def test_a_list_that_never_comes_is_given_up(self):
        self.uplink.start()
        self.log_in("key-2")
        self.clock.advance(60)
        self.assertEqual(self.addresses(), ["192.0.2.1", "192.0.2.2"])

    def test_a_key_withdrawn_by_a_newer_list_ends_the_session(self):
        channel = self.attach()
        self.uplink.update(msgspec.structs.replace(CONTROLLER, ssh_host_key="key-2"))
        self.assertIs(self.uplink.state, S.BACKING_OFF)
        self.assertIn("close", channel.calls)

    def test_a_new_address_is_tried_without_waiting(self):
        self.uplink.start()
        for _ in range(3):
            self.refuse()
        self.uplink.update(msgspec.structs.replace(CONTROLLER, addresses=("192.0.2.9",)))
        self.assertEqual(self.addresses()[-1], "192.0.2.9")
        self.assertIs(self.uplink.state, S.DIALING)


class Losses(UplinkCase):
    def test_a_lost_channel_and_a_lost_session_are_dialed_again(self):
        for lose in (lambda c: c.cut(), lambda c: c.wire.lose(), lambda c: c.lost.callback(OSError("x"))):
            self.setUp()
            channel = self.attach()
            lose(channel)
            self.assertIs(self.uplink.state, S.BACKING_OFF)
            self.assertIsNone(self.uplink.session)
            self.clock.advance(1)
            self.assertIs(self.uplink.state, S.DIALING)

    def test_a_controller_that_goes_silent_is_left(self):
        channel = self.attach()
        self.clock.advance(60)
        self.assertIs(self.uplink.state, S.BACKING_OFF)
        self.assertIn("close", channel.calls)

    def test_a_welcome_that_never_comes_is_given_up(self):
        self.uplink.start()
        self.log_in()
        self.clock.advance(10)
        self.assertIs(self.uplink.state, S.BACKING_OFF)

    def test_a_goodbye_is_believed_since_the_host_key_was_checked(self):
        channel = self.attach()
        channel.wire.say(m.Goodbye(reason="overload", text="t", retry_after_s=300.0))
        self.clock.advance(300.9)
        self.assertIs(self.uplink.state, S.BACKING_OFF)
        self.clock.advance(0.2)
        self.assertIs(self.uplink.state, S.DIALING)

    def test_after_a_goodbye_that_only_a_person_can_mend_it_waits_long(self):
        self.attach().wire.say(m.Goodbye(reason="quarantined", text="t"))
        self.clock.advance(59)
        self.assertIs(self.uplink.state, S.BACKING_OFF)
        self.clock.advance(1)
        self.assertIs(self.uplink.state, S.DIALING)

    def test_short_sessions_in_a_row_wait_longer_and_a_long_one_starts_anew(self):
        self.uplink.start()
        waits = []
        for lasts_s in (0, 0, 0, STABLE_S, 0):
            channel = self.log_in()
            channel.wire.say(WELCOME)
            self.clock.advance(lasts_s)
            channel.cut()
            (call,) = self.clock.getDelayedCalls()
            waits.append(call.getTime() - self.clock.seconds())
            self.clock.advance(waits[-1])
        self.assertEqual(waits, [1, 2, 4, 1, 2])

    def test_the_past_of_an_older_session_does_not_touch_the_newer(self):
        old = self.attach()
        old.lost.callback(OSError("x"))
        self.clock.advance(1)
        new = self.log_in()
        new.wire.say(WELCOME)
        old.wire.lose()
        self.assertIs(self.uplink.state, S.ATTACHED)

    def test_a_refused_forward_is_asked_for_again_while_attached(self):
        self.uplink.start()
        channel = self.log_in()
        channel.listening = lambda: fail(ForwardRefusedError(address="127.1.0.2", port=5097))
        channel.wire.say(WELCOME)
        self.assertIs(self.uplink.state, S.ATTACHED)
        self.clock.advance(FORWARD_RETRY_S)
        self.assertEqual(len(channel.listens), 2)
        channel.cut()
        self.clock.advance(0.9)
        self.clock.advance(0)
        self.assertEqual(len(channel.listens), 2)


class Stopping(UplinkCase):
    def test_it_says_goodbye_and_waits_for_the_channel(self):
        channel = self.attach()
        channel.wire.heard()
        stopped = self.uplink.stop()
        self.assertEqual([x.reason for x in channel.wire.heard()], ["stopping"])
        self.assertNoResult(stopped)
        channel.cut()
        self.successResultOf(stopped)
        self.assertEqual((self.uplink.state, self.clock.getDelayedCalls()), (S.STOPPED, []))

    def test_a_channel_that_does_not_close_is_cut(self):
        channel = self.attach()
        stopped = self.uplink.stop()
        self.clock.advance(5)
        self.successResultOf(stopped)
        self.assertIn("abort", channel.calls)

    def test_in_every_state_it_leaves_nothing_behind(self):
        def back_off():
            for _ in range(3):
                self.refuse()

        for go_on in (
            lambda: None,
            lambda: self.log_in("key-2"),
            lambda: self.dials[-1][2]("key-1"),
            back_off,
        ):
            self.setUp()
            self.uplink.start()
            go_on()
            self.successResultOf(self.uplink.stop())
            self.assertEqual([c for c in self.clock.getDelayedCalls() if not self.refreshes], [])
            self.clock.advance(200)
            self.assertIs(self.uplink.state, S.STOPPED)


class TheList(UplinkCase):
    def setUp(self):
        super().setUp()
        self.uplinks = Uplinks(self.place, self.parts, self.reach, self.clock, lambda: 1.0)
        self.other = msgspec.structs.replace(CONTROLLER, name="ctl-2", addresses=("192.0.2.9",))

    def members(self, *controllers):
        return Membership(cluster="cluster-1", number=1, controllers=controllers)

    def test_there_is_one_uplink_a_controller_as_the_list_changes(self):
        self.uplinks.start(self.members(CONTROLLER))
        self.uplinks.update(self.members(CONTROLLER, self.other))
        self.assertEqual([u.controller.name for u in self.uplinks.all()], ["ctl-1", "ctl-2"])
        first = self.uplinks.all()[0]
        self.uplinks.update(self.members(self.other))
        self.assertEqual([u.controller.name for u in self.uplinks.all()], ["ctl-2"])
        self.assertIs(first.state, S.STOPPED)

    def test_one_that_is_live_again_is_told_to_its_own_uplink(self):
        self.uplinks.start(self.members(CONTROLLER, self.other))
        while any(uplink.state is S.DIALING for uplink in self.uplinks.all()):
            for *_, dialed in self.dials:
                if not dialed.called:
                    dialed.errback(DialError(address="a", detail="refused"))
        for name in ("ctl-2", "ctl-9"):
            self.uplinks.live_again(name, 0.0)
        self.clock.advance(0)
        self.assertEqual([uplink.state for uplink in self.uplinks.all()], [S.BACKING_OFF, S.DIALING])

    def test_a_controller_that_was_removed_is_dropped_at_once_with_all_that_goes_through_it(self):
        self.uplinks.start(self.members(CONTROLLER))
        channel = self.log_in()
        channel.wire.say(WELCOME)
        self.uplinks.update(self.members(self.other))
        self.assertIn("abort", channel.calls)
        self.assertEqual([u.controller.name for u in self.uplinks.all()], ["ctl-2"])
        channel.cut()
        self.clock.advance(200)
        self.assertEqual({dial[0] for dial in self.dials[1:]}, {"192.0.2.9"})

    def test_notices_wait_bounded_while_headless_and_broadcasts_do_not(self):
        self.uplinks.start(self.members(CONTROLLER))
        for number in range(MAX_KEPT_NOTICES + 1):
            self.uplinks.notify(m.Notice(code=str(number), level="info", text="t"))
        self.uplinks.broadcast(m.InForce(version=1, hash="h"))
        self.assertTrue(self.uplinks.headless)
        channel = self.log_in()
        channel.wire.say(WELCOME)
        heard = channel.wire.heard()[1:]
        self.assertEqual(
            [heard[0].code, heard[-1].code, len(heard)], ["1", str(MAX_KEPT_NOTICES), MAX_KEPT_NOTICES]
        )
        self.assertFalse(self.uplinks.headless)

    def test_attached_a_notice_goes_to_one_and_a_broadcast_to_all(self):
        self.uplinks.start(self.members(CONTROLLER, self.other))
        channels = []
        for _, _, verify, dialed in tuple(self.dials):
            verify("key-1")
            channels.append(Channel())
            dialed.callback(channels[-1])
            channels[-1].wire.say(WELCOME)
            channels[-1].wire.heard()
        self.uplinks.notify(m.Notice(code="C", level="info", text="t"))
        self.assertEqual([len(channel.wire.heard()) for channel in channels], [1, 0])
        self.uplinks.broadcast(m.InForce(version=1, hash="h"))
        self.assertEqual([len(channel.wire.heard()) for channel in channels], [1, 1])
        pusher = self.uplinks.all()[1].session
        self.uplinks.broadcast(m.InForce(version=1, hash="h"), pusher.reply)
        self.assertEqual([len(channel.wire.heard()) for channel in channels], [1, 0])

    def test_one_request_for_the_list_serves_all_uplinks(self):
        self.uplinks.start(self.members(CONTROLLER, self.other))
        for _, _, verify, dialed in tuple(self.dials):
            self.assertFalse(verify("key-2"))
            dialed.errback(HostKeyMismatchError(fingerprint="SHA256:x"))
        self.assertEqual(len(self.refreshes), 1)
        self.refreshes[0].errback(OSError("down"))
        self.assertEqual([u.state for u in self.uplinks.all()], [S.DIALING, S.BACKING_OFF])

    def test_stopping_stops_all(self):
        self.uplinks.start(self.members(CONTROLLER, self.other))
        all_of_them = self.uplinks.all()
        self.successResultOf(self.uplinks.stop())
        self.assertEqual({u.state for u in all_of_them}, {S.STOPPED})
