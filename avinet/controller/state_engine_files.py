"""The state engine's folder: what lies where, and how far this controller's engine has come.

``state/etcd`` holds everything of it: CA, key, certificates and passwords (0600, written before etcd first runs), the
configuration that etcd reads, its log, and ``data``, which is etcd's own.  No secret is in an argument or in the
environment.  ``engine.json`` says how far it came, and each step is durable before the next begins, so that a crash
anywhere leaves a state from which the next start goes on:

``starting``   etcd may or may not have begun; what it holds is worth nothing yet.
``copying``    it runs, its passwords are set; a store from before is being copied into it, or was to be.
``serving``    it is this controller's store.  From here on, data that is gone is a loss and is said to be one.
"""

import secrets
import time
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import attrs
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ClusterId, ControllerName, Thumbprint
from avinet.trust.files import private_dir, read_private, sync_folder, write_private, write_public
from avinet.trust.state_ca import StateCa, belongs, load_certificate, load_or_create_tls_key
from avinet.wire.joining import StateAdmission

PASSWORD_BYTES = 24
"""192 bits; nobody types it."""
ROOT_USER = "root"
"""etcd's word for who may change users and members."""
USER = "avinet"
"""Reads and writes keys, and nothing else."""

Phase = Literal["starting", "copying", "serving"]
_Content = TypeVar("_Content")


@error
class EngineFilesDamagedError(AvinetError):
    """{path} does not hold what it should: {why}. Restore the folder from a backup; in a cluster, replace this controller: avinet cluster replace."""

    path: Path
    why: str


@error
class EngineDataLostError(AvinetError):
    """The state engine's data, {path}, is gone, though this controller has worked with it. Nothing was made anew in its place: that would forget every service engine. In a cluster, replace this controller from another one (avinet cluster replace); alone, restore a backup (docs/cluster.md, "State engine")."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    path: Path


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """``engine.json``."""

    phase: Phase
    initial_cluster: str
    """``name=peer URL`` of every member, as etcd wants it at its very first start."""
    joining: bool = False
    """Whether the cluster was there before this member."""
    heartbeat_ms: int = 0
    """By the round trips that were measured last; 0: none were."""
    external: bool = False
    """Whether others run etcd, and nothing but this file is here."""

    @property
    def binding(self) -> bool:
        """Whether the store is, or may be, in the state engine, whatever the settings say."""
        return self.phase != "starting" or self.joining


class Mark(msgspec.Struct, frozen=True):
    """``mark.json``: etcd cuts a damaged log where the damage begins, goes on without the rest, and says nothing."""

    raft_index: int


class Admitted(msgspec.Struct, frozen=True):
    """A member that this one let in: etcd knows no name of it before it ran, and no key."""

    peer_url: str
    key: Thumbprint


@attrs.frozen
class EngineFiles:
    """The folder of a controller's own etcd."""

    folder: Path

    @property
    def ca_key(self) -> Path:
        """Only where the first member was made."""
        return self.folder / "ca.key"

    @property
    def ca_pem(self) -> Path:
        """Whom members and clients believe."""
        return self.folder / "ca.pem"

    @property
    def key_file(self) -> Path:
        """This member's key, and its clients'."""
        return self.folder / "node.key"

    @property
    def certificate(self) -> Path:
        """Of that key."""
        return self.folder / "node.pem"

    def password(self, user: str) -> Path:
        """The file of a user's password, without a line's end."""
        return self.folder / f"{user}.password"

    @property
    def configuration(self) -> Path:
        """What etcd reads."""
        return self.folder / "etcd.json"

    @property
    def progress_file(self) -> Path:
        """How far it came."""
        return self.folder / "engine.json"

    @property
    def admitted_file(self) -> Path:
        """Whom this member let in."""
        return self.folder / "admitted.json"

    @property
    def mark_file(self) -> Path:
        """How far etcd's log was known to reach."""
        return self.folder / "mark.json"

    @property
    def log(self) -> Path:
        """What etcd says."""
        return self.folder / "etcd.log"

    @property
    def data(self) -> Path:
        """etcd's own."""
        return self.folder / "data"

    @property
    def secrets(self) -> tuple[Path, ...]:
        """What nobody else may read."""
        passwords = tuple(self.password(user) for user in (ROOT_USER, USER))
        return (self.folder, self.ca_key, self.key_file, *passwords, self.configuration, self.data)

    def progress(self) -> Progress | None:
        """How far it came; None when it never began."""
        return _decoded(self.progress_file, Progress)

    def reached(self, progress: Progress) -> None:
        """Write down, durably, how far it came."""
        write_private(self.progress_file, msgspec.json.encode(progress))

    def let_in(self) -> dict[str, Admitted]:
        """Whom this member let in, by name."""
        return _decoded(self.admitted_file, dict[str, Admitted]) or {}

    def keep_let_in(self, members: dict[str, Admitted]) -> None:
        """Write it down, durably."""
        write_private(self.admitted_file, msgspec.json.encode(members))

    def mark(self) -> int:
        """The newest entry of etcd's log that was known to be on disk; 0: none."""
        found = _decoded(self.mark_file, Mark)
        return 0 if found is None else found.raft_index

    def keep_mark(self, raft_index: int) -> None:
        """Write it down, durably."""
        write_private(self.mark_file, msgspec.json.encode(Mark(raft_index)))

    def make_first(self, cluster: ClusterId, name: ControllerName, peer_url: str) -> Progress:
        """Everything that a cluster's first member needs; what is there already is kept."""
        private_dir(self.folder)
        ca = StateCa.load_or_create(self.ca_key, self.ca_pem, cluster)
        key = load_or_create_tls_key(self.key_file)
        if not self._certified():
            write_public(self.certificate, ca.issue(key.public_key(), name))
        for user in (ROOT_USER, USER):
            if not self.password(user).exists():
                write_private(self.password(user), secrets.token_urlsafe(PASSWORD_BYTES).encode())
        progress = self.progress()
        if progress is None:
            if self._has_log():
                raise EngineFilesDamagedError(path=self.progress_file, why="it is gone, and there are data")
            progress = Progress(phase="starting", initial_cluster=f"{name}={peer_url}")
            self.reached(progress)
        return progress

    def key(self) -> Ed25519PublicKey:
        """Of a member to be, made now if there is none; another member signs a certificate over it."""
        private_dir(self.folder)
        return load_or_create_tls_key(self.key_file).public_key()

    def admitted(self, admission: StateAdmission) -> None:
        """Keep everything that a member needs which another one let in, over ``key``.

        Data of an earlier life is moved aside: a member is a new one to the others.
        """
        if self.data.exists():
            self.mark_file.unlink(missing_ok=True)
            self.data.rename(self.folder / time.strftime("data.before-%Y%m%dT%H%M%SZ", time.gmtime()))
            sync_folder(self.folder)
        write_public(self.ca_pem, admission.ca.encode())
        write_public(self.certificate, admission.certificate.encode())
        for user in (ROOT_USER, USER):
            write_private(self.password(user), admission.passwords[user].encode())
        members = ",".join(f"{name}={url}" for name, url in admission.members.items())
        self.reached(Progress(phase="starting", initial_cluster=members, joining=True))

    def check(self) -> Progress:
        """How far it came, once everything that etcd needs is known to be there; blocking, and quick."""
        progress = self.progress()
        if progress is None:
            raise EngineFilesDamagedError(path=self.progress_file, why="it is gone")
        for path in (self.key_file, self.password(ROOT_USER), self.password(USER)):
            read_private(path)
        if not self._certified():
            raise EngineFilesDamagedError(path=self.certificate, why="it is not its CA's for node.key")
        # Without its log etcd would begin anew, an empty cluster, and say nothing.
        if progress.phase == "serving" and not self._has_log():
            raise EngineDataLostError(path=self.data)
        return progress

    def _has_log(self) -> bool:
        return any((self.data / "member" / "wal").glob("*.wal"))

    def _certified(self) -> bool:
        if not self.certificate.exists():
            return False
        key = load_or_create_tls_key(self.key_file)
        return belongs(self.certificate.read_bytes(), load_certificate(self.ca_pem), key.public_key())


def engine_files(state: Path) -> EngineFiles:
    """The state engine's folder in a controller's."""
    return EngineFiles(state / "etcd")


def _decoded(path: Path, kind: type[_Content]) -> _Content | None:
    """None when there is no such file."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as why:
        raise EngineFilesDamagedError(path=path, why=str(why)) from why
