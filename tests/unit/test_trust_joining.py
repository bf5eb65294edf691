"""A controller's word about itself, and the bundle that an operator carries to it."""

import json

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import AvinetError
from avinet.trust import bundle as bundles
from avinet.trust.bundle import Bundle, BundleDamagedError, BundleNewerError, read_bundle
from avinet.trust.files import FileExposedError, write_private
from avinet.trust.joining import JOINING_TYPE, ControllerClaims, NodeSignerError, open_claims, sign_claims
from avinet.trust.jose import BadDocumentError, sign_general
from avinet.trust.keys import InvalidKeyError, generate, public_line
from avinet.trust.membership import MembershipForeignError, sign_membership
from avinet.trust.signed_request import RequestMalformedError, SignatureInvalidError
from tests.unit import signing_kit
from tests.unit.signing_kit import CLUSTER, OTHER_CLUSTER, line

NODE_KEY, STRANGER = generate(), generate()


def api_key(curve):
    key = ec.generate_private_key(curve).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def claims(**more):
    values = {
        "cluster": CLUSTER,
        "name": "c2",
        "addresses": ("192.0.2.2",),
        "ssh_port": 22,
        "registration_port": 8443,
        "reverse_port": 5097,
        "node_key": public_line(NODE_KEY.public_key()),
        "ssh_host_key": line(),
        "id_se": line(),
        "id_controller": line(),
        "token": "avt1.000000000000.secret",
        "nonce": "n",
        "issued_at": 1,
    }
    return ControllerClaims(**values | more)


class Claims(SynchronousTestCase):
    def test_what_was_signed_is_what_is_read(self):
        said = claims(state_key=line(), api_key=api_key(ec.SECP256R1()), api_names=("*.example", "::1"))
        self.assertEqual(open_claims(sign_claims(said, NODE_KEY)), said)

    def test_only_the_node_key_may_sign_and_nobody_beside_it(self):
        for signers in ((), (STRANGER,), (NODE_KEY, STRANGER), (STRANGER, NODE_KEY)):
            if signers:
                document = sign_general(msgspec.json.encode(claims()), signers, JOINING_TYPE)
            else:
                document = json.loads(sign_claims(claims(), NODE_KEY)) | {"signatures": []}
            self.assertRaises(NodeSignerError, open_claims, msgspec.json.encode(document))

    def test_a_signature_for_another_purpose_or_other_words_does_not_count(self):
        other = sign_general(msgspec.json.encode(claims()), (NODE_KEY,), "avinet-registration+jws")
        self.assertRaises(RequestMalformedError, open_claims, msgspec.json.encode(other))
        mine = json.loads(sign_claims(claims(), NODE_KEY))
        mine["payload"] = json.loads(sign_claims(claims(name="c3"), NODE_KEY))["payload"]
        self.assertRaises(SignatureInvalidError, open_claims, msgspec.json.encode(mine))

    def test_what_cannot_be_is_refused(self):
        for odd in (
            {"name": ""},
            {"name": "../c"},
            {"addresses": ()},
            {"addresses": ("a b",)},
            {"ssh_port": 0},
            {"state_client_port": 65_536},
            {"api_names": ('"',)},
        ):
            self.assertRaises(RequestMalformedError, open_claims, sign_claims(claims(**odd), NODE_KEY))
        for odd in (
            {"id_controller": ""},
            {"state_key": "ssh-ed25519 AAAA"},
            {"api_key": "PEM"},
            {"api_key": api_key(ec.SECP384R1())},
        ):
            self.assertRaises(InvalidKeyError, open_claims, sign_claims(claims(**odd), NODE_KEY))

    def test_a_body_cut_anywhere_is_an_error_that_says_so(self):
        body = sign_claims(claims(), NODE_KEY)
        for length in range(0, len(body), 7):
            self.assertRaises(AvinetError, open_claims, body[:length])

    def test_the_token_is_in_no_repr(self):
        self.assertNotIn("secret", repr(claims()))
        self.assertNotIn("secret", repr(Files.bundle(signing_kit.root_in_memory())))


class Files(SynchronousTestCase):
    @staticmethod
    def bundle(root, /, **more):
        document = sign_membership(root.key, signing_kit.membership(root))
        values = {
            "cluster": CLUSTER,
            "root": root.pem.decode(),
            "membership": document,
            "controllers": ("192.0.2.1:8443",),
            "token": "avt1.000000000000.secret",
            "expires_at": 1.0,
        }
        return Bundle(**values | more)

    def write(self, data):
        path = signing_kit.folder(self) / "bundle.json"
        write_private(path, data if isinstance(data, bytes) else msgspec.json.encode(data))
        return path

    def test_what_was_written_is_what_is_read(self):
        whole = self.bundle(signing_kit.root_in_memory())
        self.assertEqual(read_bundle(self.write(whole)), whole)

    def test_one_of_a_later_release_reads_as_long_as_its_format_is_known(self):
        whole = msgspec.to_builtins(self.bundle(signing_kit.root_in_memory()))
        self.assertEqual(read_bundle(self.write(whole | {"more": 1})).cluster, CLUSTER)
        failure = self.assertRaises(BundleNewerError, read_bundle, self.write(whole | {"format": 2}))
        self.assertEqual((failure.found, failure.known), (2, bundles.FORMAT))

    def test_what_is_damaged_or_foreign_is_refused(self):
        root, other = signing_kit.root_in_memory(), signing_kit.root_in_memory()
        encoded = msgspec.json.encode(self.bundle(root))
        for length in range(0, len(encoded), 37):
            self.assertRaises(BundleDamagedError, read_bundle, self.write(encoded[:length]))
        for odd, expected in (
            ({"root": "no"}, BundleDamagedError),
            ({"controllers": ()}, BundleDamagedError),
            ({"root": other.pem.decode()}, BadDocumentError),
            ({"cluster": OTHER_CLUSTER}, MembershipForeignError),
        ):
            self.assertRaises(expected, read_bundle, self.write(self.bundle(root, **odd)))

    def test_one_that_others_could_read_is_refused(self):
        path = self.write(self.bundle(signing_kit.root_in_memory()))
        path.chmod(0o644)
        self.assertRaises(FileExposedError, read_bundle, path)
