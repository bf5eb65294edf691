"""The handshake under attack, over live connections: messages out of their place, and someone in the middle."""

from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import RemoteProtocolError
from avinet.ssh import kex, profile
from avinet.ssh.ciphers import MacError
from avinet.ssh.client import Timeouts, _Login
from avinet.ssh.codec import PacketWriter
from avinet.ssh.exchange import offer
from avinet.ssh.fields import string, uint32
from avinet.ssh.links import ClientLink, ServerLink
from avinet.ssh.transport import Link
from avinet.ssh.userauth import KeyProof
from tests.unit.ssh_pipe import Controller
from tests.unit.test_ssh_hostile import Hostile

IGNORE = b"\x02" + string(b"")
BODY = uint32(0) * 4
EDGES = (
    0,
    1,
    2,
    5,
    6,
    7,
    19,
    20,
    21,
    22,
    29,
    30,
    31,
    49,
    50,
    51,
    60,
    79,
    80,
    90,
    94,
    100,
    127,
    191,
    192,
    193,
    255,
)
"""The first and last of each range."""


def kexinit():
    return offer(profile.STRICT_CLIENT, profile.EXTENSIONS_CLIENT, first=True).encode(bytes(16))


def half():
    return b"\x1e" + string(kex.start(profile.POST_QUANTUM).offer())


class InTheClear(Hostile):
    """Everything before the first keys, every message number."""

    def outcome(self, *payloads):
        pipe = self.controller.raw(Protocol())
        writer = PacketWriter()
        pipe.client_end.write(b"SSH-2.0-x\r\n")
        for payload in payloads:
            pipe.client_end.write(b"".join(writer.seal(payload)))
        pipe.pump()
        pipe.clock.advance(6)
        pipe.pump()
        return pipe

    def assert_over(self, pipe, number):
        self.assertTrue(pipe.over, number)
        self.assertFalse(pipe.server_end.protocol.authenticated)
        self.assertIsInstance(pipe.server_end.protocol.ended, RemoteProtocolError, number)

    def test_any_message_in_place_of_kexinit_ends_it(self):
        # Before the peer's KEXINIT nobody knows whether it is strict: 2, 3 and 4 are found out by it.
        for number in range(256):
            first = bytes((number,)) + BODY
            self.assert_over(self.outcome(first, kexinit()), number)
        self.assert_quiet()

    def test_any_message_between_kexinit_and_its_half_ends_it(self):
        for number in range(256):
            self.assert_over(self.outcome(kexinit(), bytes((number,)) + BODY), number)
        self.assert_quiet()

    def test_any_message_between_its_half_and_newkeys_ends_it(self):
        for number in sorted({*EDGES, *range(8)} - {21}):
            self.assert_over(self.outcome(kexinit(), half(), bytes((number,)) + BODY), number)
        self.assert_quiet()

    def test_packets_in_the_clear_behind_newkeys_end_it(self):
        pipe = self.outcome(kexinit(), half(), b"\x15", IGNORE)
        self.assertTrue(pipe.over)
        self.assertIsInstance(pipe.server_end.protocol.ended, (RemoteProtocolError, MacError))
        self.assert_quiet()


class UnderKeys(Hostile):
    """The stages between the first keys and the login."""

    ALIVE = {0, 2, 3, 4, 6, *range(8, 20), *range(22, 30), *range(50, 80)}
    """IGNORE and its like, and what is answered as not implemented.  7 would do with a body of its own."""

    def stage(self, hook, number):
        pipe = self.controller.raw(link := self.dial(), source=f"10.1.{number}.3")
        setattr(link, hook, lambda *_: link._emit(bytes((number,)) + BODY))
        pipe.pump()
        return pipe

    def dial(self):
        login = _Login("aviseuser", self.key, lambda line: True, self.controller.clock, Timeouts())
        login.done.addErrback(lambda _: None)
        return login.buildProtocol(None)

    def test_before_a_service_is_asked_for(self):
        for number in EDGES:
            pipe = self.stage("secured", number)
            ended = pipe.server_end.protocol.ended
            alive = number in self.ALIVE or number == 7
            self.assertEqual(ended is None, alive, (number, ended))
            pipe.client_end.abortConnection()
            pipe.pump()
        self.assert_quiet()

    def test_before_the_proof(self):
        for number in EDGES:
            self.patch(
                KeyProof,
                "serviceStarted",
                lambda proof: proof.transport._emit(bytes((number,)) + BODY),  # noqa: B023
            )
            pipe = self.controller.raw(self.dial(), source=f"10.1.{number}.3")  # each fails once
            pipe.pump()
            ended = pipe.server_end.protocol.ended
            alive = (number in self.ALIVE or number == 7) and number != 50  # which has fields of its own
            self.assertEqual(ended is None, alive, (number, ended))
            self.assertFalse(pipe.server_end.protocol.authenticated)
            pipe.client_end.abortConnection()
            pipe.pump()
        self.assert_quiet()


class InTheMiddle(SynchronousTestCase):
    """Terrapin (CVE-2023-48795): a packet put into the first exchange, and one taken away behind it."""

    def setUp(self):
        self.controller = Controller()
        self.key = self.controller.enrol()

    def attack(self, *, inject=None, delete=None, cipher=profile.CIPHERS[0]):
        """``inject`` (side, before which message) puts an IGNORE in the clear before what that side sends;
        ``delete`` (side, number) takes the first such message away, sealed as it was."""
        self.patch(profile, "CIPHERS", (cipher,))
        login = _Login("aviseuser", self.key, lambda line: True, self.controller.clock, Timeouts())
        outcome = []
        login.done.addBoth(outcome.append)
        emit = Link._emit
        done = set()

        def tampered(link, head, data=b""):
            side = ServerLink if isinstance(link, ServerLink) else _Login
            if inject == (side, head[0]) and "inject" not in done:
                done.add("inject")
                link._outlet.send(PacketWriter().seal(IGNORE))
            if delete == (side, head[0]) and "delete" not in done:
                done.add("delete")
                link.writer.seal(head, data)
                return
            emit(link, head, data)

        self.patch(Link, "_emit", tampered)
        pipe = self.controller.raw(login.buildProtocol(None))
        pipe.pump()
        pipe.clock.advance(25)
        pipe.pump()
        self.assertEqual(len(done), (inject is not None) + (delete is not None))
        return pipe, outcome

    def test_nothing_can_be_put_in_on_either_side_at_any_place(self):
        for side, other in ((_Login, "server_end"), (ServerLink, "client_end")):
            for number in (0x14, 0x1E if side is _Login else 0x1F, 0x15):
                pipe, _ = self.attack(inject=(side, number))
                ended = getattr(pipe, other).protocol.ended
                self.assertIsInstance(ended, RemoteProtocolError)
                self.assertFalse(pipe.server_end.protocol.authenticated)

    def test_nothing_can_be_taken_away_under_any_cipher(self):
        for cipher in profile.CIPHERS:
            for side, other in ((_Login, "server_end"), (ServerLink, "client_end")):
                pipe, _ = self.attack(delete=(side, 7), cipher=cipher)
                ended = getattr(pipe, other).protocol.ended
                # Under ChaCha20 the length is garbage first.
                self.assertIsInstance(ended, (MacError, RemoteProtocolError))
                self.assertFalse(pipe.server_end.protocol.authenticated)

    def test_both_together_are_no_better(self):
        for cipher in profile.CIPHERS:
            for side in (_Login, ServerLink):
                pipe, _ = self.attack(inject=(side, 0x15), delete=(side, 7), cipher=cipher)
                self.assertFalse(pipe.server_end.protocol.authenticated)
                self.assertTrue(pipe.over)

    def test_the_attack_is_real_a_peer_that_is_not_strict_notices_nothing(self):
        for marker in ("our_marker", "their_marker"):
            self.patch(ClientLink, marker, b"x@example.com")
        pipe, outcome = self.attack(
            inject=(_Login, 0x15), delete=(_Login, 7), cipher=b"chacha20-poly1305@openssh.com"
        )
        self.assertTrue(pipe.server_end.protocol.authenticated, outcome)
        self.assertFalse(pipe.server_end.protocol.peer_pings, "its extensions were taken away")
