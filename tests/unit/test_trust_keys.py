import base64
import hashlib
import shutil
import subprocess

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from avinet.trust import keys
from avinet.trust.files import FileExposedError
from tests.unit.trust_kit import folder, mode


class PublicKeys(SynchronousTestCase):
    def test_the_thumbprint_is_the_one_of_rfc_8037_appendix_a_3(self):
        x = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
        found = keys.thumbprint(Ed25519PublicKey.from_public_bytes(x))
        self.assertEqual(found, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")

    def test_a_line_is_read_back_as_the_same_key(self):
        key = keys.generate().public_key()
        self.assertEqual(keys.parse_line(keys.public_line(key)), key)

    def test_what_is_not_exactly_a_line_is_refused(self):
        line = keys.public_line(keys.generate().public_key())
        ecdsa = ec.generate_private_key(ec.SECP256R1()).public_key()
        bad = [
            "",
            " ",
            line + " comment",
            line + "\n",
            "restrict " + line,
            line.replace("ssh-ed25519 ", "ssh-rsa "),
            line[:-4],
            line[:-1] + "=",
            line[:30] + "\u00e9" + line[31:],
            line + "A" * 500,
            keys.public_line(ecdsa),
        ]
        for text in bad:
            with self.subTest(text=text):
                self.assertRaises(keys.InvalidKeyError, keys.parse_line, text)

    def test_the_fingerprint_is_the_hash_of_the_blob(self):
        key = keys.generate().public_key()
        digest = hashlib.sha256(keys.key_blob(keys.public_line(key))).digest()
        self.assertEqual(keys.fingerprint(key), "SHA256:" + base64.b64encode(digest).decode().rstrip("="))

    def test_ssh_keygen_reads_the_file_and_agrees_on_line_and_fingerprint(self):
        if shutil.which("ssh-keygen") is None:
            raise SkipTest("needs openssh-client: make test-deps")
        path = folder(self) / "id"
        key = keys.load_or_create(path)
        line = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, check=True).stdout
        shown = subprocess.run(["ssh-keygen", "-l", "-f", path], capture_output=True, check=True).stdout
        self.assertEqual(line.decode().split()[:2], keys.public_line(key.public_key()).split())
        self.assertIn(keys.fingerprint(key.public_key()), shown.decode())


class PrivateKeys(SynchronousTestCase):
    def setUp(self):
        self.path = folder(self) / "id"

    def test_a_key_is_made_once_and_0600(self):
        first = keys.load_or_create(self.path)
        again = keys.load_or_create(self.path)
        self.assertEqual(first.public_key(), again.public_key())
        self.assertEqual(mode(self.path), 0o600)

    def test_a_key_that_others_can_read_is_refused(self):
        keys.load_or_create(self.path)
        self.path.chmod(0o644)
        self.assertRaises(FileExposedError, keys.load_or_create, self.path)

    def test_what_is_no_unencrypted_ed25519_key_is_refused_and_not_replaced(self):
        wrong_kind = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        )
        encrypted = keys.generate().private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"word")
        )
        whole = keys.openssh_private(keys.generate())
        for data in (b"", b"\0" * 400, wrong_kind, encrypted, whole[:100]):
            self.path.write_bytes(data)
            self.path.chmod(0o600)
            failure = self.assertRaises(keys.InvalidKeyError, keys.load_or_create, self.path)
            self.assertIn(str(self.path), str(failure))
            self.assertEqual(self.path.read_bytes(), data)
