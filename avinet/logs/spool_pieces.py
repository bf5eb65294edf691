"""The data plane's log files, as the spool takes them: renamed out of its way, taken in from the first byte, removed.

The data plane writes ``full.ndjson``; whoever looks after it renames that to ``full.7.ndjson``, which is final once the
data plane has opened its files anew.  Before the first byte of a piece is taken in it becomes ``full.7.begun``: if the
index should be lost, it is known which pieces may have been taken in already.
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from avinet.model.logs import LogClass
from avinet.trust.files import sync_folder

_BLOCK_BYTES = 512
"""What ``st_blocks`` counts in (stat(2))."""
_NAME = re.compile(rf"({'|'.join(LogClass)})\.([0-9]{{1,18}})\.(ndjson|begun)")


@attrs.frozen
class Piece:
    """One file that the data plane wrote, and will write no more once it is final."""

    path: Path
    log_class: LogClass
    number: int

    @property
    def name(self) -> str:
        """What the index calls it."""
        return f"{self.log_class}.{self.number}"

    @property
    def begun(self) -> bool:
        """Whether something of it may have been taken in."""
        return self.path.suffix == ".begun"


@attrs.define(eq=False)
class Pieces:
    """Of one data plane's log folder."""

    folder: Path

    def all(self) -> list[Piece]:
        """Significant ones first, and the oldest of them."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                match = _NAME.fullmatch(path.name)
                if match:
                    found.append(Piece(path, LogClass(match[1]), int(match[2])))
        return sorted(found, key=lambda piece: (piece.log_class is LogClass.FULL, piece.number))

    def growing_bytes(self, taken: Mapping[str, int]) -> int:
        """Of the full logs: the file that is being written, and of those that are not ``taken`` in yet what is left.

        As far as they can be seen: who takes them in tells why they cannot.
        """
        found = 0
        with contextlib.suppress(OSError):
            left = [
                (one.path, taken.get(one.name, 0)) for one in self.all() if one.log_class is LogClass.FULL
            ]
            for path, done in ((self._current(LogClass.FULL), 0), *left):
                with contextlib.suppress(FileNotFoundError):
                    found += max(0, path.stat().st_size - done)
        return found

    def disk_bytes(self, log_class: LogClass) -> int:
        """What a class takes of the disk, with the file that is being written; what was punched out does not."""
        found = 0
        pieces = [one.path for one in self.all() if one.log_class is log_class]
        for path in (self._current(log_class), *pieces):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found += min(status.st_size, status.st_blocks * _BLOCK_BYTES)
        return found

    def begin(self, piece: Piece) -> Piece:
        """Durably: it may be taken in from now on."""
        begun = attrs.evolve(piece, path=self.folder / f"{piece.name}.begun")
        if not begun.path.exists():
            piece.path.rename(begun.path)
            sync_folder(self.folder)
        return begun

    def remove(self, piece: Piece) -> None:
        """Durably: all of it was taken in."""
        piece.path.unlink(missing_ok=True)
        sync_folder(self.folder)

    def _current(self, log_class: LogClass) -> Path:
        return self.folder / f"{log_class}.ndjson"
