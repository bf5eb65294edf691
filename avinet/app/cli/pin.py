"""What ``avinet login`` keeps: where the controller is, the root certificate that was compared, and an access token.

One file, ``$XDG_CONFIG_HOME/avinet/login.json`` (0600 in a 0700 folder).  Whatever certificate the API presents later
must chain to that root; another one is refused, whoever signed it.
"""

import os
from pathlib import Path
from typing import ClassVar

import attrs
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from avinet.errors import AvinetError, Kind, error
from avinet.trust.files import private_dir, read_private, write_private

MAX_PEM_BYTES = 16 * 1024
"""Of a root certificate; ours has some 700."""


FINGERPRINT_ADVICE = (
    "`openssl x509 -noout -fingerprint -sha256 -in STATE/trust/root.pem` shows the right one on the controller's "
    "machine, as avinet init did."
)


@error
class RootChangedError(AvinetError):
    """The certificate at {place} does not come from the root that was pinned at the login ({fingerprint}): {why}. Somebody may stand between, or the cluster was made anew. Ask who runs it before you go on; then: avinet logout, and avinet login {place}."""

    kind: ClassVar[Kind] = Kind.DENIED
    place: str
    fingerprint: str
    why: str


@error
class FingerprintError(AvinetError):
    """The root certificate at {place} has the fingerprint {found}, not {wanted}. Nothing was sent to it. {how}"""

    kind: ClassVar[Kind] = Kind.DENIED
    place: str
    found: str
    wanted: str
    how: str = FINGERPRINT_ADVICE


@error
class NoRootError(AvinetError):
    """What {place} calls its root certificate is none: {why}. Is it an avinet controller?"""

    kind: ClassVar[Kind] = Kind.INVALID
    place: str
    why: str


@error
class LoginDamagedError(AvinetError):
    """{path} does not hold a login: {why}. Remove it and log in again."""

    kind: ClassVar[Kind] = Kind.INVALID
    path: Path
    why: str


class Pinned(msgspec.Struct, frozen=True, kw_only=True):
    """One login."""

    url: str
    root: str
    """PEM."""
    fingerprint: str
    user: str
    token: str
    token_id: str
    expires_at: float

    def __repr__(self) -> str:
        return f"Pinned(url={self.url!r}, user={self.user!r})"


def login_path() -> Path:
    """Where the login is kept."""
    base = os.environ.get("XDG_CONFIG_HOME") or ""
    # The XDG specification: a relative one is to be ignored.
    folder = Path(base) if Path(base).is_absolute() else Path.home() / ".config"
    return folder / "avinet" / "login.json"


def read_login() -> Pinned | None:
    """The login there is, if any."""
    path = login_path()
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(read_private(path), type=Pinned)
    except (msgspec.DecodeError, UnicodeDecodeError) as why:
        raise LoginDamagedError(path=path, why=str(why)) from why


def write_login(login: Pinned) -> Path:
    """Keep it, in place of any other."""
    path = login_path()
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    private_dir(path.parent)
    write_private(path, msgspec.json.encode(login))
    return path


@attrs.frozen
class Root:
    """A root certificate that somebody presented, and how people compare it."""

    pem: str
    fingerprint: str

    @classmethod
    def of(cls, pem: bytes, place: str) -> "Root":
        """``NoRootError`` unless it is one certificate of an authority."""
        try:
            if len(pem) > MAX_PEM_BYTES:
                raise NoRootError(place=place, why=f"it is over {MAX_PEM_BYTES} bytes")
            certificate = x509.load_pem_x509_certificate(pem)
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        except (ValueError, x509.ExtensionNotFound) as why:
            raise NoRootError(place=place, why=str(why)) from why
        if not constraints.value.ca:
            raise NoRootError(place=place, why="it is not a certificate authority's")
        return cls(pem.decode("ascii", "replace"), fingerprint_of(certificate))


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 as ``openssl x509 -fingerprint -sha256`` writes it."""
    return certificate.fingerprint(SHA256()).hex(":").upper()


def same_fingerprint(one: str, other: str) -> bool:
    """Whether two are the same, with or without colons, in whatever case."""
    return _bare(one) == _bare(other)


def _bare(fingerprint: str) -> str:
    text = fingerprint.strip().lower().rpartition("fingerprint=")[2]  # openssl's whole line
    return "".join(text.removeprefix("sha256").removeprefix(":").removeprefix("=").split(":"))
