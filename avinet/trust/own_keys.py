"""The keys of a controller that is about to join a cluster: made in its state folder, only public halves leave it."""

import attrs
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from avinet.model.membership import Controller
from avinet.trust import keys
from avinet.trust.files import private_dir
from avinet.trust.node import ControllerPaths, NodeFacts, load_or_create_api_key


@attrs.frozen
class OwnKeys:
    """All that the membership list names of a controller."""

    node: Ed25519PrivateKey = attrs.field(repr=False)
    host: Ed25519PublicKey
    id_se: Ed25519PublicKey
    id_controller: Ed25519PublicKey

    @classmethod
    def load_or_create(cls, paths: ControllerPaths) -> "OwnKeys":
        """What is there is kept: a join that was cut goes on with the keys that it had."""
        for path in (paths.state, paths.node_key.parent, paths.host_key.parent, paths.api_key.parent):
            private_dir(path)
        node, host, id_se, id_controller = (
            keys.load_or_create(path)
            for path in (paths.node_key, paths.host_key, paths.id_se, paths.id_controller)
        )
        return cls(node, host.public_key(), id_se.public_key(), id_controller.public_key())

    def entry(self, facts: NodeFacts) -> Controller:
        """What the list is to say, but for the certificate."""
        lines = map(keys.public_line, (self.host, self.id_se, self.id_controller))
        return facts.entry(facts.name, "", *lines)


def api_public_key(paths: ControllerPaths) -> str:
    """The operator API's public key, PEM, made if there is none; empty for one that is not of the kind we issue."""
    key = load_or_create_api_key(paths.api_key)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        return ""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
