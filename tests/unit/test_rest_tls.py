"""TLS between a controller and an SE, handshake for handshake in memory."""

import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from avinet.model.ids import ClusterId, ControllerName
from avinet.model.membership import Controller, Membership
from avinet.rest.tls import (
    CertificateDatesError,
    CertificateForeignError,
    CertificateNameError,
    CertificateRevokedError,
    CertificateUnlistedError,
    CertificateUnusableError,
    ServerOptions,
    api_context_factory,
    controller_client_options,
    node_context_factory,
)

CLUSTER = ClusterId("6f1c7c3e-0d4b-4b4f-9f0f-2f7f3c1f0a11")
NAME = f"controller.{CLUSTER}.avinet"
EPOCH = dt.datetime(1970, 1, 2, tzinfo=dt.UTC)
LATER = dt.datetime(2090, 1, 1, tzinfo=dt.UTC)


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Root:
    """A root CA that issues node certificates of any kind."""

    def __init__(self, name="root"):
        self.key = ed25519.Ed25519PrivateKey.generate()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self.sign(self.name, self.key, ca=True, extensions=[])

    def sign(self, subject, key, *, extensions, ca=False, start=EPOCH, end=LATER):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(
            self.key, None if isinstance(self.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        )

    def node(self, name=NAME, usage=ExtendedKeyUsageOID.SERVER_AUTH, key=None, **dates):
        key = key or ed25519.Ed25519PrivateKey.generate()
        certificate = self.sign(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ctl-1")]),
            key,
            extensions=[
                x509.SubjectAlternativeName([x509.DNSName(name)]),
                x509.ExtendedKeyUsage([usage]),
            ],
            **dates,
        )
        return key, certificate


class Peer(Protocol):
    def __init__(self):
        self.received = b""
        self.lost = None

    def connectionMade(self):
        self.transport.write(b"hello")

    def dataReceived(self, data):
        self.received += data

    def connectionLost(self, reason):
        self.lost = reason.value


class Pipe(StringTransport):
    def abortConnection(self):
        self.disconnecting = True


def handshake(server_options, client_options):
    """Join both ends in memory until nothing moves; returns (server, client) application protocols."""
    ends, clock = [], Clock()
    for options, is_client in ((server_options, False), (client_options, True)):
        inner = Peer()
        factory = TLSMemoryBIOFactory(
            options, is_client, Factory.forProtocol(lambda inner=inner: inner), clock=clock
        )
        outer = factory.buildProtocol(None)
        transport = Pipe()
        outer.makeConnection(transport)
        ends.append((inner, outer, transport))
    (server, server_tls, to_client), (client, client_tls, to_server) = ends
    for _ in range(20):
        clock.advance(0)
        for pipe, target in ((to_server, server_tls), (to_client, client_tls)):
            data = pipe.value()
            pipe.clear()
            if data:
                target.dataReceived(data)
    for pipe, tls in ((to_server, client_tls), (to_client, server_tls)):
        if pipe.disconnecting:
            tls.connectionLost(Failure(ConnectionDone()))
    return server, client


class ControllerTests(SynchronousTestCase):
    """An SE and what calls itself a controller."""

    def setUp(self):
        self.root = Root()
        self.key, self.certificate = self.root.node()

    def membership(self, certificate=None, revoked=()):
        controller = Controller(
            name=ControllerName("ctl-1"),
            addresses=("localhost",),
            node_certificate=pem(certificate or self.certificate).decode(),
            ssh_host_key="",
            id_se="",
        )
        return Membership(cluster=CLUSTER, number=7, controllers=(controller,), revoked_serials=revoked)

    def connect(self, key=None, certificate=None, membership=None, **options):
        server = node_context_factory(key_pem(key or self.key), pem(certificate or self.certificate))
        client = controller_client_options(
            pem(self.root.certificate), CLUSTER, membership or self.membership(), **options
        )
        return handshake(server, client)

    def refused(self, kind, **kwargs):
        server, client = self.connect(**kwargs)
        self.assertIsInstance(client.lost, kind)
        self.assertEqual((server.received, client.received), (b"", b""))
        return client.lost

    def test_a_listed_controller_of_this_cluster_is_believed(self):
        server, client = self.connect()
        self.assertIsNone(client.lost)
        self.assertIn(b"hello", (server.received, client.received))

    def test_another_clusters_root_is_not(self):
        key, certificate = Root("other").node()
        error = self.refused(CertificateForeignError, key=key, certificate=certificate)
        self.assertIn("another cluster", str(error))

    def test_a_root_of_the_same_name_is_not(self):
        key, certificate = Root("root").node()
        self.refused(CertificateForeignError, key=key, certificate=certificate)

    def test_a_controller_of_another_name_is_not(self):
        key, certificate = self.root.node("controller.00000000-0000-4000-8000-000000000000.avinet")
        error = self.refused(
            CertificateNameError, key=key, certificate=certificate, membership=self.membership(certificate)
        )
        self.assertEqual(error.wanted, NAME)

    def test_a_controller_that_is_not_in_the_list_is_not(self):
        _, other = self.root.node()
        self.assertEqual(self.refused(CertificateUnlistedError, membership=self.membership(other)).number, 7)

    def test_a_controller_that_is_not_in_the_list_may_hand_out_the_next_list(self):
        _, other = self.root.node()
        _, client = self.connect(membership=self.membership(other), listed=False)
        self.assertIsNone(client.lost)

    def test_a_revoked_controller_may_not(self):
        serial = f"{self.certificate.serial_number:X}"
        self.refused(CertificateRevokedError, membership=self.membership(revoked=(serial,)), listed=False)

    def test_a_certificate_for_clients_is_not_a_controllers(self):
        key, certificate = self.root.node(usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        self.refused(
            CertificateForeignError, key=key, certificate=certificate, membership=self.membership(certificate)
        )

    def expired(self):
        return self.root.node(end=dt.datetime(2001, 1, 1, tzinfo=dt.UTC))

    def test_an_expired_certificate_is_refused_at_enrolment(self):
        key, certificate = self.expired()
        error = self.refused(
            CertificateDatesError, key=key, certificate=certificate, membership=self.membership(certificate)
        )
        self.assertIn("2001-01-01", str(error))
        self.assertIn("clock", str(error))

    def test_a_certificate_not_valid_yet_is_refused_at_enrolment(self):
        key, certificate = self.root.node(start=dt.datetime(2080, 1, 1, tzinfo=dt.UTC))
        self.refused(
            CertificateDatesError, key=key, certificate=certificate, membership=self.membership(certificate)
        )

    def test_dates_only_warn_once_enrolled(self):
        key, certificate = self.expired()
        _, client = self.connect(key, certificate, self.membership(certificate), dates="warn")
        self.assertIsNone(client.lost)

    def test_everything_else_still_counts_where_dates_only_warn(self):
        key, certificate = Root("other").node(end=dt.datetime(2001, 1, 1, tzinfo=dt.UTC))
        self.refused(CertificateForeignError, key=key, certificate=certificate, dates="warn")
        key, certificate = self.root.node(
            "controller.other.avinet", end=dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
        )
        self.refused(
            CertificateNameError,
            key=key,
            certificate=certificate,
            membership=self.membership(certificate),
            dates="warn",
        )
        key, certificate = self.expired()
        self.refused(CertificateUnlistedError, key=key, certificate=certificate, dates="warn")

    def test_a_key_of_another_certificate_cannot_serve(self):
        with self.assertRaises(CertificateUnusableError):
            node_context_factory(key_pem(ed25519.Ed25519PrivateKey.generate()), pem(self.certificate))
        with self.assertRaises(CertificateUnusableError):
            node_context_factory(b"nonsense", pem(self.certificate))


@implementer(IOpenSSLClientConnectionCreator)
class Plain:
    """A client that checks nothing, of one TLS version."""

    def __init__(self, version):
        self.context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self.context.set_max_proto_version(version)

    def clientConnectionForTLS(self, protocol):
        connection = SSL.Connection(self.context, None)
        connection.set_connect_state()
        return connection


class VersionTests(SynchronousTestCase):
    """What the servers speak."""

    def connect(self, server, version):
        client = Plain(version)
        _, peer = handshake(server, client)
        return peer.received == b"hello"

    def test_registration_speaks_tls_13_only(self):
        key, certificate = Root().node()
        server = node_context_factory(key_pem(key), pem(certificate))
        self.assertIsInstance(server, ServerOptions)
        self.assertTrue(self.connect(server, SSL.TLS1_3_VERSION))
        self.assertFalse(self.connect(server, SSL.TLS1_2_VERSION))

    def test_the_operators_port_speaks_tls_12_too_and_nothing_older(self):
        key, certificate = Root().node("localhost", key=ec.generate_private_key(ec.SECP256R1()))
        server = api_context_factory(key_pem(key), pem(certificate))
        self.assertTrue(self.connect(server, SSL.TLS1_3_VERSION))
        self.assertTrue(self.connect(server, SSL.TLS1_2_VERSION))
        self.assertFalse(self.connect(server, SSL.TLS1_1_VERSION))
