"""Files that queries read stay until the last of those queries is done, whatever became of them meanwhile."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs


@attrs.define
class Readers:
    """Who reads which files, and which of them wait to be removed."""

    _readers: Counter[Path] = attrs.field(factory=Counter, init=False)
    _doomed: set[Path] = attrs.field(factory=set, init=False)

    @contextlib.contextmanager
    def reading(self, files: Sequence[Path]) -> Iterator[None]:
        """They stay for so long."""
        self._readers.update(files)
        try:
            yield
        finally:
            for file in files:
                self._readers[file] -= 1
                if not self._readers[file]:
                    del self._readers[file]

    def doom(self, files: Sequence[Path]) -> None:
        """Nobody will begin to read them."""
        self._doomed.update(files)

    def unread(self) -> list[Path]:
        """Those that can go now; they are told once."""
        free = [file for file in self._doomed if file not in self._readers]
        self._doomed.difference_update(free)
        return free
