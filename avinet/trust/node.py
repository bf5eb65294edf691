"""A controller's identity: every key and document that ``avinet init`` makes, and where it lies.

``init`` can be called again at any time: what exists is kept, what is missing is made, and what no longer says the
truth (an address, a port, a certificate about to end) is issued anew.  Each file is whole or absent and is written
before the one that refers to it, so a crash at any line leaves a state from which the next call goes on.
"""

import hashlib
import secrets
import time
from pathlib import Path
from typing import ClassVar, TypeVar

import attrs
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ClusterId, ControllerName, new_cluster_id
from avinet.model.membership import Controller, Membership
from avinet.trust import keys
from avinet.trust.ca import RootCa, bears_key, days_left, same_names
from avinet.trust.files import private_dir, read_private, write_private, write_public
from avinet.trust.local_list import may_sign, read_list, sign_list, unsigned

RENEW_DAYS = 60.0
"""A certificate is issued anew when it has less than this left: six chances if the controller restarts monthly."""
ADMIN_USER = "admin"
PASSWORD_BYTES = 18
"""144 bits: nobody guesses it, and it is 24 characters to type once."""
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**15, 8, 1
"""OWASP's 2023 figure: 32 MiB and about 80 ms a guess."""

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


@error
class NotInitialisedError(AvinetError):
    """There is no controller in {state}. Make one: avinet init --state {state}."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    state: Path


@error
class IdentityDamagedError(AvinetError):
    """{path} does not hold what it should: {why}. Restore the state folder from a backup."""

    path: Path
    why: str


@error
class JoinUnfinishedError(AvinetError):
    """{state} belongs to a controller that has begun to join a cluster. Finish that with the same bundle: avinet cluster join BUNDLE --state {state}; or delete the folder."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    state: Path


@attrs.frozen
class ControllerPaths:
    """Every file of a controller's state folder by what it is."""

    state: Path

    def __attrs_post_init__(self) -> None:
        for name, relative in _FILES.items():
            object.__setattr__(self, name, self.state / relative)

    cluster: Path = attrs.field(init=False)
    joining: Path = attrs.field(init=False)
    root_key: Path = attrs.field(init=False)
    root_pem: Path = attrs.field(init=False)
    node_key: Path = attrs.field(init=False)
    node_pem: Path = attrs.field(init=False)
    membership: Path = attrs.field(init=False)
    host_key: Path = attrs.field(init=False)
    id_se: Path = attrs.field(init=False)
    id_controller: Path = attrs.field(init=False)
    known_hosts: Path = attrs.field(init=False)
    aviseuser_keys: Path = attrs.field(init=False)
    avictlruser_keys: Path = attrs.field(init=False)
    api_key: Path = attrs.field(init=False)
    api_pem: Path = attrs.field(init=False)
    api_socket: Path = attrs.field(init=False)
    admin: Path = attrs.field(init=False)
    admin_password: Path = attrs.field(init=False)
    store: Path = attrs.field(init=False)
    events: Path = attrs.field(init=False)
    audit: Path = attrs.field(init=False)
    pid: Path = attrs.field(init=False)
    local_cloud: Path = attrs.field(init=False)
    logs: Path = attrs.field(init=False)


_FILES = {
    "cluster": "cluster.json",
    "joining": "joining.json",
    "root_key": "trust/root.key",
    "root_pem": "trust/root.pem",
    "node_key": "trust/node.key",
    "node_pem": "trust/node.pem",
    "membership": "trust/membership.jws",
    "host_key": "ssh/ssh_host_ed25519_key",
    "id_se": "ssh/id_se",
    "id_controller": "ssh/id_controller",
    "known_hosts": "ssh/known_hosts",
    "aviseuser_keys": "ssh/aviseuser.authorized_keys",
    "avictlruser_keys": "ssh/avictlruser.authorized_keys",
    "api_key": "api/api.key",
    "api_pem": "api/api.pem",
    "api_socket": "api.sock",
    "admin": "admin.json",
    "admin_password": "admin.password",
    "store": "store.db",
    "events": "events.db",
    "audit": "audit.db",
    "pid": "controller.pid",
    "local_cloud": "local",
    "logs": "logs",
}


@attrs.frozen(kw_only=True)
class NodeFacts:
    """What a controller's settings say about how others reach it."""

    name: ControllerName
    addresses: tuple[str, ...]
    addresses_guessed: bool = False
    """They are this machine's name, since no setting says; a guess is no reason to need the root key."""
    ssh_port: int
    registration_port: int
    reverse_port: int
    state_client_port: int = 0
    state_peer_port: int = 0
    """Of its state engine on 127.0.0.1; 0 without one."""
    api_names: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    """Host names and addresses that the operator API's certificate bears."""

    def entry(
        self,
        name: ControllerName,
        node_certificate: str,
        host_key: str,
        id_se: str,
        id_controller: str,
    ) -> Controller:
        """The controller called ``name``, which may be an older name than the settings', with its keys' lines."""
        return Controller(
            name=name,
            addresses=self.addresses,
            ssh_port=self.ssh_port,
            registration_port=self.registration_port,
            reverse_port=self.reverse_port,
            node_certificate=node_certificate,
            ssh_host_key=host_key,
            id_se=id_se,
            id_controller=id_controller,
            state_client_port=self.state_client_port,
            state_peer_port=self.state_peer_port,
        )


class _Cluster(msgspec.Struct, frozen=True):
    cluster: ClusterId
    name: ControllerName


class Admin(msgspec.Struct, frozen=True, kw_only=True):
    """The first operator: a name, and what verifies the password (scrypt, hexadecimal)."""

    user: str
    salt: str
    hash: str
    n: int = SCRYPT_N
    r: int = SCRYPT_R
    p: int = SCRYPT_P

    def __repr__(self) -> str:
        return f"Admin(user={self.user!r})"


@attrs.frozen(kw_only=True)
class ControllerIdentity:
    """A controller's keys and documents, loaded."""

    paths: ControllerPaths
    cluster: ClusterId
    name: ControllerName
    root: RootCa
    node_key: Ed25519PrivateKey = attrs.field(repr=False)
    node_pem: bytes
    host_key: Ed25519PrivateKey = attrs.field(repr=False)
    id_se: Ed25519PrivateKey = attrs.field(repr=False)
    id_controller: Ed25519PrivateKey = attrs.field(repr=False)
    membership: Membership
    """As the local copy has it; while a controller runs, see what it has in memory (``avinet.controller.members``)."""
    membership_document: str = attrs.field(repr=False)
    me: Controller
    """What the list should say of this controller.  It may say something else yet: in a cluster only what is in the
    store is signed anew."""
    admin: Admin

    @classmethod
    def init(
        cls, state: Path, facts: NodeFacts, passphrase: bytes | None = None, *, sign: bool = True
    ) -> "ControllerIdentity":
        """Make whatever is missing, renew whatever is no longer true, and load the rest.

        Without ``sign`` the list stays as it is, which is for a controller that runs: it has the list from its store.
        """
        paths = ControllerPaths(state)
        if paths.joining.exists() and not paths.cluster.exists():
            raise JoinUnfinishedError(state=state)
        for folder in (state, paths.root_pem.parent, paths.host_key.parent, paths.api_pem.parent):
            private_dir(folder)
        if paths.node_pem.exists() and not paths.root_pem.exists():
            # To make another root now would cut off every SE that trusts the first.
            raise IdentityDamagedError(path=paths.root_pem, why="it is gone, though it signed node.pem")
        if paths.root_pem.exists() and not paths.cluster.exists():
            raise IdentityDamagedError(path=paths.cluster, why="it is gone, though its root is there")
        cluster = _cluster(paths, facts.name)
        root = RootCa.create(paths.root_pem.parent, cluster.cluster, passphrase)
        before = read_list(paths.membership, root, cluster.cluster, cluster.name)
        node_key, node_pem = _node(paths, root, cluster, None if before is None else before.membership)
        host_key = keys.load_or_create(paths.host_key)
        id_se = keys.load_or_create(paths.id_se)
        id_controller = keys.load_or_create(paths.id_controller)
        mine = ((paths.host_key, host_key), (paths.id_se, id_se), (paths.id_controller, id_controller))
        for path, key in mine:
            _public_half(path, keys.public_line(key.public_key()), cluster.name)
        public = [keys.public_line(key.public_key()) for _, key in mine]
        me = facts.entry(cluster.name, node_pem.decode(), *public)
        if before is not None and not root.has_key:
            me = unsigned(me, before.membership, guessed=facts.addresses_guessed)
        listed = before
        if listed is None or (sign and may_sign(listed.membership, me)):
            listed = sign_list(paths.membership, root, before, me, cluster.cluster)
        _api(paths, root, facts.api_names)
        return cls(
            paths=paths,
            cluster=cluster.cluster,
            name=cluster.name,
            root=root,
            node_key=node_key,
            node_pem=node_pem,
            host_key=host_key,
            id_se=id_se,
            id_controller=id_controller,
            membership=listed.membership,
            membership_document=listed.document,
            me=me,
            admin=_admin(paths, joined=len(listed.membership.controllers) > 1 and not root.has_key),
        )

    @property
    def root_pem(self) -> bytes:
        """The root certificate."""
        return self.root.pem


def read_cluster(state: Path) -> tuple[ClusterId, ControllerName]:
    """Whose state folder it is; ``NotInitialisedError`` when nobody's."""
    paths = ControllerPaths(state)
    if not paths.cluster.exists():
        raise NotInitialisedError(state=state)
    found = _decode(paths.cluster, _Cluster)
    return found.cluster, found.name


def _decode(path: Path, kind: type[_Struct]) -> _Struct:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as why:
        raise IdentityDamagedError(path=path, why=str(why)) from why


def _cluster(paths: ControllerPaths, name: ControllerName) -> _Cluster:
    if paths.cluster.exists():
        return _decode(paths.cluster, _Cluster)
    made = _Cluster(new_cluster_id(), name)
    write_cluster(paths, made.cluster, made.name)
    return made


def write_cluster(paths: ControllerPaths, cluster: ClusterId, name: ControllerName) -> None:
    """Make a state folder that of a controller, for good."""
    write_public(paths.cluster, msgspec.json.encode(_Cluster(cluster, name)))


def _node(
    paths: ControllerPaths, root: RootCa, cluster: _Cluster, listed: Membership | None
) -> tuple[Ed25519PrivateKey, bytes]:
    key = keys.load_or_create(paths.node_key)
    known = None if listed is None else listed.by_name(cluster.name)
    if known is not None and not root.has_key:
        # Whoever signs the list has issued it: what is on disk is the same or older.
        pem = known.node_certificate.encode()
        if bears_key(pem, key.public_key()) and root.issued(pem):
            if not paths.node_pem.exists() or paths.node_pem.read_bytes() != pem:
                write_public(paths.node_pem, pem)
            return key, pem
    if paths.node_pem.exists():
        pem = paths.node_pem.read_bytes()
        good = bears_key(pem, key.public_key()) and root.issued(pem)
        if good and (days_left(pem, time.time()) > RENEW_DAYS or not root.has_key):
            return key, pem
    pem = root.issue_node(key.public_key(), cluster.cluster, cluster.name)
    write_public(paths.node_pem, pem)
    return key, pem


def _public_half(path: Path, line: str, comment: str) -> None:
    public = path.with_name(path.name + ".pub")
    text = f"{line} {comment}\n".encode()
    if not public.exists() or public.read_bytes() != text:
        write_public(public, text)


def load_or_create_api_key(path: Path) -> object:
    """The operator API's key: ECDSA P-256, or of whatever kind an operator has put there."""
    if path.exists():
        try:
            return load_pem_private_key(read_private(path), None)
        except (TypeError, ValueError, UnsupportedAlgorithm) as why:
            raise IdentityDamagedError(path=path, why="it is not an unencrypted PEM private key") from why
    key = ec.generate_private_key(ec.SECP256R1())
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def _api(paths: ControllerPaths, root: RootCa, names: tuple[str, ...]) -> None:
    """The operator API's own key and certificate; another certificate put there by the operator is left alone."""
    key = load_or_create_api_key(paths.api_key)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return
    if paths.api_pem.exists():
        pem = paths.api_pem.read_bytes()
        if not root.issued(pem) or not root.has_key:
            return
        fresh = days_left(pem, time.time()) > RENEW_DAYS and same_names(pem, names)
        if fresh and bears_key(pem, key.public_key()):
            return
    write_public(paths.api_pem, root.issue_api(key.public_key(), names))


def _admin(paths: ControllerPaths, *, joined: bool) -> Admin:
    if paths.admin.exists():
        return _decode(paths.admin, Admin)
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    salt = secrets.token_bytes(16)
    if joined:
        # The cluster has its users in the store; nobody is to look for a password here.
        return Admin(user=ADMIN_USER, salt=salt.hex(), hash=secrets.token_hex(32))
    made = Admin(user=ADMIN_USER, salt=salt.hex(), hash=password_hash(password, salt).hex())
    write_private(paths.admin_password, f"{password}\n".encode())
    write_private(paths.admin, msgspec.json.encode(made))
    return made


def password_hash(
    password: str, salt: bytes, n: int = SCRYPT_N, r: int = SCRYPT_R, p: int = SCRYPT_P
) -> bytes:
    """scrypt; blocks for tens of milliseconds, so not in a reactor's thread."""
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)
