"""What a controller says of itself to whoever signs the membership list: a JWS with one signature, by its node key.

With a token it asks to become a member; without, it is one, and tells what has changed: an address, a port, a key, or a
certificate that nears its end.  Either way the signature proves that it has the node key for which it wants a
certificate.  The other keys are only named: whoever names a key that is not its own locks itself out.
"""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Self

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ClusterId, ControllerName
from avinet.model.membership import Controller
from avinet.trust.jose import sign_general
from avinet.trust.keys import InvalidKeyError, parse_line, thumbprint
from avinet.trust.signed_request import SignedRequest

JOINING_TYPE = "avinet-joining+jws"
MANIFEST_WISH_TYPE = "avinet-manifest-wish+jws"
"""A member asks for the root's signature of an image's manifest."""

_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")]
"""As the setting ``[controller] name``."""
_Host = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:%*-]{1,253}\Z")]
_Hosts = Annotated[tuple[_Host, ...], msgspec.Meta(min_length=1, max_length=32)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
_StatePort = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
_Short = Annotated[str, msgspec.Meta(max_length=1_000)]


class ControllerClaims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One controller, by its own word.  Keys are OpenSSH lines without comment, ``api_key`` alone is PEM."""

    cluster: ClusterId
    name: _Name
    addresses: _Hosts
    ssh_port: _Port
    registration_port: _Port
    reverse_port: _Port
    state_client_port: _StatePort = 0
    state_peer_port: _StatePort = 0
    node_key: _Short
    ssh_host_key: _Short
    id_se: _Short
    id_controller: _Short
    state_key: _Short = ""
    """Its state engine's; empty where it has none."""
    api_key: _Short = ""
    """Its operator API's, for which it wants a certificate; empty where the operator has put one there."""
    api_names: tuple[_Host, ...] = ()
    software: _Short = ""
    token: _Short | None = None
    nonce: _Short
    issued_at: int
    """UNIX seconds by its own clock."""

    def __repr__(self) -> str:
        """Without the token."""
        return f"ControllerClaims(cluster={self.cluster!r}, name={self.name!r})"

    @classmethod
    def of(cls, me: Controller, **more: Any) -> Self:
        """What ``me`` is in the list; ``more`` is what is not there."""
        entry = {f: getattr(me, f) for f in me.__struct_fields__ if f != "node_certificate"}
        return cls(**entry, **more)

    def controller(self, node_certificate: str) -> Controller:
        """Its entry in the membership list."""
        return Controller(
            name=ControllerName(self.name),
            addresses=self.addresses,
            ssh_port=self.ssh_port,
            registration_port=self.registration_port,
            reverse_port=self.reverse_port,
            node_certificate=node_certificate,
            ssh_host_key=self.ssh_host_key,
            id_se=self.id_se,
            id_controller=self.id_controller,
            state_client_port=self.state_client_port,
            state_peer_port=self.state_peer_port,
        )


@error
class NodeSignerError(AvinetError):
    """The request is not signed by the node key that it names, and by that alone."""

    kind: ClassVar[Kind] = Kind.DENIED


def sign_claims(claims: ControllerClaims, node_key: Ed25519PrivateKey) -> bytes:
    """The body to send, and to send again."""
    return msgspec.json.encode(sign_general(msgspec.json.encode(claims), (node_key,), JOINING_TYPE))


def open_claims(body: bytes) -> ControllerClaims:
    """The claims of a request that bears exactly the signature of the node key that it names.

    Whether the cluster is ours, the token is live and the name is free is for the caller to judge.
    """
    request = SignedRequest.read(body)
    claims = request.claims(ControllerClaims)
    node_key = parse_line(claims.node_key)
    for line in (claims.ssh_host_key, claims.id_se, claims.id_controller):
        parse_line(line)
    if claims.state_key:
        parse_line(claims.state_key)
    if claims.api_key:
        parse_api_key(claims.api_key)
    kid = thumbprint(node_key)
    if request.count != 1 or request.kids(JOINING_TYPE) != {kid}:
        raise NodeSignerError
    request.verify({kid: node_key})
    return claims


def sign_manifest_wish(manifest: bytes, node_key: Ed25519PrivateKey) -> bytes:
    """The body that asks for the root's signature of ``manifest``."""
    return msgspec.json.encode(sign_general(manifest, (node_key,), MANIFEST_WISH_TYPE))


def open_manifest_wish(body: bytes, members: Iterable[Controller]) -> bytes:
    """The manifest that one of ``members``, and nobody else, asks for; ``NodeSignerError`` when none of them does."""
    request = SignedRequest.read(body)
    keys: dict[str, Ed25519PublicKey] = {thumbprint(key): key for key in map(node_key_of, members)}
    kids = request.kids(MANIFEST_WISH_TYPE)
    if request.count != 1 or not kids <= keys.keys():
        raise NodeSignerError
    request.verify({kid: keys[kid] for kid in kids})
    return request.payload


def node_key_of(controller: Controller) -> Ed25519PublicKey:
    """A member's node key."""
    key = x509.load_pem_x509_certificate(controller.node_certificate.encode()).public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise NodeSignerError
    return key


def parse_api_key(pem: str) -> EllipticCurvePublicKey:
    """The operator API's public key; P-256, as browsers take."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as why:
        raise InvalidKeyError(what="the operator API's public key is not PEM") from why
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise InvalidKeyError(what="the operator API's public key is not ECDSA P-256")
    return key
