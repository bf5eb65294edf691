import base64
import json

from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import OctKey, OKPKey
from twisted.trial.unittest import SynchronousTestCase

from avinet.trust.ca import RootCa
from avinet.trust.jose import MAX_DOCUMENT_BYTES, BadDocumentError, sign_compact, verify_compact
from avinet.trust.keys import generate
from avinet.trust.membership import (
    MEMBERSHIP_TYPE,
    MembershipConflictError,
    MembershipForeignError,
    MembershipOlderError,
    newer,
    sign_membership,
    verify_membership,
)
from tests.unit.trust_kit import CLUSTER, OTHER_CLUSTER, folder, membership


def b64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Lists(SynchronousTestCase):
    def setUp(self):
        self.root = RootCa.create(folder(self) / "trust", CLUSTER)

    def signed(self, *args, **kwargs):
        return sign_membership(self.root.key, membership(*args, **kwargs))

    def test_a_signed_list_is_read_back(self):
        listed = membership(7)
        document = sign_membership(self.root.key, listed)
        self.assertEqual(verify_membership(document, self.root.certificate, CLUSTER), listed)
        self.assertEqual(verify_membership(document + "\n", self.root.certificate), listed)

    def test_the_header_says_purpose_and_key_and_the_fully_specified_algorithm(self):
        header = json.loads(base64.urlsafe_b64decode(self.signed().split(".")[0] + "=="))
        self.assertEqual((header["alg"], header["typ"]), ("Ed25519", MEMBERSHIP_TYPE))

    def test_another_root_is_not_believed(self):
        stranger = RootCa.create(folder(self) / "trust", CLUSTER)
        self.assertRaises(BadDocumentError, verify_membership, self.signed(), stranger.certificate)

    def test_a_list_of_another_cluster_is_foreign(self):
        document = self.signed(cluster=OTHER_CLUSTER)
        failure = self.assertRaises(
            MembershipForeignError, verify_membership, document, self.root.certificate, CLUSTER
        )
        self.assertEqual((failure.offered, failure.expected), (OTHER_CLUSTER, CLUSTER))
        self.assertRaises(MembershipForeignError, newer, membership(), document, self.root.certificate)

    def test_a_signature_for_another_purpose_is_refused(self):
        document = sign_compact(b"{}", self.root.key, "avinet-image+jws")
        failure = self.assertRaises(BadDocumentError, verify_membership, document, self.root.certificate)
        self.assertIn("another purpose", str(failure))

    def test_a_signed_document_that_is_no_list_is_refused(self):
        for payload in (b"", b"[]", b'{"number": 1}', b"\xff"):
            document = sign_compact(payload, self.root.key, MEMBERSHIP_TYPE)
            self.assertRaises(BadDocumentError, verify_membership, document, self.root.certificate)

    def test_every_altered_byte_is_noticed(self):
        document = self.signed()
        for at in range(len(document)):
            letter = "A" if document[at] != "A" else "Q"
            altered = document[:at] + letter + document[at + 1 :]
            with self.subTest(at=at):
                self.assertRaises(BadDocumentError, verify_membership, altered, self.root.certificate)

    def test_every_truncation_is_noticed(self):
        document = self.signed()
        for length in range(0, len(document), 7):
            self.assertRaises(BadDocumentError, verify_membership, document[:length], self.root.certificate)

    def test_a_huge_document_is_refused_unread(self):
        failure = self.assertRaises(
            BadDocumentError, verify_membership, "a" * (MAX_DOCUMENT_BYTES + 1), self.root.certificate
        )
        self.assertIn("bytes", str(failure))

    def test_a_higher_number_is_taken(self):
        found = newer(membership(3), self.signed(4), self.root.certificate)
        self.assertEqual(found.number, 4)
        self.assertEqual(newer(None, self.signed(9), self.root.certificate).number, 9)

    def test_a_lower_number_is_refused_with_both_numbers(self):
        failure = self.assertRaises(
            MembershipOlderError, newer, membership(3), self.signed(2), self.root.certificate
        )
        self.assertEqual((failure.offered, failure.held), (2, 3))

    def test_the_same_list_again_is_no_news(self):
        held = membership(3)
        self.assertIs(newer(held, sign_membership(self.root.key, held), self.root.certificate), held)

    def test_the_same_number_with_other_content_is_refused(self):
        self.assertRaises(
            MembershipConflictError, newer, membership(3), self.signed(3), self.root.certificate
        )


class Algorithms(SynchronousTestCase):
    """The verifier says which algorithm holds, never the header."""

    def setUp(self):
        self.key = generate()

    def refused(self, document):
        self.assertRaises(BadDocumentError, verify_compact, document, self.key.public_key(), "t+jws")

    def test_no_algorithm_at_all_is_refused(self):
        self.refused(f"{b64(json.dumps({'alg': 'none', 'typ': 't+jws'}).encode())}.{b64(b'{}')}.")

    def test_the_public_key_as_a_mac_secret_is_refused(self):
        secret = OctKey.import_key(self.key.public_key().public_bytes_raw())
        self.refused(jws.serialize_compact({"alg": "HS256", "typ": "t+jws"}, b"{}", secret))

    def test_the_older_name_is_refused_though_the_signature_is_right(self):
        key = OKPKey(self.key, self.key, None)
        self.refused(
            jws.serialize_compact({"alg": "EdDSA", "typ": "t+jws"}, b"{}", key, algorithms=["EdDSA"])
        )

    def test_odd_headers_are_refused(self):
        rest = sign_compact(b"{}", self.key, "t+jws").split(".", 1)[1]
        for header in (
            b'"alg"', b'["alg"]', b"1", b"null", b"\xff", b"", b"{}", b'{"alg":1}', b'{"alg":["Ed25519"]}',
            b'{"alg":null}', b'{"alg":"Ed25519","crit":["b64"],"b64":false}', b'{"alg":"Ed25519","typ":1}',
            b'{"alg":"Ed25519","jwk":{}}',
        ):  # fmt: skip
            with self.subTest(header=header):
                self.refused(f"{b64(header)}.{rest}")

    @given(st.text(max_size=200))
    def test_any_text_is_refused_as_a_document_and_nothing_else(self, text):
        self.refused(text)

    @given(st.lists(st.binary(max_size=60), min_size=3, max_size=3))
    def test_any_three_parts_are_refused_as_a_document_and_nothing_else(self, parts):
        self.refused(".".join(b64(part) for part in parts))
