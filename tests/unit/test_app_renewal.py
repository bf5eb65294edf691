"""Certificates are renewed while the controller runs."""

import contextlib

import attrs
from OpenSSL import SSL
from twisted.internet.defer import execute
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.app import renewal as module
from avinet.app.renewal import CHECK_S, RETRY_S, Renewal, Shown
from avinet.controller.root_holder import RootNowhereError
from avinet.model.ids import ControllerName
from avinet.trust import node
from avinet.trust.node import ControllerIdentity, NodeFacts
from tests.unit.trust_kit import folder

FACTS = NodeFacts(
    name=ControllerName("controller-1"),
    addresses=("192.0.2.1",),
    ssh_port=22,
    registration_port=8443,
    reverse_port=5097,
)


def shown_by(options):
    """The certificate that a client is shown, as PEM."""
    server, client = options.serverConnectionForTLS(None), SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    server.set_accept_state()
    client.set_connect_state()
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                one.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))
    return client.get_peer_certificate(as_cryptography=True).serial_number


class Renewing(SynchronousTestCase):
    def setUp(self):
        self.patch(node, "password_hash", lambda *args: b"\0" * 32)
        self.state = folder(self) / "state"
        self.identity = ControllerIdentity.init(self.state, FACTS)
        self.shown = Shown.of(self.identity)
        self.clock, self.events, self.taken = Clock(), [], []
        self.agreed, self.failing = [], None
        self.renewal = Renewal(
            self.state, FACTS, self.shown, self.agree, self.taken.append, self.emit, self.clock, execute
        )
        self.addCleanup(self.renewal.stop)

    async def agree(self, identity):
        """As a cluster's list would; what it says beside that is ``OwnEntry``'s."""
        if self.failing is not None:
            raise self.failing
        self.agreed.append(identity.me)
        ControllerIdentity.init(self.state, FACTS)

    def emit(self, code, level, subject, text, **facts):
        self.events.append((code, facts.get("reason")))

    def serials(self):
        return shown_by(self.shown.registration), shown_by(self.shown.api)

    def near_the_end(self):
        self.patch(node, "RENEW_DAYS", 366.0)

    def test_certificates_with_time_left_are_left_alone(self):
        before = self.serials()
        self.renewal.start()
        self.clock.advance(CHECK_S)
        self.assertEqual((self.serials(), self.events, self.taken), (before, [], []))
        self.assertEqual(self.agreed, [self.identity.me] * 2)

    def test_one_that_nears_its_end_is_renewed_shown_and_listed_without_a_restart(self):
        self.renewal.start()
        before = self.serials()
        self.near_the_end()
        self.clock.advance(CHECK_S)
        after = self.serials()
        self.assertFalse(set(before) & set(after))
        (taken,) = self.taken
        self.assertEqual(taken.membership.number, self.identity.membership.number + 1)
        self.assertEqual(taken.membership.revoked_serials, (f"{before[0]:x}",))
        self.assertEqual(self.events, [("CERTIFICATE_RENEWED", None)])

    def test_without_the_root_key_the_operator_hears_of_the_end_in_time(self):
        self.identity.paths.root_key.unlink()
        self.near_the_end()
        self.patch(module, "RENEW_DAYS", 2 * 366.0)
        before = self.serials()
        self.renewal.start()
        self.assertEqual(
            self.events, [("CERTIFICATE_ENDING", "node"), ("CERTIFICATE_ENDING", "operator API")]
        )
        self.assertEqual((self.serials(), self.taken), (before, []))

    def test_what_fails_is_told_and_tried_again_and_the_old_ones_are_shown(self):
        pem = self.identity.paths.api_pem
        good, before = pem.read_bytes(), self.serials()
        self.near_the_end()
        pem.unlink()
        pem.mkdir()
        self.renewal.start()
        self.assertEqual([code for code, _ in self.events], ["CERTIFICATE_RENEWAL_FAILED"])
        self.assertEqual((self.serials(), self.taken), (before, []))
        pem.rmdir()
        pem.write_bytes(good)
        self.clock.advance(CHECK_S)
        self.assertEqual(len(self.taken), 1)

    def test_what_cannot_be_agreed_on_is_tried_again_soon_and_the_old_ones_are_shown_meanwhile(self):
        self.renewal.start()
        before = self.serials()
        self.near_the_end()
        self.failing = RootNowhereError()
        self.clock.advance(CHECK_S)
        self.assertEqual(self.events, [("CERTIFICATE_RENEWAL_FAILED", "root-nowhere")])
        self.assertEqual((self.serials(), self.taken), (before, []))
        self.clock.advance(RETRY_S)
        self.failing = None
        self.clock.advance(RETRY_S)
        self.assertEqual(len(self.events), 3)
        self.assertFalse(set(before) & set(self.serials()))
        self.renewal.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_operators_own_certificate_is_taken_up(self):
        other = folder(self) / "other"
        ControllerIdentity.init(other, attrs.evolve(FACTS, api_names=("lb.example",)))
        for name in ("api_key", "api_pem"):
            theirs = getattr(node.ControllerPaths(other), name)
            getattr(self.identity.paths, name).write_bytes(theirs.read_bytes())
        before = self.serials()
        self.renewal.start()
        after = self.serials()
        self.assertEqual(after[0], before[0])
        self.assertNotEqual(after[1], before[1])
        (taken,) = self.taken
        self.assertEqual(taken.membership, self.identity.membership)
