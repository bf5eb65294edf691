"""Three controllers with real SSH in memory: who sees whom, whatever the network, the list or a peer does."""

from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import msgpack
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.peer_permits import permits_of
from avinet.controller.peers import PEER_API, PEER_SERVICES, Lane, Peers, PeerUnreachableError
from avinet.errors import AvinetError
from avinet.ssh.client import SecureChannel
from avinet.ssh.errors import AuthRefusedError, ChannelRefusedError, ForwardRefusedError
from avinet.ssh.scheduler import Priority
from avinet.trust.controller_keys import ControllerKeys
from avinet.wire.codec import FrameDecoder
from avinet.wire.peer_messages import (
    PEER,
    PEER_PORT,
    PeerGoodbye,
    PeerHello,
    PeerMembership,
    PeerPing,
    PeerPong,
    PeerState,
    PeerUnsupported,
)
from tests.unit.peer_kit import World, line
from tests.unit.ssh_pipe import Collector, Echo

PATIENCE_S = 1.5
"""Four intervals of 250 ms, the first of which may just have begun, and word of it."""


class Case(SynchronousTestCase):
    def setUp(self):
        self.world = World("a", "b", "c")
        self.world.start()
        self.a, self.b, self.c = (self.world[name].links for name in "abc")

    def lives(self):
        return {name: "".join(sorted(self.world[name].links.live)) for name in self.world.nodes}

    def ups(self, name, lane):
        return {view.name for view in self.world[name].links.status() if getattr(view, lane).up}


class TheLinks(Case):
    def test_join_everybody_by_two_connections_a_pair(self):
        self.assertEqual(self.lives(), {"a": "bc", "b": "ac", "c": "ab"})
        self.assertEqual(len(self.world.pipes), 6)
        for name in "abc":
            peers: Peers = self.world[name].links
            self.assertEqual(self.ups(name, "state"), set("abc") - {name})
            self.assertEqual(self.ups(name, "bulk"), set("abc") - {name})
            self.assertEqual(peers.members, ("a", "b", "c"))
        self.assertTrue(all(pipe.names[0] < pipe.names[1] for pipe in self.world.pipes))

    def test_tell_each_whom_the_others_see(self):
        self.assertEqual(self.a.sees("b"), {"a", "c"})
        self.assertEqual(self.a.sees("a"), {"b", "c"})
        self.assertEqual(self.a.rtt_s("b"), 0.0)

    def test_last_while_heartbeats_are_answered(self):
        self.world.run(30)
        self.assertEqual([node.heard.named("down") for node in self.world.nodes.values()], [[], [], []])
        self.assertEqual(len(self.world.pipes), 6)

    def test_say_goodbye(self):
        self.c.stop()
        self.world.run(0.1)
        self.assertEqual(self.lives(), {"a": "b", "b": "a", "c": ""})
        self.assertIn("this controller stops", self.a.status()[1].state.why)
        self.assertEqual(self.world["a"].heard.named("stops"), ["c"])
        self.assertEqual(self.world["c"].heard.named("stops"), [])

    def test_begin_anew_after_a_reset(self):
        self.world.reset("a", "b")
        self.world.run(0.05)
        self.assertEqual(self.world["a"].heard.named("down"), ["b"])
        self.world.run(1)
        self.assertEqual(self.lives(), {"a": "bc", "b": "ac", "c": "ab"})
        self.assertEqual(len(self.world.pipes), 6)

    def test_wait_longer_each_time_nobody_is_there(self):
        self.world["b"].up = False
        self.world.reset("a", "b")
        dialed = []
        dial = self.world["a"].links.reach.dial
        reach = self.world["a"].links.reach
        for dialer in self.a._others["b"].dialers:
            dialer.reach = type(reach)(
                reach.resolve, lambda *how: (dialed.append(how), dial(*how))[1], reach.random
            )
        self.world.run(30)
        self.assertLess(len(dialed), 40)
        self.assertGreater(len(dialed), 15)

    def test_take_services_that_are_offered_later(self):
        for links, name in ((self.a, "b"), (self.b, "a")):
            opening = links.open(name, PEER_API, Collector())
            self.world.pump()
            self.failureResultOf(opening, PeerUnreachableError)
            self.world[name].links.offer(PEER_API, lambda name: Echo())
            self.world.pump()
            opening = links.open(name, PEER_API, Collector())
            self.world.pump()
            self.successResultOf(opening)


class Losses(Case):
    def test_of_one_pair_leave_no_majority(self):
        self.world.cut("a", "b")
        self.world.run(PATIENCE_S)
        self.assertEqual(self.lives(), {"a": "c", "b": "c", "c": "ab"})
        self.assertEqual(self.a.sees("c"), {"a", "b"})
        for name in "abc":
            self.assertFalse(any(self.a.majority_lost(one) for one in "abc"), name)
        self.world.heal()
        self.world.run(6)
        self.assertEqual(self.lives(), {"a": "bc", "b": "ac", "c": "ab"})

    def test_of_one_controller_are_known_to_both_sides(self):
        self.world.isolate("b")
        self.world.run(PATIENCE_S)
        self.assertEqual(self.lives(), {"a": "c", "b": "", "c": "a"})
        self.assertTrue(self.a.majority_lost("b"))
        self.assertTrue(self.c.majority_lost("b"))
        self.assertTrue(self.b.majority_lost("b"))
        self.assertFalse(self.b.majority_lost("a"))
        self.world.heal()
        self.world.run(6)
        self.assertFalse(self.a.majority_lost("b"))
        self.assertEqual(self.b.sees("a"), {"b", "c"})

    def test_of_everything_leave_nobody_a_majority(self):
        for name in "abc":
            self.world.isolate(name)
        self.world.run(PATIENCE_S)
        self.assertEqual(self.lives(), {"a": "", "b": "", "c": ""})
        self.assertFalse(self.a.majority_lost("b"))

    def test_of_one_direction_are_noticed_by_both_sides(self):
        for one, two in (("a", "b"), ("b", "a")):
            self.world.cut(one, two, both=False)
            self.world.run(2 * PATIENCE_S)
            self.assertEqual(self.lives(), {"a": "c", "b": "c", "c": "ab"})
            self.world.heal()
            self.world.run(6)
            self.assertEqual(self.lives(), {"a": "bc", "b": "ac", "c": "ab"})

    def test_by_a_process_that_stands_still(self):
        self.world["b"].stopped = True
        self.world.run(PATIENCE_S)
        self.assertEqual(self.lives(), {"a": "c", "b": "ac", "c": "a"})
        self.assertTrue(self.a.majority_lost("b"))
        self.world["b"].stopped = False
        # It finds its timers late and its connections reset.
        self.world["b"].clock.advance(PATIENCE_S)
        self.world.run(6)
        self.assertEqual(self.lives(), {"a": "bc", "b": "ac", "c": "ab"})

    def test_of_a_moment_are_none(self):
        self.world.isolate("b")
        self.world.run(0.5)
        self.world.heal()
        self.world.run(3)
        self.assertEqual(self.world["a"].heard.named("down"), [])
        self.assertEqual(len(self.world.pipes), 6)

    def test_of_power_end_when_it_is_back(self):
        for name, others in (("a", "bc"), ("c", "ab")):
            self.world[name].kill()
            self.world[name].boot()
            self.world[name].update(self.world.membership)
            self.world.run(6)
            self.assertEqual(self.lives(), {"a": "bc", "b": "ac", "c": "ab"})
            for other in others:
                self.assertEqual(self.ups(other, "bulk"), set("abc") - {other})

    def test_that_come_and_go_end_as_they_should(self):
        for _ in range(20):
            self.world.reset("a", "b")
            self.world.run(0.3)
            self.world.reset("b", "c")
            self.world.run(0.3)
        self.world.run(6)
        self.assertEqual(self.lives(), {"a": "bc", "b": "ac", "c": "ab"})
        self.assertEqual(len(self.world.pipes), 6)
        self.assertEqual(sum(len(node.links._sessions) for node in self.world.nodes.values()), 12)
        self.assertEqual([node.server.login_count for node in self.world.nodes.values()], [0, 2, 4])


class TheList(Case):
    def test_drops_at_once_whom_it_does_not_have_any_more(self):
        self.world.list("a", "b", to=["a", "b"])
        self.assertEqual(self.a.live, {"b"})
        self.assertEqual(self.world["a"].heard.named("down"), ["c"])
        self.world.run(10)
        self.assertEqual(self.lives(), {"a": "b", "b": "a", "c": ""})
        self.assertEqual(self.a.members, ("a", "b"))
        self.assertEqual(len(self.world.pipes), 2)

    def test_is_told_to_whom_it_does_not_have_any_more(self):
        self.world.list("a", "b", to=["a", "b"])
        self.world.run(1)
        self.assertEqual(set(self.world["c"].taken), {"the list"})
        self.assertIn("membership list", self.c.status()[0].state.why)

    def test_without_oneself_ends_everything(self):
        self.world.list("a", "b", to=["c"])
        self.world.run(3)
        self.assertEqual(
            (self.c.members, self.c.live, self.world["c"].permits.keys.all()), (("c",), set(), ())
        )
        self.assertEqual(self.lives(), {"a": "b", "b": "a", "c": ""})

    def test_has_nothing_more_taken_from_whom_it_does_not_have(self):
        services = self.world["c"].links.services
        asked = []
        services.withdraw(PEER_PORT)
        services.register("peer", PEER_PORT, asked.append)
        channel = next(iter(self.a._others["c"].dialers))._channel
        self.world["c"].update(replace(self.world.membership, number=9, controllers=()))
        channel.open(PEER_PORT, Collector()).addErrback(lambda _: None)
        self.world.run(1)
        self.assertEqual(asked, [])

    def test_drops_one_that_dials_and_lets_it_in_no_more(self):
        self.world.list("b", "c", to=["b", "c"])
        self.world.run(10)
        self.assertEqual(self.lives(), {"a": "", "b": "c", "c": "b"})
        self.assertIn("does not accept the key", self.a.status()[0].state.why)
        self.assertIn(("b", "auth-refused"), self.world["a"].denied)
        self.assertEqual(self.world["b"].server.login_count, 0)

    def test_has_new_ones_dialed(self):
        self.world.list("a", "b")
        self.world.run(1)
        self.world.list("a", "b", "c")
        self.world.run(3)
        self.assertEqual(self.lives(), {"a": "bc", "b": "ac", "c": "ab"})

    def test_that_says_other_keys_begins_anew(self):
        key = Ed25519PrivateKey.generate()
        self.world.list("a", "b", "c", b=replace(self.world["b"].facts, ssh_host_key=line(key)))
        self.world.run(2)
        self.assertEqual(self.lives(), {"a": "c", "b": "c", "c": "ab"})
        self.assertIn("host key", self.a.status()[0].state.why)
        self.assertIn(("b", "host-key-mismatch"), self.world["a"].denied)

    def test_and_defects_end_no_dialing(self):
        reach = self.world["a"].links.reach
        for dialer in self.a._others["b"].dialers:
            dialer.reach = type(reach)(reach.resolve, lambda *how: fail(ZeroDivisionError()), reach.random)
        self.world.reset("a", "b")
        self.world.run(2)
        self.assertEqual(self.a.live, {"c"})
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))
        for dialer in self.a._others["b"].dialers:
            dialer.reach = reach
        self.world.run(10)
        self.assertEqual(self.a.live, {"b", "c"})

    def test_that_says_another_address_ends_the_wait(self):
        self.world["b"].kill()
        self.world.run(20)
        self.world["b"].boot()
        self.world["b"].address = "10.0.0.20"
        facts = replace(self.world["b"].facts, addresses=("10.0.0.20",))
        self.world.list("a", "b", "c", b=facts)
        self.world.run(0.2)
        self.assertEqual(self.lives(), {"a": "bc", "b": "ac", "c": "ab"})

    def test_that_says_the_same_changes_nothing(self):
        self.world.list("a", "b", "c")
        self.world.run(1)
        self.assertEqual([node.heard.named("down") for node in self.world.nodes.values()], [[], [], []])

    def test_is_sent_to_one_that_has_an_older_one(self):
        self.world.reset("a", "b")
        lists = self.world["b"].links.lists
        self.world["b"].links.lists = type(lists)(lambda: (0, "old"), lists.take)
        self.world.run(2)
        self.assertIn("the list", self.world["b"].taken)
        self.assertEqual(self.world["a"].taken, [])

    def test_names_nobody_twice(self):
        before = self.b._others["a"]
        self.world.list("a", "b", "c")
        self.assertIs(self.b._others["a"], before)


class WhatIsPublished(Case):
    def test_reaches_everybody_and_those_that_come_later(self):
        self.a.publish("role", "leader")
        self.world.run(0.1)
        self.assertEqual(self.b.said("a")["role"], "leader")
        self.assertIn(("said", "a", {"role": "leader"}), self.world["b"].heard.calls)
        self.world["c"].kill()
        self.world["c"].boot()
        self.world["c"].update(self.world.membership)
        self.world.run(6)
        self.assertEqual(self.world["c"].links.said("a")["role"], "leader")

    def test_is_told_as_changes(self):
        for number in range(3000):
            self.a.publish(f"se/{number}", {"rtt": number})
        self.world.run(0.2)
        self.assertEqual(len(self.b.said("a")), 3001)
        self.a.publish("se/7", None)
        self.a.publish("se/8", {"rtt": 0})
        self.world.run(0.1)
        self.assertEqual(self.world["b"].heard.calls[-1], ("said", "a", {"se/7": None, "se/8": {"rtt": 0}}))

    def test_is_forgotten_with_the_link_and_comes_whole_with_the_next(self):
        self.a.publish("role", "leader")
        self.a.publish("term", 4)
        self.world.run(0.1)
        self.world.cut("a", "b")
        self.world.run(PATIENCE_S)
        self.assertEqual(self.b.said("a"), {})
        self.a.publish("role", None)
        self.world.heal()
        self.world.run(6)
        self.assertEqual(dict(self.b.said("a")), {"term": 4, "sees": ["b", "c"]})

    def test_changes_while_a_peer_takes_nothing_as_often_as_it_likes(self):
        self.world.cut("a", "b", both=False)
        for number in range(2000):
            self.a.publish("counter", number)
            self.world["a"].clock.advance(0)
        session = self.a._others["b"].session
        self.assertLess(session.protocol.sent_bytes, 200_000)
        self.world.heal()
        self.world.run(0.2)
        self.assertEqual(self.b.said("a")["counter"], 1999)

    def test_is_bounded_here(self):
        for key, value in (("x" * 201, 1), ("", 1), ("k", "x" * 5000)):
            with self.assertRaises(ValueError):
                self.a.publish(key, value)


class ServiceCase(Case):
    def setUp(self):
        self.callers = []
        self.world = World("a", "b", "c", prepare=self.prepare)
        self.world.start()
        self.a, self.b, self.c = (self.world[name].links for name in "abc")

    def prepare(self, node):
        node.links.offer(PEER_API, self.build)
        port = node.facts.state_client_port
        node.links.offer_port("state", port, Lane.STATE, self.build, Priority.CONFIG)

    def build(self, name):
        self.callers.append(name)
        return Echo()

    def echoed(self, opening):
        self.world.pump()
        mine = self.successResultOf(opening)
        mine.transport.write(b"hello")
        self.world.pump()
        return mine.data


class Services(ServiceCase):
    def test_are_reached_both_ways(self):
        self.assertEqual(self.echoed(self.a.open("b", PEER_API, Collector())), b"hello")
        self.assertEqual(self.echoed(self.b.open("a", PEER_API, Collector())), b"hello")
        self.assertEqual(self.callers, ["a", "b"])

    def test_of_the_state_engine_are_reached_both_ways(self):
        for links, name in ((self.a, "b"), (self.b, "a"), (self.c, "a")):
            port = self.world[name].facts.state_client_port
            opening = links.open_port(name, port, Lane.STATE, Collector(), Priority.CONFIG)
            self.assertEqual(self.echoed(opening), b"hello")

    def test_that_are_not_there_are_refused_in_words(self):
        self.world.isolate("b")
        self.world.run(PATIENCE_S)
        failure = self.failureResultOf(self.a.open("b", PEER_API, Collector()), PeerUnreachableError)
        self.assertIn("silent", str(failure.value))
        failure = self.failureResultOf(self.a.open("z", PEER_API, Collector()), PeerUnreachableError)
        self.assertIn("membership list", str(failure.value))

    def test_end_with_the_link(self):
        opening = self.a.open("b", PEER_API, Collector())
        self.world.pump()
        mine = self.successResultOf(opening)
        self.world.isolate("b")
        self.world.run(PATIENCE_S)
        self.assertIsNotNone(mine.reason)

    def test_of_one_that_does_not_answer_are_given_up(self):
        self.world["b"].stopped = True
        opening = self.a.open("b", PEER_API, Collector())
        self.world.run(6)
        self.failureResultOf(opening, PeerUnreachableError)


class HostileCase(ServiceCase):
    """With a good key, and not our software."""

    def channel(self, node="a", target="b", **how) -> SecureChannel:
        world = self.world
        outcome = world.dial(world[node], world[target].address, lambda line: True, **how)
        world.pump()
        return self.successResultOf(outcome)

    def refusal(self, opening: Deferred):
        self.world.pump()
        return self.failureResultOf(opening, AvinetError).value


class HostilePeers(HostileCase):
    def test_reach_nothing_but_what_their_line_says(self):
        channel = self.channel()
        other = self.world["c"].facts.state_client_port
        for host, port in (
            ("localhost", other),
            ("127.0.0.1", 22),
            ("10.0.0.3", other),
            ("localhost", 5096),
            ("b", PEER_PORT),
        ):
            self.assertIsInstance(self.refusal(channel.open(port, Collector(), host)), ChannelRefusedError)
        self.assertIn(("a", f"direct-tcpip localhost:{other}"), self.world["b"].refused)
        self.assertEqual(self.echoed(channel.open(PEER_API.port, Collector())), b"hello")

    def test_have_nobody_listen_elsewhere(self):
        channel = self.channel()
        mine, others = self.world["a"].facts, self.world["c"].facts
        for address, port in (
            ("localhost", others.state_client_port),
            ("localhost", self.world["b"].facts.state_client_port),
            ("0.0.0.0", mine.state_client_port),
            ("", mine.state_client_port),
            ("127.1.0.1", 5097),
            ("localhost", 0),
        ):
            self.assertIsInstance(self.refusal(channel.listen(address, port, Echo)), ForwardRefusedError)
        self.assertEqual(len(self.world["b"].refused), 6)

    def test_get_no_shell(self):
        channel = self.channel()
        opening = channel.connection.open(b"session", b"", Collector(), "a session")
        self.assertIsInstance(self.refusal(opening), ChannelRefusedError)

    def test_need_the_key_of_the_list(self):
        for user, key in (
            ("avictlruser", Ed25519PrivateKey.generate()),
            ("aviseuser", self.world["a"].id_controller),
            ("root", self.world["a"].id_controller),
        ):
            dialing = self.world.dial(
                self.world["a"], self.world["b"].address, lambda line: True, user=user, key=key
            )
            self.world.pump()
            self.failureResultOf(dialing, AuthRefusedError)

    def test_do_not_dial_whom_they_are_dialed_by(self):
        dialing = self.world.dial(self.world["c"], self.world["a"].address, lambda line: True)
        self.world.pump()
        self.failureResultOf(dialing, AuthRefusedError)

    def test_that_dial_again_replace_what_there_was(self):
        before = self.b._others["a"].session
        dialer = self.a._others["b"].dialers[0]
        again = type(dialer)(
            dialer.controller, dialer.lane, self.a, dialer.reach, dialer.settings, dialer.clock
        )
        again.start()
        self.world.run(0.2)
        self.assertIsNot(self.b._others["a"].session, before)
        self.assertIn("b", self.a.live)
        again.stop()
        self.world.run(6)
        self.assertEqual(self.lives_of("b"), {"a", "c"})

    def lives_of(self, name):
        return self.world[name].links.live

    def test_are_bounded_in_logins(self):
        for _ in range(20):
            self.channel()
        self.assertLessEqual(self.world["b"].server.login_count, 8)
        self.assertEqual(self.lives_of("b"), {"a", "c"})

    def test_that_flood_with_channels_are_cut(self):
        channel = self.channel()
        openings = [channel.open(PEER_API.port, Collector()) for _ in range(600)]
        self.world.pump()
        refused = [
            self.failureResultOf(one) for one in openings if isinstance(one.result, object) and _failed(one)
        ]
        self.assertEqual(len(refused), 600 - 512)


class Speaker(Protocol):
    """Says frames of its own making, and keeps what it hears."""

    def __init__(self, *frames):
        self.frames, self.heard, self.over = frames, [], False
        self.decoder = FrameDecoder(vocabulary=PEER.vocabulary)

    def connectionMade(self):
        for frame in self.frames:
            self.say(frame)

    def say(self, frame):
        self.transport.write(frame if isinstance(frame, bytes) else PEER.encode(frame))

    def dataReceived(self, data):
        self.decoder.feed(data)
        while (message := self.decoder.next_message()) is not None:
            self.heard.append(message)

    def connectionLost(self, reason):
        self.over = True


HELLO = PeerHello(
    name="a", cluster="cluster", lane="state", boot="x", protocol=1, oldest_protocol=1, software="1.0"
)


class OddSpeakers(HostileCase):
    def speak(self, *frames):
        speaker = Speaker(*frames)
        opening = self.channel().open(PEER_PORT, speaker, priority=Priority.CONTROL)
        self.world.pump()
        self.successResultOf(opening)
        return speaker

    def goodbye(self, *frames):
        speaker = self.speak(*frames)
        self.world.run(0.1)
        self.assertTrue(speaker.over)
        (said,) = [message for message in speaker.heard if isinstance(message, PeerGoodbye)]
        self.assertEqual(self.world["b"].links.live, {"a", "c"})
        return said.reason

    def test_are_refused_by_what_is_wrong_with_their_hello(self):
        for change, reason in (
            ({"name": "c"}, "refused"),
            ({"name": "b"}, "refused"),
            ({"cluster": "another"}, "refused"),
            ({"lane": "fast"}, "refused"),
            ({"protocol": 9, "oldest_protocol": 9}, "version"),
        ):
            self.assertEqual(self.goodbye(replace(HELLO, **change)), reason, change)

    def test_are_cut_when_they_speak_out_of_turn(self):
        for frame in (
            PeerPing(id=1, sent_at=0.0),
            PeerState(whole=True),
            PeerMembership(document="x"),
            b"\xff\xff\xff\xff",
            b"\0\0\0\1\xc1",
            b"\0\0\x20\0" + bytes(8192),
        ):
            self.assertEqual(self.goodbye(frame), "protocol")

    def test_are_cut_when_they_do_not_speak(self):
        speaker = self.speak()
        self.world.run(6)
        self.assertTrue(speaker.over)

    def test_are_given_up_when_they_answer_nothing(self):
        speaker = self.speak(replace(HELLO, lane="bulk"))
        self.world.run(2)
        self.assertTrue(speaker.over)

    def test_are_cut_when_they_publish_in_bulk_or_too_much_or_twice(self):
        for lane, *frames in (
            ("bulk", PeerState(whole=True)),
            ("state", PeerState(whole=True), PeerState(whole=True)),
            ("state", PeerState(whole=True, put={"k": bytes(5000)})),
            ("state", HELLO),
        ):
            speaker = self.speak(replace(HELLO, lane=lane), *frames)
            self.world.run(0.1)
            self.assertIsInstance(speaker.heard[-1], PeerGoodbye)
            self.assertTrue(speaker.over)
            self.world.run(6)

    def test_are_told_of_words_that_are_not_known(self):
        word = msgpack.encode({"t": "peer-dance"})
        speaker = self.speak(HELLO, len(word).to_bytes(4, "big") + word)
        self.world.run(0.1)
        self.assertIn(PeerUnsupported(tag_="peer-dance"), speaker.heard)
        self.assertFalse(speaker.over)

    def test_that_flood_wait_in_their_own_memory(self):
        speaker = self.speak(HELLO)
        pings = b"".join(PEER.encode(PeerPing(id=n, sent_at=0.0)) for n in range(60_000))
        speaker.say(pings)
        self.world.pump()
        pongs = sum(isinstance(message, PeerPong) for message in speaker.heard)
        self.assertLess(pongs, 10_000)
        session = next(one for one in self.world["b"].links._sessions if one.their and one.their.boot == "x")
        self.assertLess(session.protocol.decoder.buffered_bytes, 3_000_000)

    def test_that_send_lists_have_one_looked_at_at_a_time(self):
        looked = []
        lists = self.world["b"].links.lists
        self.world["b"].links.lists = type(lists)(
            lists.current, lambda document: (looked.append(document), Deferred())[1]
        )
        self.speak(HELLO, *(PeerMembership(document=str(n)) for n in range(50)))
        self.world.run(0.1)
        self.assertEqual(looked, ["0"])


def _failed(opening):
    failed = []
    opening.addErrback(lambda failure: (failed.append(1), failure)[1])
    return bool(failed)


class Anything(SynchronousTestCase):
    """A row of mishaps, then peace: everybody sees everybody, as everybody's listeners were told."""

    def test_that_happens_leaves_nothing_behind(self):
        for seed in range(4):
            self.live_through(Random(seed))

    def live_through(self, chance):
        names = ("a", "b", "c")
        world = World(*names)
        for _ in range(15):
            one, two = chance.sample(names, 2)
            node = world[one]
            match chance.randrange(8):
                case 0:
                    world.cut(one, two, both=chance.random() < 0.5)
                case 1:
                    world.isolate(one)
                case 2:
                    world.heal()
                case 3:
                    world.reset(one, two)
                case 4:
                    node.stopped = True
                case 5:
                    node.stopped = False
                case 6 if not node.stopped:
                    node.kill()
                    node.boot()
                    node.update(world.membership)
                case 7:
                    kept = chance.sample(names, chance.randrange(2, 4))
                    world.list(*kept, to=[name for name in names if not world[name].stopped])
            node.links.publish(f"key-{chance.randrange(3)}", chance.choice([None, 1, [2]]))
            world.run(chance.choice([0.05, 0.3, 1, 2.5]))
        world.heal()
        for name in names:
            world[name].stopped = False
        world.list(*names)
        world.run(20)
        for name in names:
            self.is_well(world, name)
        for name in names:
            world[name].links.stop()
        world.run(8)
        self.assertEqual([world[name].clock.getDelayedCalls() for name in names], [[], [], []])

    def is_well(self, world, name):
        node, others = world[name], set(world.nodes) - {name}
        self.assertEqual(node.links.live, others)
        self.assertTrue(all(view.bulk.up for view in node.links.status()))
        self.assertEqual(len(node.links._sessions), 4)
        told = {}
        for word, other, *changes in node.heard.calls:
            if word == "said":
                for key, value in changes[0].items():
                    told[other][key] = value
            else:
                self.assertEqual(word == "up", other not in told)
                told = {one: said for one, said in told.items() if one != other}
                told |= {other: {}} if word == "up" else {}
        for other in others:
            said = {key: value for key, value in told[other].items() if value is not None}
            self.assertEqual(said, world[other].links._published.values)
            self.assertEqual(said, dict(node.links.said(other)))


class Lines(SynchronousTestCase):
    def test_are_read_back_as_they_were_written(self):
        world = World("a", "b", "c")
        permits = permits_of(world.membership, "c")
        self.assertEqual([permit.name for permit in permits], ["a", "b"])
        keys = ControllerKeys()
        keys.replace(permits)
        self.assertEqual(ControllerKeys.parse(keys.render()).all(), keys.all())

    def test_are_those_of_the_ones_that_dial(self):
        world = World("a", "b", "c")
        self.assertEqual(permits_of(world.membership, "a"), [])
        (permit,) = permits_of(world.membership, "b")
        self.assertEqual(permit.opens, (PEER_PORT, *(one.port for one in PEER_SERVICES), 2399, 2400))
        self.assertEqual(permit.listens, (*(one.port for one in PEER_SERVICES), 2389, 2390))

    def test_are_those_that_a_person_may_find_in_the_file(self):
        world = World("a", "b", "c")
        self.assertEqual(
            world["b"].files["avictlruser.authorized_keys"].decode(),
            'restrict,port-forwarding,command="/usr/sbin/nologin",permitopen="localhost:5093",'
            'permitopen="localhost:5094",permitopen="localhost:5095",permitopen="localhost:5092",permitopen="localhost:5097",permitopen="localhost:2399",permitopen="localhost:2400",'
            'permitlisten="localhost:5094",permitlisten="localhost:5095",permitlisten="localhost:5092",permitlisten="localhost:5097",permitlisten="localhost:2389",permitlisten="localhost:2390" '
            f"{world['a'].facts.id_controller} a\n",
        )
