"""A file that a command is to fill with what the API answers: opened before the API is asked.

So a folder that cannot be written is found while nothing has been done yet.  The file is made beside its name, 0600,
and takes its name once it is whole.
"""

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import attrs

from avinet.app.cli.errors import FileError


@attrs.define(eq=False)
class OutFile:
    """``with OutFile.beside(path) as out``: write to ``out.file``, then ``keep``; without that nothing is left."""

    path: Path
    file: BinaryIO
    _part: Path

    @classmethod
    def beside(cls, path: Path) -> Self:
        """Open it; ``FileError`` when ``path`` could not be written."""
        try:
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        except OSError as why:
            raise FileError(what="write", path=str(path), why=why.strerror or str(why)) from why
        return cls(path, os.fdopen(descriptor, "wb"), Path(name))

    def written(self) -> Path:
        """Make what was written durable; where it lies until ``keep``, for who wants to read it before."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return self._part

    def keep(self) -> int:
        """Make it durable under its name; its size.  ``OSError`` as it comes."""
        self.written()
        size = self.file.tell()
        self._part.replace(self.path)
        return size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._part.unlink(missing_ok=True)
        try:
            self.file.close()
        except OSError:
            if kind is None:  # else a full disk was told already
                raise
