import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import AvinetError
from avinet.model.ids import controller_dns_name
from avinet.trust import ca as module
from avinet.trust.ca import (
    PassphraseEmptyError,
    RootCa,
    RootDamagedError,
    RootKeyLockedError,
    RootKeyOfflineError,
    RootKeyPlainError,
    bears_key,
    days_left,
    names_of,
    same_names,
    serial_of,
)
from avinet.trust.files import DiskFullError, FileExposedError
from avinet.trust.keys import generate
from tests.unit.trust_kit import CLUSTER, folder, mode


class Roots(SynchronousTestCase):
    def setUp(self):
        self.folder = folder(self) / "trust"
        self.key, self.pem = self.folder / "root.key", self.folder / "root.pem"

    def test_a_root_is_made_once(self):
        root = RootCa.create(self.folder, CLUSTER)
        self.assertEqual(RootCa.create(self.folder, CLUSTER).pem, root.pem)
        self.assertEqual(RootCa.load(self.folder).pem, root.pem)
        self.assertEqual((mode(self.folder), mode(self.key)), (0o700, 0o600))

    def test_a_root_may_sign_certificates_and_has_begun_long_ago(self):
        certificate = RootCa.create(self.folder, CLUSTER).certificate
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        self.assertTrue(basic.critical and basic.value.ca and basic.value.path_length == 0)
        self.assertTrue(usage.value.key_cert_sign)
        self.assertEqual(certificate.not_valid_before_utc, dt.datetime(1970, 1, 1, tzinfo=dt.UTC))
        certificate.verify_directly_issued_by(certificate)

    def test_a_root_cut_before_its_certificate_goes_on_with_its_key(self):
        def full(path, data):
            raise DiskFullError(path=path)

        patcher = self.patch(module, "write_public", full)
        self.assertRaises(DiskFullError, RootCa.create, self.folder, CLUSTER)
        patcher.restore()
        before = self.key.read_bytes()
        RootCa.create(self.folder, CLUSTER)
        self.assertEqual(self.key.read_bytes(), before)
        self.assertTrue(RootCa.load(self.folder).has_key)

    def test_a_root_key_that_others_can_read_is_refused(self):
        RootCa.create(self.folder, CLUSTER)
        self.key.chmod(0o644)
        self.assertRaises(FileExposedError, RootCa.load, self.folder)

    def test_a_damaged_root_is_named_by_its_file(self):
        RootCa.create(self.folder, CLUSTER)
        pem = self.pem.read_bytes()
        for damaged in (b"", b"nonsense", pem[:80]):
            self.pem.write_bytes(damaged)
            failure = self.assertRaises(RootDamagedError, RootCa.load, self.folder)
            self.assertEqual(failure.path, self.pem)
        self.pem.write_bytes(pem)
        self.key.write_bytes(b"nonsense")
        self.assertEqual(self.assertRaises(RootDamagedError, RootCa.load, self.folder).path, self.key)

    def test_a_key_of_another_root_is_refused(self):
        RootCa.create(self.folder, CLUSTER)
        other = RootCa.create(folder(self) / "trust", CLUSTER)
        self.key.write_bytes(other.key_path.read_bytes())
        self.assertRaises(RootDamagedError, RootCa.load, self.folder)

    def test_a_root_taken_offline_is_trusted_but_signs_nothing(self):
        made = RootCa.create(self.folder, CLUSTER)
        self.key.rename(self.folder.parent / "usb-stick")
        root = RootCa.load(self.folder)
        self.assertFalse(root.has_key)
        self.assertEqual(root.certificate, made.certificate)
        failure = self.assertRaises(
            RootKeyOfflineError, root.issue_node, generate().public_key(), CLUSTER, "c"
        )
        self.assertIn(str(self.key), str(failure))
        self.assertEqual(RootCa.create(self.folder, CLUSTER).pem, made.pem)
        self.assertFalse(self.key.exists())

    def test_the_key_is_in_no_repr(self):
        self.assertNotIn("PrivateKey", repr(RootCa.create(self.folder, CLUSTER)))


class Wrapping(SynchronousTestCase):
    def setUp(self):
        self.folder = folder(self) / "trust"

    def test_a_wrapped_key_signs_with_its_passphrase_only(self):
        RootCa.create(self.folder, CLUSTER, b"open sesame")
        self.assertIn(b"BEGIN ENCRYPTED PRIVATE KEY", (self.folder / "root.key").read_bytes())
        self.assertTrue(RootCa.load(self.folder, b"open sesame").has_key)
        failure = self.assertRaises(RootKeyLockedError, RootCa.load, self.folder, b"open barley")
        self.assertNotIn("barley", str(failure))

    def test_without_the_passphrase_it_is_trusted_but_signs_nothing(self):
        RootCa.create(self.folder, CLUSTER, b"open sesame")
        root = RootCa.load(self.folder)
        self.assertFalse(root.has_key)
        self.assertRaises(RootKeyLockedError, root.issue_node, generate().public_key(), CLUSTER, "c")

    def test_a_wrapped_key_whose_certificate_was_not_written_needs_the_passphrase_to_go_on(self):
        RootCa.create(self.folder, CLUSTER, b"open sesame")
        (self.folder / "root.pem").unlink()
        before = (self.folder / "root.key").read_bytes()
        self.assertRaises(RootKeyLockedError, RootCa.create, self.folder, CLUSTER)
        self.assertTrue(RootCa.create(self.folder, CLUSTER, b"open sesame").has_key)
        self.assertEqual((self.folder / "root.key").read_bytes(), before)

    def test_a_passphrase_for_a_plain_key_is_not_silently_ignored(self):
        RootCa.create(self.folder, CLUSTER)
        self.assertRaises(RootKeyPlainError, RootCa.load, self.folder, b"open sesame")

    def test_an_empty_passphrase_makes_nothing(self):
        self.assertRaises(PassphraseEmptyError, RootCa.create, self.folder, CLUSTER, b"")
        self.assertFalse((self.folder / "root.key").exists())


class Certificates(SynchronousTestCase):
    def setUp(self):
        self.root = RootCa.create(folder(self) / "trust", CLUSTER)

    def test_a_node_certificate_is_for_a_server_of_this_cluster_and_for_nothing_else(self):
        key = generate().public_key()
        pem = self.root.issue_node(key, CLUSTER, "controller-1")
        certificate = x509.load_pem_x509_certificate(pem)
        extensions = certificate.extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints)
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        self.assertTrue(basic.critical)
        self.assertFalse(basic.value.ca)
        self.assertTrue(usage.critical and usage.value.digital_signature)
        self.assertFalse(usage.value.key_cert_sign)
        self.assertEqual(list(extended.value), [ExtendedKeyUsageOID.SERVER_AUTH])
        self.assertEqual(names_of(pem), {controller_dns_name(CLUSTER)})
        self.assertEqual(certificate.not_valid_before_utc, dt.datetime(1970, 1, 1, tzinfo=dt.UTC))
        self.assertTrue(bears_key(pem, key))
        self.assertFalse(bears_key(pem, generate().public_key()))
        certificate.verify_directly_issued_by(self.root.certificate)

    def test_a_node_certificate_lasts_a_year(self):
        pem = self.root.issue_node(generate().public_key(), CLUSTER, "c")
        now = dt.datetime.now(dt.UTC).timestamp()
        self.assertApproximates(days_left(pem, now), 365, 0.1)
        self.assertLess(days_left(pem, now + 20 * 365 * 86400), 0)

    def test_the_api_certificate_bears_names_and_addresses(self):
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        pem = self.root.issue_api(key, ["localhost", "192.0.2.1", "0:0::1"])
        self.assertEqual(names_of(pem), {"localhost", "192.0.2.1", "::1"})
        self.assertTrue(same_names(pem, ["::1", "localhost", "192.0.2.1"]))
        self.assertTrue(same_names(pem, ["0:0::1", "localhost", "192.0.2.1"]))
        self.assertFalse(same_names(pem, ["localhost"]))
        self.assertTrue(self.root.issued(pem))

    def test_what_another_root_issued_is_not_ours(self):
        other = RootCa.create(folder(self) / "trust", CLUSTER)
        self.assertFalse(self.root.issued(other.issue_node(generate().public_key(), CLUSTER, "c")))
        self.assertFalse(self.root.issued(b"nonsense"))
        self.assertFalse(bears_key(b"nonsense", generate().public_key()))

    def test_a_serial_is_the_certificates_own_in_hexadecimal(self):
        pem = self.root.issue_node(generate().public_key(), CLUSTER, "c")
        self.assertEqual(int(serial_of(pem), 16), x509.load_pem_x509_certificate(pem).serial_number)

    def test_an_absurdly_long_name_does_not_break_issuing(self):
        pem = self.root.issue_node(generate().public_key(), CLUSTER, "c" * 300)
        self.assertTrue(self.root.issued(pem))

    def test_every_error_reads_as_a_sentence(self):
        for failure in (
            RootKeyOfflineError(path=self.root.key_path),
            RootKeyLockedError(path=self.root.key_path),
            RootKeyPlainError(path=self.root.key_path),
            PassphraseEmptyError(),
        ):
            self.assertIsInstance(failure, AvinetError)
            self.assertNotIn("{", str(failure))
