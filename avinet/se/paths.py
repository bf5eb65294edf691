"""Where an SE keeps what must survive: one folder, 0700, owned by one agent at a time."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import ClassVar, Self

import attrs

from avinet.errors import AvinetError, Kind, error
from avinet.trust.files import private_dir


@error
class StateFolderBusyError(AvinetError):
    """Another agent (pid {pid}) works with {folder}. Two agents must not share a state folder; give this one its own --state, or stop the other."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    folder: Path
    pid: str


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

    @property
    def lock(self) -> Path:
        """Held by the agent that works here."""
        return self.state / "lock"


@attrs.define(eq=False)
class StateLock:
    """A lock on a state folder that ends with the process, however that ends (flock(2))."""

    _descriptor: int

    @classmethod
    def take(cls, paths: SePaths) -> Self:
        """Lock the folder, made if need be; ``StateFolderBusyError`` names the process that has it."""
        private_dir(paths.state)
        descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as failure:
            pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StateFolderBusyError(folder=paths.state, pid=pid or "unknown") from failure
        with contextlib.suppress(OSError):  # on a full disk the lock counts all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let another agent work here."""
        os.close(self._descriptor)
