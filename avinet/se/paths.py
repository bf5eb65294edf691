"""Where an SE keeps what must survive: one folder, 0700, owned by one agent at a time."""

from pathlib import Path
from typing import ClassVar

import attrs

from avinet.errors import AvinetError, Kind, error
from avinet.trust.files import private_dir
from avinet.trust.locks import StateLock


@error
class StateDamagedError(AvinetError):
    """The state of this service engine at {path} is damaged: {detail}. Restore it, or delete the SE and enrol the machine anew with an empty --state."""

    kind: ClassVar[Kind] = Kind.INTERNAL
    path: Path
    detail: str


@attrs.frozen
class SePaths:
    """Every file of an SE's state folder by what it is."""

    state: Path

    @property
    def image(self) -> Path:
        """What came with the image: root certificate, membership list, image key until enrolled."""
        return self.state / "image"

    @property
    def root_certificate(self) -> Path:
        """PEM; the trust anchor."""
        return self.image / "root.pem"

    @property
    def membership(self) -> Path:
        """The newest membership list seen, a compact JWS."""
        return self.image / "membership.jws"

    @property
    def image_key(self) -> Path:
        """Signs the registration; destroyed once enrolled."""
        return self.image / "image.key"

    @property
    def manifest(self) -> Path:
        """What the image says about itself."""
        return self.image / "manifest.json"

    @property
    def identity(self) -> Path:
        """The keys that never leave."""
        return self.state / "identity"

    @property
    def se_key(self) -> Path:
        """The SSH client's key: the SE's identity."""
        return self.identity / "se.key"

    @property
    def host_key(self) -> Path:
        """The SSH server's key."""
        return self.identity / "se_host.key"

    @property
    def config(self) -> Path:
        """The last good configuration, encrypted, and where systemd cannot seal it the key."""
        return self.state / "config"

    @property
    def enrolment(self) -> Path:
        """Where enrolment stands."""
        return self.state / "enrolment"

    @property
    def meta_info(self) -> Path:
        """User data; the token in it is destroyed once enrolled."""
        return self.enrolment / "meta-info.json"

    @property
    def request(self) -> Path:
        """The signed request, kept as sent until answered."""
        return self.enrolment / "request.jws"

    @property
    def enrolled(self) -> Path:
        """The controller's answer; while it is there, the SE is enrolled."""
        return self.enrolment / "enrolled.json"


def lock_state(paths: SePaths) -> StateLock:
    """Make the folder if need be, and let no other agent work there; ``StateFolderBusyError`` names the one that does."""
    return StateLock.take(private_dir(paths.state), "agent")
