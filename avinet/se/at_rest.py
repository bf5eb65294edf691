"""What an SE keeps on disk, encrypted: the last good configuration holds the private keys of virtual services.

AES-256-GCM under a key of the machine's own.  Where systemd can seal a credential to this machine (``systemd-creds``, by
its TPM or by the host's key, which is on another disk or in another backup than ours), the key is kept as one.  Else it
is a 0600 file beside the data: that protects a copy of the data alone, and nothing more.

Blocking: called in a thread.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from twisted.logger import Logger

from avinet.trust.files import write_private

MAGIC = b"avinet-sealed-1\n"
KEY_BYTES = 32
_NONCE_BYTES = 12
_BOOTED = Path("/run/systemd/system")
"""Is there where systemd runs the machine (sd_booted(3)); elsewhere, in a container say, its host key means little."""
_CREDENTIAL = "avinet-se-at-rest"
_TIMEOUT_S = 20.0
"""A TPM takes a second or two."""
DECRYPT_TRIES = 5
DECRYPT_PAUSE_S = 3.0
"""A TPM that is busy or not there yet at boot answers within seconds.  Whoever gives up loses the configuration that the
SE serves without controllers, and a disk of another machine costs the tries once."""

_log = Logger()


class UnsealedError(Exception):
    """It is not what was sealed, or was sealed under another key."""


def is_sealed(data: bytes) -> bool:
    """Whether it was sealed, by whatever key."""
    return data.startswith(MAGIC)


@attrs.define(eq=False)
class Vault:
    """Seals for the folder ``folder``; the key is made at the first use."""

    folder: Path
    sleep: Callable[[float], None] = time.sleep
    _key: AESGCM | None = attrs.field(default=None, init=False, repr=False)

    def seal(self, data: bytes) -> bytes:
        """``data``, for ``unseal``."""
        nonce = os.urandom(_NONCE_BYTES)
        if self._key is None:
            self._key = AESGCM(self._load() or self._create())
        return MAGIC + nonce + self._key.encrypt(nonce, data, MAGIC)

    def unseal(self, sealed: bytes) -> bytes:
        """What was sealed; text that never was is given back as it is.  ``UnsealedError``; makes no key."""
        if not is_sealed(sealed):
            return sealed
        nonce, body = sealed[len(MAGIC) : len(MAGIC) + _NONCE_BYTES], sealed[len(MAGIC) + _NONCE_BYTES :]
        if self._key is None:
            key = self._load()
            if key is None:
                raise UnsealedError
            self._key = AESGCM(key)
        try:
            return self._key.decrypt(nonce, body, MAGIC)
        except (InvalidTag, ValueError) as why:
            raise UnsealedError from why

    @property
    def key_file(self) -> Path:
        """The key as a 0600 file, where systemd cannot seal one."""
        return self.folder / "at-rest.key"

    @property
    def credential(self) -> Path:
        """The key as systemd sealed it.  Of both, the file is the key."""
        return self.folder / "at-rest.cred"

    @property
    def unopened(self) -> Path:
        """The last credential that could not be opened: only with it can what it sealed (``state.msgpack.bad``) be read."""
        return self.folder / "at-rest.cred.bad"

    def _load(self) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            key = self.key_file.read_bytes()
            if len(key) == KEY_BYTES:
                self._tell()
                return key
        with contextlib.suppress(FileNotFoundError):
            key = self._open(self.credential.read_bytes())
            if len(key) == KEY_BYTES:
                self._tell()
                return key
            _log.error("{path} cannot be opened on this machine", path=str(self.credential))
        return None

    def _open(self, credential: bytes) -> bytes:
        """The key in it; empty when it still cannot be had after some tries."""
        for left in range(DECRYPT_TRIES - 1, -1, -1):
            key = _systemd_creds("decrypt", credential)
            if key or not can_seal():
                return key
            if left:
                _log.warn("the credential of this machine cannot be opened now; {left} more tries", left=left)
                self.sleep(DECRYPT_PAUSE_S)
        return b""

    def _tell(self) -> None:
        """Which of the two it is: once in a process, as the key is read once."""
        if self.key_file.exists():
            _log.info("what is kept on disk is encrypted under {path}, a 0600 file", path=str(self.key_file))
        else:
            _log.info(
                "what is kept on disk is encrypted under a key that systemd-creds seals to this machine"
            )

    def _create(self) -> bytes:
        key = AESGCM.generate_key(bit_length=8 * KEY_BYTES)
        sealed = _systemd_creds("encrypt", key)
        # Still there only if it could not be opened; here and now, which another day or machine may change.
        with contextlib.suppress(FileNotFoundError):
            self.credential.replace(self.unopened)
            _log.warn("the credential that cannot be opened is kept as {path}", path=str(self.unopened))
        # Believed only once it opens again: without its own daemon systemd-creds has been seen to do half.
        if sealed and _systemd_creds("decrypt", sealed) == key:
            write_private(self.credential, sealed)
            self.key_file.unlink(missing_ok=True)
        else:
            write_private(self.key_file, key)
        self._tell()
        return key


def can_seal() -> str | None:
    """The program, where systemd can seal a credential to this machine."""
    return shutil.which("systemd-creds") if _BOOTED.is_dir() else None


def _systemd_creds(verb: str, data: bytes) -> bytes:
    """The answer of ``systemd-creds``; empty where there is none, or it cannot."""
    program = can_seal()
    if program is None:
        return b""
    try:
        done = subprocess.run(
            [program, verb, f"--name={_CREDENTIAL}", "-", "-"],
            input=data,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""
