"""Registration requests: exactly two signatures, by exactly the two right keys."""

import base64
import hashlib
import hmac
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import AvinetError, Kind
from avinet.model.ids import ImageId
from avinet.trust.keys import InvalidKeyError, public_line, thumbprint
from avinet.trust.registration import (
    REGISTRATION_TYPE,
    Claims,
    SignatureCountError,
    SignerError,
    open_request,
    sign_request,
)
from avinet.trust.signed_request import MAX_REQUEST_BYTES, RequestMalformedError, SignatureInvalidError
from tests.unit.signing_kit import CLUSTER, line

IMAGE_KEY, SE_KEY, STRANGER = (Ed25519PrivateKey.generate() for _ in range(3))
HOST_KEY = line()


def claims(**more):
    values = {
        "cluster": CLUSTER,
        "image": ImageId("image-1"),
        "se_key": public_line(SE_KEY.public_key()),
        "se_host_key": HOST_KEY,
        "token": "avt1.000000000000.secret",
        "nonce": "n",
        "issued_at": 1,
    }
    return Claims(**{**values, **more})


def find(image):
    assert image == "image-1"
    return IMAGE_KEY.public_key()


def opened(body):
    return open_request(body, find)


def b64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def signature(key, payload, header=None, **changes):
    """One signature object, made honestly over a header that may not be."""
    fields = (
        header
        if header is not None
        else {
            "alg": "Ed25519",
            "typ": REGISTRATION_TYPE,
            "kid": thumbprint(key.public_key()),
            **changes,
        }
    )
    protected = b64(json.dumps(fields).encode())
    return {"protected": protected, "signature": b64(key.sign(f"{protected}.{payload}".encode()))}


def document(*signers, payload=None, **more):
    encoded = b64(json.dumps(payload or plain(claims())).encode())
    made = {"payload": encoded, "signatures": [signature(key, encoded, **h) for key, h in signers]}
    return {**made, **more}


def plain(value):
    return {name: getattr(value, name) for name in value.__struct_fields__}


def body(value):
    return json.dumps(value).encode()


GOOD = json.loads(sign_request(claims(), IMAGE_KEY, SE_KEY))


class Honest(SynchronousTestCase):
    def test_a_signed_request_opens(self):
        self.assertEqual(opened(sign_request(claims(), IMAGE_KEY, SE_KEY)), claims())

    def test_the_order_of_the_signatures_means_nothing(self):
        self.assertEqual(opened(body({**GOOD, "signatures": GOOD["signatures"][::-1]})), claims())

    def test_one_made_by_hand_from_the_rfc_opens(self):
        self.assertEqual(opened(body(document((IMAGE_KEY, {}), (SE_KEY, {})))), claims())

    def test_neither_token_nor_nonce_is_in_the_repr(self):
        self.assertNotIn("secret", repr(claims()))

    def test_an_unknown_image_is_the_callers_error(self):
        class UnknownError(AvinetError):
            """Unknown."""

        def refuse(image):
            raise UnknownError

        self.assertRaises(UnknownError, open_request, body(GOOD), refuse)


class Signatures(SynchronousTestCase):
    def denied(self, error, value):
        why = self.assertRaises(error, opened, value if isinstance(value, bytes) else body(value))
        self.assertNotIn("secret", str(why))
        return why

    def test_the_wrong_image_key_is_refused(self):
        why = self.denied(SignerError, sign_request(claims(), STRANGER, SE_KEY))
        self.assertEqual((why.missing, why.kind), ("the image key", Kind.DENIED))

    def test_the_wrong_se_key_is_refused(self):
        why = self.denied(SignerError, sign_request(claims(), IMAGE_KEY, STRANGER))
        self.assertIn("own key", why.missing)

    def test_one_signature_taken_away_is_refused_whichever(self):
        for kept in GOOD["signatures"]:
            why = self.denied(SignatureCountError, {**GOOD, "signatures": [kept]})
            self.assertEqual(why.count, 1)

    def test_no_signature_is_refused(self):
        self.denied(SignatureCountError, {**GOOD, "signatures": []})

    def test_a_third_signature_is_refused_though_all_verify(self):
        third = signature(STRANGER, GOOD["payload"])
        why = self.denied(SignatureCountError, {**GOOD, "signatures": [*GOOD["signatures"], third]})
        self.assertEqual(why.count, 3)

    def test_one_signature_twice_is_refused(self):
        for one in GOOD["signatures"]:
            self.denied(SignerError, {**GOOD, "signatures": [one, one]})

    def test_swapped_kids_are_refused(self):
        kids = [thumbprint(key.public_key()) for key in (SE_KEY, IMAGE_KEY)]
        value = document((IMAGE_KEY, {"kid": kids[0]}), (SE_KEY, {"kid": kids[1]}))
        self.denied(SignatureInvalidError, value)

    def test_one_key_under_both_kids_is_refused(self):
        value = document((IMAGE_KEY, {}), (IMAGE_KEY, {"kid": thumbprint(SE_KEY.public_key())}))
        self.denied(SignatureInvalidError, value)

    def test_the_image_key_as_se_key_is_refused(self):
        same = claims(se_key=public_line(IMAGE_KEY.public_key()))
        value = document((IMAGE_KEY, {}), (IMAGE_KEY, {}), payload=plain(same))
        self.denied(SignerError, value)

    def test_a_stranger_beside_one_right_key_is_refused(self):
        self.denied(SignerError, document((IMAGE_KEY, {}), (STRANGER, {})))
        self.denied(SignerError, document((STRANGER, {}), (SE_KEY, {})))

    def test_either_signature_damaged_is_refused(self):
        for at in (0, 1):
            signatures = [dict(s) for s in GOOD["signatures"]]
            text = signatures[at]["signature"]
            signatures[at]["signature"] = ("A" if text[0] != "A" else "B") + text[1:]
            self.denied(SignatureInvalidError, {**GOOD, "signatures": signatures})

    def test_an_empty_or_short_signature_is_refused(self):
        for text in ("", "AAAA", "=", "!"):
            signatures = [{**GOOD["signatures"][0], "signature": text}, GOOD["signatures"][1]]
            self.assertRaises(AvinetError, opened, body({**GOOD, "signatures": signatures}))

    def test_altered_claims_are_refused(self):
        for changed in (
            {"token": "avt1.111111111111.other"},
            {"nonce": "m"},
            {"cluster": "other"},
            {"issued_at": 2},
            {"se_host_key": line()},
        ):
            payload = b64(json.dumps(plain(claims(**changed))).encode())
            self.denied(SignatureInvalidError, {**GOOD, "payload": payload})

    def test_a_bound_key_put_in_later_is_refused(self):
        payload = b64(json.dumps(plain(claims(se_key=line()))).encode())
        self.denied(SignerError, {**GOOD, "payload": payload})


class Headers(SynchronousTestCase):
    def test_other_algorithms_are_refused_though_signed(self):
        for alg in ("none", "None", "", "HS256", "EdDSA", "ES256", "Ed448"):
            why = self.assertRaises(
                RequestMalformedError, opened, body(document((IMAGE_KEY, {"alg": alg}), (SE_KEY, {})))
            )
            self.assertIn("algorithm", str(why))

    def test_an_hmac_keyed_with_the_public_key_is_refused(self):
        kid = thumbprint(IMAGE_KEY.public_key())
        protected = b64(json.dumps({"alg": "HS256", "typ": REGISTRATION_TYPE, "kid": kid}).encode())
        mac = hmac.digest(
            IMAGE_KEY.public_key().public_bytes_raw(),
            f"{protected}.{GOOD['payload']}".encode(),
            hashlib.sha256,
        )
        forged = {"protected": protected, "signature": b64(mac)}
        value = {**GOOD, "signatures": [forged, GOOD["signatures"][1]]}
        self.assertRaises(RequestMalformedError, opened, body(value))

    def test_a_signature_for_another_purpose_is_refused(self):
        for typ in ("", "JWT", "avinet-membership+jws"):
            value = document((IMAGE_KEY, {}), (SE_KEY, {"typ": typ}))
            why = self.assertRaises(RequestMalformedError, opened, body(value))
            self.assertIn("another purpose", str(why))

    def test_missing_and_additional_header_fields_are_refused(self):
        whole = {"alg": "Ed25519", "typ": REGISTRATION_TYPE, "kid": thumbprint(SE_KEY.public_key())}
        headers = [{n: v for n, v in whole.items() if n != left_out} for left_out in whole]
        headers += [
            {**whole, "crit": ["b64"], "b64": False},
            {**whole, "jwk": {}},
            {**whole, "jku": "https://x"},
            [],
            None,
            {**whole, "kid": 1},
        ]
        for header in headers:
            encoded = GOOD["payload"]
            one = signature(SE_KEY, encoded, header=header or {})
            if header is None:
                one["protected"] = b64(b"null")
            value = {**GOOD, "signatures": [GOOD["signatures"][0], one]}
            self.assertRaises(RequestMalformedError, opened, body(value))

    def test_an_unprotected_header_is_refused(self):
        first = {**GOOD["signatures"][0], "header": {"kid": "x"}}
        value = {**GOOD, "signatures": [first, GOOD["signatures"][1]]}
        self.assertRaises(RequestMalformedError, opened, body(value))

    def test_the_flattened_form_beside_the_general_is_refused(self):
        self.assertRaises(RequestMalformedError, opened, body({**GOOD, **GOOD["signatures"][0]}))


class Bodies(SynchronousTestCase):
    def test_an_oversized_body_is_refused(self):
        value = sign_request(claims(nonce="n" * MAX_REQUEST_BYTES), IMAGE_KEY, SE_KEY)
        why = self.assertRaises(RequestMalformedError, opened, value)
        self.assertIn(str(MAX_REQUEST_BYTES), str(why))

    def test_what_is_no_request_is_refused(self):
        for value in (
            b"",
            b"{}",
            b"[]",
            b"null",
            b"\xff\xfe",
            b'{"payload": "\xff", "signatures": []}',
            b"[" * 60_000,
            b'{"payload": ' + b"[" * 60_000,
            b'{"payload": 1, "signatures": []}',
            b'{"payload": "", "signatures": []}',
            b'{"payload": "\\u00e9", "signatures": []}',
            body({**GOOD, "signatures": {}}),
            body({**GOOD, "signatures": [None, None]}),
            body({**GOOD, "payload": GOOD["payload"] + "!"}),
            body({**GOOD, "payload": b64(b"\xff")}),
            body({**GOOD, "payload": b64(b'{"cluster": "\xff"}')}),
            body({**GOOD, "payload": b64(b"{}")}),
            body({**GOOD, "payload": b64(b"[" * 40_000)}),
            b"eyJhbGciOiJub25lIn0.e30.",
        ):
            self.assertRaises(RequestMalformedError, opened, value)

    def test_a_body_cut_at_any_byte_is_refused(self):
        whole = body(GOOD)
        for end in range(0, len(whole), 17):
            self.assertRaises(RequestMalformedError, opened, whole[:end])

    def test_claims_left_out_or_unknown_are_refused(self):
        whole = plain(claims())
        for left_out in set(whole) - {"token"}:
            payload = {n: v for n, v in whole.items() if n != left_out}
            self.refused(payload)
        self.refused({**whole, "admin": True})
        self.refused({**whole, "issued_at": "yesterday"})
        self.refused({**whole, "token": 1})

    def refused(self, payload):
        value = document((IMAGE_KEY, {}), (SE_KEY, {}), payload=payload)
        self.assertRaises(RequestMalformedError, opened, body(value))

    def test_keys_that_are_none_are_refused(self):
        for changed in ({"se_key": "ssh-ed25519 AAAA"}, {"se_host_key": ""}, {"se_key": "ssh-rsa AAAA"}):
            value = document((IMAGE_KEY, {}), (SE_KEY, {}), payload=plain(claims(**changed)))
            self.assertRaises(InvalidKeyError, opened, body(value))

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_no_bytes_make_it_fail_otherwise(self, data):
        self.assertRaises(AvinetError, opened, data)
        self.assertRaises(AvinetError, opened, body({**GOOD, "payload": b64(data)}))
        one = {**GOOD["signatures"][0], "protected": b64(data)}
        self.assertRaises(AvinetError, opened, body({**GOOD, "signatures": [one, GOOD["signatures"][1]]}))

    @settings(deadline=None)
    @given(
        st.recursive(
            st.none() | st.text() | st.integers() | st.floats(allow_nan=False),
            lambda s: st.lists(s) | st.dictionaries(st.text(), s),
        )
    )
    def test_no_json_makes_it_fail_otherwise(self, value):
        self.assertRaises(AvinetError, opened, body(value))
        self.assertRaises(AvinetError, opened, body({**GOOD, "signatures": value}))
