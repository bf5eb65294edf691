"""New keys while data flows: by bytes, packets and time, begun by either side or both, without loss, in bounded time."""

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from avinet.ssh import kex, profile
from avinet.ssh.client import Timeouts, _Login
from avinet.ssh.fields import string
from avinet.ssh.links import ClientLink
from avinet.ssh.negotiation import KexInit
from avinet.ssh.profile import LinkLimits
from avinet.ssh.server import ServerSettings
from avinet.units import KIB
from tests.unit.ssh_pipe import Collector, Controller
from tests.unit.test_ssh_hostile import Hostile


@implementer(IPushProducer)
class Flow(Protocol):
    """Sends numbered pieces while it may, and checks that those of the other end come in order."""

    PIECE = 10_000

    def __init__(self, pieces=0):
        self.left = pieces
        self.sent = self.got = 0
        self.buffer = b""
        self.going = True
        self.ordered = True
        self.reason = None

    def connectionMade(self):
        self.transport.registerProducer(self, True)
        if self.going:
            self.resumeProducing()

    def resumeProducing(self):
        self.going = True
        while self.going and self.left:
            self.left -= 1
            self.sent += 1
            self.transport.write(self.sent.to_bytes(4, "big") * (self.PIECE // 4))

    def pauseProducing(self):
        self.going = False

    def stopProducing(self):
        self.going = False

    def dataReceived(self, data):
        self.buffer += data
        while len(self.buffer) >= self.PIECE:
            piece, self.buffer = self.buffer[: self.PIECE], self.buffer[self.PIECE :]
            self.got += 1
            self.ordered &= piece == self.got.to_bytes(4, "big") * (self.PIECE // 4)

    def connectionLost(self, reason):
        self.reason = reason.value


class Rekey(Hostile):
    def start(self, *, server=None, client=None, pieces=(0, 0), chance=lambda: 0.0):
        """A login with limits for each side, and a channel with data to send both ways."""
        if server is not None:
            self.controller = Controller(settings=ServerSettings(link=server))
            self.key = self.controller.enrol()
        login = _Login("aviseuser", self.key, lambda line: True, self.controller.clock, Timeouts())
        link = login.buildProtocol(None)
        link.limits = client or LinkLimits()
        link.chance = chance
        channels = []
        login.done.addCallback(channels.append)
        build = self.controller.server.buildProtocol

        def with_chance(addr):
            made = build(addr)
            made.chance = chance
            return made

        self.controller.server.buildProtocol = with_chance
        self.pipe = self.controller.raw(link)
        self.pipe.pump()
        self.client, self.server = link, self.pipe.server_end.protocol
        self.ours, self.theirs = Flow(pieces[0]), Flow(pieces[1])
        self.controller.build = lambda: self.theirs
        self.channel = channels[0]
        self.channel.open(5001, self.ours)

    def assert_whole(self, ours, theirs):
        self.pipe.pump()
        self.assertEqual((self.theirs.got, self.ours.got), (ours, theirs))
        self.assertTrue(self.ours.ordered and self.theirs.ordered)
        self.assertEqual((self.ours.buffer, self.theirs.buffer), (b"", b""))
        self.assertEqual((self.client.ended, self.server.ended), (None, None))
        self.assertEqual(self.client.exchanges, self.server.exchanges)
        self.assertEqual((self.client._parked, self.server._parked), ([], []))
        self.assert_quiet()


class When(Rekey):
    def test_by_bytes_begun_by_the_client_alone(self):
        self.start(client=LinkLimits(rekey_after_bytes=200 * KIB), pieces=(300, 0))
        self.assert_whole(300, 0)
        self.assertGreater(self.client.exchanges, 10)

    def test_by_bytes_begun_by_the_server_alone(self):
        self.start(server=LinkLimits(rekey_after_bytes=200 * KIB), pieces=(0, 300))
        self.assert_whole(0, 300)
        self.assertGreater(self.client.exchanges, 10)

    def test_by_what_was_received_too(self):
        self.start(server=LinkLimits(rekey_after_bytes=200 * KIB), pieces=(300, 0))
        self.assert_whole(300, 0)
        self.assertGreater(self.client.exchanges, 10)

    def test_by_packets(self):
        self.start(server=LinkLimits(rekey_after_packets=100), pieces=(0, 500))
        self.assert_whole(0, 500)
        self.assertGreater(self.client.exchanges, 2)

    def test_by_packets_with_a_peer_that_is_not_strict(self):
        for marker in ("our_marker", "their_marker"):
            self.patch(ClientLink, marker, b"x@example.com")
        self.start(server=LinkLimits(rekey_after_packets=100), pieces=(0, 500))
        self.assert_whole(0, 500)
        self.assertFalse(self.server._strict)
        self.assertLess(self.client.exchanges, 30)
        before = self.client.exchanges
        self.theirs.transport.write(b"z" * 10_000)
        self.pipe.pump()
        self.assertLessEqual(self.client.exchanges, before + 1)

    def test_by_time_spread_by_chance(self):
        for chance, seconds in ((0.0, 3240), (0.5, 3060), (1.0, 2880)):
            self.start(chance=lambda: chance)  # noqa: B023 - used at once
            self.pipe.pump()
            self.pipe.clock.advance(seconds - 1)
            self.pipe.pump()
            self.assertEqual(self.client.exchanges, 1)
            self.pipe.clock.advance(1.5)
            self.pipe.pump()
            self.assertEqual(self.client.exchanges, 2)
            self.pipe.clock.advance(seconds - 1)
            self.pipe.pump()
            self.assertEqual(self.client.exchanges, 2, "each exchange begins the time anew")

    def test_a_stranger_gets_no_new_keys_by_time(self):
        stranger = _Login("aviseuser", self.key, lambda line: True, self.controller.clock, Timeouts())
        link = stranger.buildProtocol(None)
        stranger.done.addErrback(lambda _: None)
        link.secured = lambda: None
        link.limits = LinkLimits(rekey_after_s=1.0)
        pipe = self.controller.raw(link)
        pipe.pump()
        pipe.clock.advance(2)
        pipe.pump()
        self.assertEqual(link.exchanges, 1)
        self.assertIsNone(link._exchange)


class InTheMiddle(Rekey):
    def test_bulk_both_ways_at_once_whoever_begins(self):
        small = LinkLimits(rekey_after_bytes=150 * KIB)
        for server, client in ((small, None), (LinkLimits(), small), (small, small)):
            self.start(server=server, client=client, pieces=(400, 400))
            self.assert_whole(400, 400)
            self.assertGreater(self.client.exchanges, 10)

    def test_both_beginning_at_the_same_moment_is_one_exchange(self):
        self.start(pieces=(200, 200))
        for _ in range(10):
            self.pipe.client_end.step()
            self.pipe.server_end.step()
        before = self.client.exchanges
        self.client.sendKexInit()
        self.server.sendKexInit()
        self.assert_whole(200, 200)
        self.assertEqual(self.client.exchanges, before + 1)

    def test_begun_again_and_again_at_any_step(self):
        self.start(pieces=(300, 300))
        for step in range(400):
            if step % 7 == 0:
                self.client.sendKexInit()
            if step % 11 == 0:
                self.server.sendKexInit()
            self.pipe.client_end.step()
            self.pipe.server_end.step()
        self.assert_whole(300, 300)

    def test_opens_and_ends_in_the_middle_keep_their_order(self):
        self.start()
        self.pipe.pump()
        end, sink = Collector(), Collector()
        self.controller.build = lambda: sink
        self.client.sendKexInit()
        opening = self.channel.open(5001, end)
        self.pipe.client_end.step()
        self.assertNoResult(opening)
        self.pipe.pump()
        end.transport.write(b"a" * 50_000)
        self.client.sendKexInit()
        end.transport.write(b"b" * 50_000)
        end.transport.loseConnection()
        self.pipe.pump()
        self.assertEqual(sink.data, b"a" * 50_000 + b"b" * 50_000)
        self.assertIsNotNone(sink.reason)
        self.assert_quiet()

    def test_data_of_a_server_that_begins_goes_on_after_one_round_trip(self):
        self.start(pieces=(0, 0))
        self.pipe.pump()
        to_client, to_server = self.pipe.server_end, self.pipe.client_end
        self.server.sendKexInit()
        self.theirs.left = 5
        self.theirs.resumeProducing()
        self.assertFalse(self.theirs.going, "not under the old keys")
        to_client.step()  # KEXINIT: the client answers with its own and its half
        self.assertEqual(self.ours.got, 0)
        to_server.step()
        # One round trip: the server has the client's half, so its answer, NEWKEYS and the data leave together.
        self.assertEqual(self.theirs.left, 0)
        to_client.step()
        self.assertEqual(self.ours.got, 5)
        self.assert_whole(0, 5)

    def test_data_of_a_client_that_begins_goes_on_after_two(self):
        self.start(pieces=(0, 0))
        self.pipe.pump()
        to_client, to_server = self.pipe.server_end, self.pipe.client_end
        self.client.sendKexInit()
        self.ours.left = 5
        self.ours.resumeProducing()
        trips = 0
        while self.theirs.got == 0:
            to_server.step()
            to_client.step()
            trips += 1
        self.assertEqual(trips, 3)  # two, and half of one for the data
        self.assert_whole(5, 0)

    def test_replies_wait_in_bounds(self):
        self.start()
        self.pipe.pump()
        self.server.sendKexInit()
        self.pipe.client_end.reading = False
        ping = string(bytes(1000))
        for _ in range(1200):
            self.server._guarded(192, self.server._answer_ping, ping)
            if self.server._ended:
                break
        self.assertLessEqual(sum(map(len, self.server._parked)), profile.MAX_PARKED_BYTES)
        self.assertIn("does not read", self.server.ended.detail)

    def test_data_waits_in_its_channel_and_its_producer_is_paused(self):
        self.start()
        self.pipe.pump()
        self.server.sendKexInit()
        self.theirs.left = 10_000
        self.theirs.resumeProducing()
        self.assertFalse(self.theirs.going)
        self.assertLess(self.theirs.transport.unsent.size, 2 * Flow.PIECE)
        self.assertEqual(self.server._parked, [])


class Abuse(Rekey):
    def test_thirty_seconds_are_enough_whoever_began(self):
        for begins in ("client", "server"):
            self.start()
            self.pipe.pump()
            self.patch(self.client, "offers_exchanged", lambda exchange: None)
            getattr(self, begins).sendKexInit()
            self.pipe.pump()
            self.pipe.clock.advance(29)
            self.pipe.pump()
            self.assertIsNone(self.server.ended)
            self.pipe.clock.advance(1.5)
            self.assert_cut(self.pipe, "took too long")

    def test_a_peer_may_change_keys_each_mib_without_end(self):
        # As RekeyLimit=1M does; the clock stands still, so no allowance of time is used.
        self.patch(profile, "EARNED_KEY_EXCHANGE_BYTES", 50 * KIB)  # in small: 7 MB do
        self.start(client=LinkLimits(rekey_after_bytes=50 * KIB), pieces=(900, 0))
        self.pipe.pump()
        self.assertGreater(self.client.exchanges, profile.MAX_KEY_EXCHANGES)
        self.assert_whole(self.ours.sent, 0)

    def test_without_data_it_is_cut(self):
        self.start()
        self.pipe.pump()
        for _ in range(profile.MAX_KEY_EXCHANGES + 1):
            self.client.sendKexInit()
            self.pipe.pump()
        self.assert_cut(self.pipe, "too many key exchanges")

    def test_a_kexinit_inside_an_exchange_is_a_cut(self):
        self.start()
        self.pipe.pump()
        self.patch(self.client, "offers_exchanged", lambda exchange: None)
        self.client.sendKexInit()
        self.client._emit(self.client._exchange.ours)
        self.assert_cut(self.pipe, "inside a key exchange")

    def test_data_after_a_kexinit_is_a_cut(self):
        self.start()
        self.pipe.pump()
        self.client.sendKexInit()
        self.client._emit(b"\x5e" + bytes(3) + b"\0" + string(b"x"))
        self.assert_cut(self.pipe, "message 94 inside a key exchange")


class Guesses(Rekey):
    def dial(self, first, packets):
        """A client whose KEXINIT says that a guess follows, for ``first``; ``packets`` are sent right behind."""
        login = _Login("aviseuser", self.key, lambda line: True, self.controller.clock, Timeouts())
        outcome = []
        login.done.addBoth(outcome.append)
        link = login.buildProtocol(None)
        send_kexinit = link.sendKexInit
        emit = link._emit

        def guess(payload, data=b""):
            if payload[:1] == b"\x14" and link.sessionID is None:
                offer = KexInit.decode(payload[1:])
                names = (first, *(name for name in offer.kex if name != first))
                changed = KexInit(names, *(getattr(offer, one) for one in (
                    "host_keys", "ciphers_cs", "ciphers_sc", "macs_cs", "macs_sc")), guessed=True)  # fmt: skip
                payload = changed.encode(payload[1:17])
                self.kexinit = payload
                emit(payload)
                for packet in packets:
                    emit(packet)
                return
            emit(payload, data)

        link._emit = guess

        def begin():
            send_kexinit()
            link._exchange.ours = self.kexinit

        link.sendKexInit = begin
        return link, self.controller.raw(link), outcome

    def test_a_wrong_one_is_ignored_whatever_its_message(self):
        for number in (30, 34):
            wrong = bytes((number,)) + string(bytes(32))
            _, pipe, outcome = self.dial(b"curve25519-sha256", [wrong])
            pipe.pump()
            self.assertIsNone(pipe.server_end.protocol.ended)
            self.assertTrue(pipe.server_end.protocol.authenticated, outcome)
            pipe.client_end.abortConnection()
            pipe.pump()
        self.assert_quiet()

    def test_a_right_one_is_taken(self):
        client = kex.start(b"mlkem768x25519-sha256")
        right = b"\x1e" + string(client.offer())
        link, pipe, outcome = self.dial(b"mlkem768x25519-sha256", [right])

        def offers_exchanged(exchange):
            exchange.client = client

        link.offers_exchanged = offers_exchanged
        pipe.pump()
        self.assertTrue(pipe.server_end.protocol.authenticated, outcome)
        self.assertEqual(pipe.server_end.protocol.algorithms.kex, b"mlkem768x25519-sha256")

    def test_one_guess_is_ignored_and_no_second(self):
        wrong = b"\x1e" + string(bytes(32))
        _, pipe, _ = self.dial(b"curve25519-sha256", [wrong, b"\x22" + string(b"")])
        self.assert_cut(pipe, "out of order")
