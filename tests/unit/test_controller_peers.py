"""The fake of the peers behaves as its users need it: cut, healed, said, opened."""

from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.peers import PEER_API, NoPeers, PeerEndpoint, PeerListener, Peers, PeerUnreachableError
from avinet.controller.peers_memory import PeerHub
from avinet.model.sight import majority, majority_lost
from tests.unit.ssh_pipe import Collector, Echo


class Recorder(PeerListener):
    def __init__(self):
        self.calls = []

    def peer_up(self, name):
        self.calls.append(("up", name))

    def peer_down(self, name, why):
        self.calls.append(("down", name))

    def peer_said(self, name, changes):
        self.calls.append(("said", name, dict(changes)))


class AMajority(SynchronousTestCase):
    def test_is_more_than_half(self):
        self.assertEqual([majority(n) for n in (1, 2, 3, 4, 5)], [1, 2, 2, 3, 3])

    def test_has_lost_what_most_do_not_see(self):
        members = ("a", "b", "c")
        for me_sees, b_sees, lost in (
            ((), None, False),
            (("b",), ("a",), True),
            (("b",), ("a", "c"), False),
            (("b", "c"), ("a",), False),
        ):
            sees = {"a": me_sees} | ({} if b_sees is None else {"b": b_sees})
            self.assertEqual(majority_lost("c", "a", members, sees), lost, (me_sees, b_sees))

    def test_is_lost_to_one_that_hears_nobody(self):
        members = ("a", "b", "c")
        self.assertTrue(majority_lost("a", "a", members, {"a": ()}))
        self.assertFalse(majority_lost("a", "a", members, {"a": ("b",)}))
        self.assertFalse(majority_lost("a", "a", ("a",), {"a": ()}))

    def test_does_not_count_one_that_was_removed(self):
        self.assertFalse(majority_lost("c", "a", ("a", "c"), {"a": (), "b": ()}))


class TheHub(SynchronousTestCase):
    def setUp(self):
        self.hub = PeerHub("a", "b", "c")
        self.a = self.hub.peers("a")
        self.heard = Recorder()
        self.a.listen(self.heard)

    def test_joins_everybody(self):
        peers: Peers = self.a
        self.assertEqual(peers.live, {"b", "c"})
        self.assertEqual(peers.sees("b"), {"a", "c"})
        self.assertEqual(peers.members, ("a", "b", "c"))
        self.assertFalse(peers.majority_lost("b"))

    def test_tells_of_those_that_are_there_already(self):
        self.assertEqual(
            [call[:2] for call in self.heard.calls if call[0] == "up"], [("up", "b"), ("up", "c")]
        )

    def test_lets_a_majority_lose_one(self):
        self.hub.cut("c", "a")
        self.assertFalse(self.a.majority_lost("c"))
        self.hub.cut("c", "b")
        self.assertTrue(self.a.majority_lost("c"))
        self.assertFalse(self.hub.peers("c").majority_lost("a"))
        self.assertTrue(self.hub.peers("c").majority_lost("c"))
        self.hub.heal("c")
        self.assertFalse(self.a.majority_lost("c"))

    def test_passes_on_what_is_published_and_forgets_it_with_the_link(self):
        self.hub.peers("b").publish("role", "leader")
        self.assertEqual(self.a.said("b")["role"], "leader")
        self.assertIn(("said", "b", {"role": "leader"}), self.heard.calls)
        self.hub.cut("a", "b")
        self.assertEqual(self.a.said("b"), {})
        self.hub.peers("b").publish("role", None)
        self.hub.heal("a", "b")
        self.assertEqual(dict(self.a.said("b")), {"sees": ["a", "c"]})

    def test_opens_channels_to_what_is_offered(self):
        self.hub.peers("b").offer(PEER_API, lambda name: Echo())
        mine = self.successResultOf(self.a.open("b", PEER_API, Collector()))
        mine.transport.write(b"hello")
        self.assertEqual(mine.data, b"hello")
        self.hub.cut("a", "b")
        self.assertIsNotNone(mine.reason)
        self.failureResultOf(self.a.open("b", PEER_API, Collector()), PeerUnreachableError)
        self.failureResultOf(self.a.open("c", PEER_API, Collector()), PeerUnreachableError)

    def test_has_endpoints(self):
        self.hub.peers("b").offer(PEER_API, lambda name: Echo())
        made = self.successResultOf(
            PeerEndpoint(self.a, "b", PEER_API).connect(Factory.forProtocol(Protocol))
        )
        self.assertIsNotNone(made.transport)


class AControllerThatIsAlone(SynchronousTestCase):
    def test_has_lost_nobody_and_reaches_nobody(self):
        alone: Peers = NoPeers("a")
        alone.publish("role", "leader")
        self.assertEqual((alone.live, alone.members, alone.status()), (frozenset(), ("a",), ()))
        self.assertFalse(alone.majority_lost("a"))
        self.failureResultOf(alone.open("b", PEER_API, Collector()), PeerUnreachableError)
