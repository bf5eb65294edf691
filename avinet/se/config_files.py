"""The SE's last good configuration on disk, so that it serves without any controller after a restart.

``state.msgpack`` is what was applied and acknowledged last; ``candidate.msgpack`` is what is being applied, and
becomes the former by a rename once the data plane has confirmed it; ``fence.msgpack`` is the highest fence taken,
also from pushes that the data plane refused.  All are 0600, and the first two encrypted (``at_rest``), since resources
hold private keys.
"""

import contextlib
import os
from pathlib import Path
from typing import ClassVar

import attrs
import msgspec
from twisted.logger import Logger

from avinet.errors import AvinetError, Kind, error
from avinet.model.fence import Fence
from avinet.model.ids import ConfigVersion
from avinet.model.resources import Resource, hashes_of, state_hash
from avinet.se.at_rest import MAGIC, UnsealedError, Vault, is_sealed
from avinet.trust.files import FileUnreadableError, private_dir, sync_folder, write_private

_FORMAT = 1

_log = Logger()


@error
class SavedStateError(AvinetError):
    """The saved configuration {path} cannot be read: {detail}. It was set aside; a controller sends it anew."""

    kind: ClassVar[Kind] = Kind.INTERNAL
    path: str
    detail: str


class _DamagedError(Exception):
    """Why a file is not used."""


class _SavedResource(msgspec.Struct, frozen=True, array_like=True):
    name: str
    body: bytes


class _SavedState(msgspec.Struct, frozen=True):
    format: int
    version: ConfigVersion
    hash: str
    resources: tuple[_SavedResource, ...]


@attrs.frozen
class LastGood:
    """A state with its version.  ``hash`` is empty when nothing was ever applied."""

    version: ConfigVersion = attrs.field(default=ConfigVersion(0))
    hash: str = ""
    state: dict[str, Resource] = attrs.field(factory=dict, repr=False)

    @classmethod
    def of(cls, version: ConfigVersion, state: dict[str, Resource]) -> "LastGood":
        """``state`` with its hash."""
        return cls(version, state_hash(hashes_of(state.values())), state)


def _read(path: Path) -> bytes:
    """The whole file, however long; ``FileNotFoundError`` when there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as failure:
        raise FileUnreadableError(path=path, why=os.strerror(failure.errno or 0)) from failure


@attrs.frozen
class ConfigFiles:
    """The folder ``config/`` of an SE's state.  Blocking: called in a thread."""

    folder: Path
    _vault: Vault = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: Vault(self.folder), takes_self=True)
    )

    @property
    def _state(self) -> Path:
        return self.folder / "state.msgpack"

    @property
    def _candidate(self) -> Path:
        return self.folder / "candidate.msgpack"

    @property
    def _fence(self) -> Path:
        return self.folder / "fence.msgpack"

    def load(self) -> LastGood:
        """What was acknowledged last; a candidate that a crash left behind is dropped.

        ``SavedStateError`` when the file is damaged: it is renamed to ``state.msgpack.bad`` first.
        """
        private_dir(self.folder)
        self._candidate.unlink(missing_ok=True)
        try:
            last = self._load()
        except FileNotFoundError:
            return LastGood()
        except _DamagedError as failure:
            self._state.replace(self._state.with_suffix(".msgpack.bad"))
            raise SavedStateError(path=str(self._state), detail=str(failure)) from failure
        self._seal_what_is_in_clear(last)
        return last

    def _seal_what_is_in_clear(self, last: LastGood) -> None:
        """By a version that did not encrypt: its keys are not to lie there until the next change."""
        with self._state.open("rb") as file:
            if is_sealed(file.read(len(MAGIC))):
                return
        try:
            self.save_candidate(last)
            self.keep_candidate()
        except (OSError, AvinetError) as failure:
            _log.warn("{path} stays unencrypted for now: {why}", path=str(self._state), why=str(failure))

    def peek(self) -> dict[str, Resource]:
        """The state acknowledged last, for somebody else than the agent: nothing is changed or told."""
        try:
            return self._load().state
        except (OSError, AvinetError, _DamagedError):
            return {}

    def _load(self) -> LastGood:
        try:
            saved = msgspec.msgpack.decode(self._vault.unseal(_read(self._state)), type=_SavedState)
            state = {r.name: Resource(r.name, r.body) for r in saved.resources}
        except UnsealedError as failure:
            raise _DamagedError("it was changed, or encrypted under another key") from failure
        except msgspec.MsgspecError as failure:
            raise _DamagedError(str(failure)) from failure
        last = LastGood.of(saved.version, state)
        if last.hash != saved.hash:
            detail = f"its content has hash {last.hash[:12]}, it should be {saved.hash[:12]}"
            raise _DamagedError(detail)
        return last

    def load_fence(self) -> Fence:
        """The highest fence taken; a damaged file counts as the lowest, since refusing all would strand the SE."""
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            return msgspec.msgpack.decode(_read(self._fence), type=Fence)
        return Fence()

    def save_fence(self, fence: Fence) -> None:
        """Durable when it returns; ``DiskFullError`` or ``FileUnwritableError`` when it cannot be."""
        write_private(self._fence, msgspec.msgpack.encode(fence))

    def save_candidate(self, last: LastGood) -> None:
        """Write what is about to be applied, so that keeping it needs no space later."""
        resources = tuple(_SavedResource(r.name, r.body) for r in last.state.values())
        saved = _SavedState(_FORMAT, last.version, last.hash, resources)
        write_private(self._candidate, self._vault.seal(msgspec.msgpack.encode(saved)))

    def keep_candidate(self) -> None:
        """Make the candidate the last good state; durable when it returns."""
        self._candidate.replace(self._state)
        sync_folder(self.folder)

    def drop_candidate(self) -> None:
        """Forget what the data plane refused."""
        self._candidate.unlink(missing_ok=True)
