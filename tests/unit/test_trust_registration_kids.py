import base64

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from avinet.model.ids import ImageId
from avinet.trust.keys import generate, public_line, thumbprint
from avinet.trust.registration import (
    REGISTRATION_TYPE,
    Claims,
    SignerError,
    open_request,
)
from avinet.trust.signed_request import SignatureInvalidError
from tests.unit.trust_kit import CLUSTER


def b64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class KidsNamedTwice(SynchronousTestCase):
    """JSON lets a header name its kid twice, and decoders differ in which they take."""

    def test_whichever_a_decoder_takes_one_key_does_not_pass_for_two(self):
        image_key, se_key = generate(), generate()
        claims = Claims(
            cluster=CLUSTER,
            image=ImageId("image-1"),
            se_key=public_line(se_key.public_key()),
            se_host_key=public_line(generate().public_key()),
            nonce="0123456789abcdef",
            issued_at=0,
        )
        kids = [thumbprint(key.public_key()) for key in (image_key, se_key)]
        payload = b64(msgspec.json.encode(claims))
        signatures = []
        for first, last in (kids, kids[::-1], (kids[1], kids[1])):
            header = f'{{"alg":"Ed25519","typ":"{REGISTRATION_TYPE}","kid":"{first}","kid":"{last}"}}'
            protected = b64(header.encode())
            signed = se_key.sign(f"{protected}.{payload}".encode())
            signatures.append({"protected": protected, "signature": b64(signed)})
        for pair in (signatures[:2], signatures[1:], signatures[::2]):
            body = msgspec.json.encode({"payload": payload, "signatures": pair})
            self.assertRaises(
                (SignatureInvalidError, SignerError), open_request, body, lambda image: image_key.public_key()
            )
