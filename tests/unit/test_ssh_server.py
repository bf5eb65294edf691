"""The controller's SSH server and the SE's client, joined in memory."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.address import IPv4Address
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import RemoteProtocolError
from avinet.ssh import keys, profile
from avinet.ssh.channel import ChannelTransport
from avinet.ssh.client import SecureChannel
from avinet.ssh.errors import (
    AuthRefusedError,
    ChannelRefusedError,
    ConnectionEndedError,
    HostKeyMismatchError,
    ServerBusyError,
)
from avinet.ssh.gate import GateLimits
from avinet.ssh.server import ServerSettings
from tests.unit.ssh_pipe import Collector, Controller, Echo


class Login(SynchronousTestCase):
    def setUp(self):
        self.controller = Controller()
        self.key = self.controller.enrol()

    def failure(self, outcome, kind):
        self.assertIsInstance(outcome[0], Failure)
        self.assertIsInstance(outcome[0].value, kind)
        return outcome[0].value

    def test_a_known_key_logs_in_and_both_sides_use_the_hybrid_exchange_and_strictness(self):
        pipe, _channel = self.controller.channel(self.key)
        link = pipe.client_end.protocol
        self.assertEqual(link.algorithms.kex, b"mlkem768x25519-sha256")
        self.assertEqual(link.algorithms.cipher_cs, b"aes256-gcm@openssh.com")
        self.assertEqual(link.algorithms, pipe.server_end.protocol.algorithms)
        self.assertTrue(link._strict)
        self.assertTrue(pipe.server_end.protocol._strict)
        self.assertEqual(
            self.controller.observer.named("authenticated"), [("authenticated", "se-1", "10.1.2.3")]
        )

    def test_a_login_shows_what_it_settled_and_how_it_does(self):
        pipe, channel = self.controller.channel(self.key)
        channel.open(5001, Collector())
        pipe.pump()
        self.controller.clock.advance(2.5)
        status = self.controller.peers[0].connection.status()
        settled = (
            status.kex,
            status.host_key,
            status.cipher_in,
            status.cipher_out,
            status.mac_in,
            status.mac_out,
        )
        gcm = "aes256-gcm@openssh.com"
        self.assertEqual(settled, ("mlkem768x25519-sha256", "ssh-ed25519", gcm, gcm, "implicit", "implicit"))
        self.assertEqual((status.address, status.age_s, status.peer), ("10.1.2.3", 2.5, "SSH-2.0-avinet"))
        self.assertEqual((status.strict, status.rekeys, status.channels, status.held_bytes), (True, 0, 1, 0))
        self.assertEqual((status.rtt_min_ms, status.rate_bytes_s), (None, None))
        pipe.client_end.protocol.sendKexInit()
        pipe.pump()
        self.assertEqual(self.controller.peers[0].connection.status().rekeys, 1)

    def test_a_login_shows_the_mac_of_a_cipher_that_needs_one_and_the_round_trip_that_data_met(self):
        self.patch(profile, "CIPHERS", (b"aes256-ctr",))
        pipe, channel = self.controller.channel(self.key)
        channel.open(5001, end := Collector())
        pipe.pump()
        end.transport.write(bytes(100_000))
        pipe.pump()
        status = self.controller.peers[0].connection.status()
        self.assertEqual((status.cipher_in, status.cipher_out), ("aes256-ctr", "aes256-ctr"))
        self.assertEqual(status.mac_in, "hmac-sha2-256-etm@openssh.com")
        self.assertIsNotNone(status.rtt_min_ms)  # of the echo

    def test_the_curve_alone_works_too(self):
        self.patch(profile, "KEY_EXCHANGES", [b"curve25519-sha256"])
        pipe, _ = self.controller.channel(self.key)
        self.assertEqual(pipe.client_end.protocol.algorithms.kex, b"curve25519-sha256")

    def test_a_strangers_key_is_refused_with_its_fingerprint(self):
        stranger = Ed25519PrivateKey.generate()
        _, outcome = self.controller.dial(stranger)
        error = self.failure(outcome, AuthRefusedError)
        self.assertEqual(error.fingerprint, keys.fingerprint_of(keys.blob_of(stranger.public_key())))
        self.assertEqual(self.controller.observer.named("auth_failed")[0][4], "unknown-key")

    def test_unknown_users_and_known_users_get_the_same_bytes(self):
        sizes = set()
        for user in ("aviseuser", "avictlruser", "nobody123", "root12345"):
            pipe, outcome = self.controller.dial(Ed25519PrivateKey.generate(), user=user)
            self.failure(outcome, AuthRefusedError)
            sizes.add(pipe.server_end.total)
        self.assertEqual(len(sizes), 1)

    def test_who_comes_while_his_user_is_shut_out_is_refused_and_not_reported(self):
        self.controller.server.shut_out("aviseuser", "it starts")
        self.failure(self.controller.dial(self.key)[1], AuthRefusedError)
        self.assertEqual(self.controller.observer.named("auth_failed"), [])
        self.failure(self.controller.dial(self.key, user="root")[1], AuthRefusedError)
        self.assertEqual(self.controller.observer.named("auth_failed")[0][4], "unknown-user")
        self.controller.server.let_in("aviseuser", self.controller.index)
        self.assertIsInstance(self.controller.dial(self.key)[1][0], SecureChannel)

    def test_an_se_key_does_not_log_in_as_a_controller(self):
        _, outcome = self.controller.dial(self.key, user="avictlruser")
        self.failure(outcome, AuthRefusedError)

    def test_a_key_bound_to_a_network_is_refused_from_elsewhere(self):
        key = self.controller.enrol(se="se-2", networks=("192.0.2.0/24",))
        _, outcome = self.controller.dial(key)
        self.failure(outcome, AuthRefusedError)
        _, outcome = self.controller.dial(key, source="192.0.2.7")
        self.assertIsInstance(outcome[0], SecureChannel)

    def test_the_client_refuses_another_host_key_and_names_it(self):
        seen = []
        _, outcome = self.controller.dial(self.key, verify=lambda line: bool(seen.append(line)))
        error = self.failure(outcome, HostKeyMismatchError)
        blob = keys.blob_of(self.controller.host_key.public_key())
        self.assertEqual((seen, error.fingerprint), ([keys.line_of(blob)], keys.fingerprint_of(blob)))
        self.assertEqual(self.controller.observer.named("authenticated"), [])

    def test_a_login_must_be_quick(self):
        pipe = self.controller.raw(Collector())
        pipe.pump()
        self.controller.clock.advance(9.9)
        pipe.pump()
        self.assertFalse(pipe.over)
        self.controller.clock.advance(0.2)
        pipe.pump()
        self.assertTrue(pipe.over)

    def test_a_login_that_opens_nothing_is_cut_after_a_minute(self):
        pipe, channel = self.controller.channel(self.key)
        self.controller.clock.advance(61)
        pipe.pump()
        self.assertIsInstance(self.successResultOf(channel.lost), RemoteProtocolError)

    def test_a_login_with_a_channel_stays(self):
        pipe, channel = self.controller.channel(self.key)
        channel.open(5001, Collector())
        pipe.pump()
        for _ in range(5):
            self.controller.clock.advance(61)
            pipe.pump()
        self.assertFalse(pipe.over)

    def test_too_many_strangers_from_one_network_are_told_when_to_come_back(self):
        controller = Controller(settings=ServerSettings(gate=GateLimits(per_network=2)))
        key = controller.enrol()
        pipes = [controller.raw(Collector(), source=f"10.1.2.{n}") for n in (1, 2)]
        _, outcome = controller.dial(key)
        self.assertEqual(self.failure(outcome, ServerBusyError).retry_after_s, 0.1)
        self.assertEqual(controller.observer.named("turned_away"), [("turned_away", "10.1.2.3", "crowded")])
        _, outcome = controller.dial(key, source="10.1.3.1")
        self.assertIsInstance(outcome[0], SecureChannel)
        for pipe in pipes:
            pipe.client_end.loseConnection()
            pipe.pump()
        _, outcome = controller.dial(key)
        self.assertIsInstance(outcome[0], SecureChannel)
        self.assertEqual(controller.server.gate.total, 0)

    def test_a_flood_that_leaves_at_once_is_turned_away_before_any_key_exchange(self):
        controller = Controller(settings=ServerSettings(gate=GateLimits(per_network_burst=3)))
        for _ in range(3):
            pipe = controller.raw(Collector())
            pipe.client_end.loseConnection()
            pipe.pump()
        late = Collector()
        controller.raw(late).pump()
        self.assertIn(b"retry after 0.2 s", late.data)
        self.assertEqual(late.data.count(b"SSH-2.0-"), 1)
        self.assertNotIn(b"curve25519", late.data)

    def test_strangers_whom_there_is_no_time_to_answer_are_cut(self):
        settings = ServerSettings(gate=GateLimits(per_network=1, told_per_s=1.0))
        controller = Controller(settings=settings)
        controller.raw(Collector())
        answers = [controller.server.buildProtocol(IPv4Address("TCP", "10.1.2.3", n)) for n in range(2)]
        self.assertEqual([answer is None for answer in answers], [False, True])

    def test_logins_that_wait_for_their_turn_go_on(self):
        self.controller.server.turnstile.turn_s = 1e-9
        pipe, channel = self.controller.channel(self.key)
        self.assertEqual(self.controller.server.gate.total, 0)
        echo = Collector()
        channel.open(5001, echo)
        pipe.pump()
        echo.transport.write(b"hello")
        pipe.pump()
        self.assertEqual(echo.data, b"hello")

    def test_drop_cuts_every_login_of_an_se_and_no_other(self):
        other = self.controller.enrol(se="se-2")
        pipes = [self.controller.channel(key)[0] for key in (self.key, self.key, other)]
        self.controller.server.drop("se-1")
        for pipe in pipes:
            pipe.pump()
        self.assertEqual([pipe.over for pipe in pipes], [True, True, False])
        self.assertEqual(self.controller.server.login_count, 1)

    def test_the_ninth_login_of_an_se_ends_its_oldest_unattached_one(self):
        pipes = [self.controller.channel(self.key)[0] for _ in range(2)]
        self.controller.server._logins["se-1"][0].mark_attached()
        pipes += [self.controller.channel(self.key)[0] for _ in range(7)]
        for pipe in pipes:
            pipe.pump()
        self.assertEqual([pipe.over for pipe in pipes], [False, True] + [False] * 7)

    def test_logins_in_a_row_never_count_up_while_the_ended_ones_linger(self):
        for _ in range(20):
            self.controller.channel(self.key)  # whose peer takes nothing more: it is not pumped again
            self.assertLessEqual(self.controller.server.login_count, 8)


class Channels(SynchronousTestCase):
    def setUp(self):
        self.controller = Controller()
        self.pipe, self.channel = self.controller.channel(self.controller.enrol())

    def test_a_channel_is_the_transport_of_the_service(self):
        end = Collector()
        opening = self.channel.open(5001, end)
        self.pipe.pump()
        self.assertIs(self.successResultOf(opening), end)
        end.transport.write(b"ping" * 100_000)
        self.pipe.pump()
        self.assertEqual(end.data, b"ping" * 100_000)
        self.assertEqual(self.controller.peers[0].se, "se-1")
        self.assertEqual(end.transport.getPeer().host, "10.9.9.9")

    def test_either_name_of_the_machine_means_its_services(self):
        opening = self.channel.open(5001, Collector(), host="127.0.0.1")
        self.pipe.pump()
        self.successResultOf(opening)

    def test_everything_else_is_prohibited_by_name(self):
        self.controller.services.register("unlisted", 5002, lambda peer: Echo())
        for host, port in (("localhost", 5002), ("localhost", 22), ("10.0.0.1", 5001), ("::1", 5001)):
            opening = self.channel.open(port, Collector(), host=host)
            self.pipe.pump()
            error = self.failureResultOf(opening, ChannelRefusedError).value
            self.assertEqual((error.code, error.what), (1, f"{host}:{port}"))
        self.assertEqual(len(self.controller.observer.named("refused")), 4)

    def test_sessions_are_prohibited(self):
        for kind in (b"session", b"x11", b"direct-streamlocal@openssh.com", b"auth-agent@openssh.com"):
            opening = self.channel.connection.open(kind, b"", Collector(), "it")
            self.pipe.pump()
            self.assertEqual(self.failureResultOf(opening, ChannelRefusedError).value.code, 1)

    def test_closing_reaches_the_service_and_the_other_way_round(self):
        server_ends = []
        self.controller.build = lambda: server_ends.append(Collector()) or server_ends[-1]
        ends = [Collector(), Collector()]
        for end in ends:
            self.channel.open(5001, end)
        self.pipe.pump()
        ends[0].transport.write(b"bye")
        ends[0].transport.loseConnection()
        server_ends[1].transport.abortConnection()
        self.pipe.pump()
        self.assertEqual(server_ends[0].data, b"bye")
        for end in (*ends, *server_ends):
            self.assertIsNotNone(end.reason)
        self.assertEqual(self.channel.connection.channels, {})

    def test_services_end_with_their_connection(self):
        end = Collector()
        self.channel.open(5001, end)
        self.pipe.pump()
        self.channel.close("done")
        self.pipe.pump()
        self.assertIsNotNone(end.reason)
        self.assertIsInstance(self.successResultOf(self.channel.lost), ConnectionEndedError)
        self.assertEqual(len(self.controller.observer.named("lost")), 1)
        late = self.channel.open(5001, Collector())
        self.failureResultOf(late, ConnectionEndedError)

    def test_a_service_that_fails_ends_its_channel_only(self):
        class Broken(Echo):
            def dataReceived(self, data):
                raise RuntimeError("boom")

        good = Collector()
        self.channel.open(5001, good)
        self.pipe.pump()
        self.controller.build = Broken
        bad = Collector()
        self.channel.open(5001, bad)
        self.pipe.pump()
        bad.transport.write(b"x")
        self.pipe.pump()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertIsNotNone(bad.reason)
        good.transport.write(b"still here")
        self.pipe.pump()
        self.assertEqual(good.data, b"still here")

    def test_more_channels_than_allowed_are_a_shortage(self):
        openings = [self.channel.open(5001, Collector()) for _ in range(17)]
        self.pipe.pump()
        for opening in openings[:16]:
            self.successResultOf(opening)
        self.assertEqual(self.failureResultOf(openings[16], ChannelRefusedError).value.code, 4)
        self.assertTrue(
            all(isinstance(c, ChannelTransport) for c in self.channel.connection.channels.values())
        )
