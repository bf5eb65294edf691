"""The two keys that make this machine who it is: made at first boot, kept for ever, never sent."""

from typing import Self

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avinet.model.ids import Thumbprint
from avinet.se.paths import SePaths
from avinet.trust.files import private_dir
from avinet.trust.keys import fingerprint, load_or_create, public_line, thumbprint


@attrs.frozen
class SeIdentity:
    """The SSH client's key and the SSH server's."""

    se_key: Ed25519PrivateKey = attrs.field(repr=False)
    host_key: Ed25519PrivateKey = attrs.field(repr=False)

    @classmethod
    def load_or_create(cls, paths: SePaths) -> Self:
        """Load each key, or make it; a crash between the two leaves one that is loaded next time."""
        private_dir(paths.identity)
        return cls(load_or_create(paths.se_key), load_or_create(paths.host_key))

    @property
    def thumbprint(self) -> Thumbprint:
        """Of the SE key: the identity."""
        return thumbprint(self.se_key.public_key())

    @property
    def fingerprint(self) -> str:
        """What an operator compares before approving."""
        return fingerprint(self.se_key.public_key())

    @property
    def se_line(self) -> str:
        """The SE key's public half as an OpenSSH line."""
        return public_line(self.se_key.public_key())

    @property
    def host_line(self) -> str:
        """The host key's public half as an OpenSSH line."""
        return public_line(self.host_key.public_key())
