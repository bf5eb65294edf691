"""Where a log store keeps what, and how each place is kept tidy."""

import os
from collections.abc import Iterable
from pathlib import Path

import attrs

from avinet.logs.entries import SEGMENT, Segment
from avinet.model.ids import SeId
from avinet.units import MIB

BAD_BYTES = 256 * MIB
"""Of segments and lines that were set aside, the newest."""


@attrs.frozen
class Folders:
    """Where a store keeps what; ``base`` is the controller's folder of logs."""

    base: Path

    @property
    def store(self) -> Path:
        """The files."""
        return self.base / "store"

    @property
    def exports(self) -> Path:
        """Answers as files, until they are fetched."""
        return self.base / "exports"

    @property
    def bad(self) -> Path:
        """What was set aside."""
        return self.base / "bad"

    @property
    def spill(self) -> Path:
        """What queries put on the disk."""
        return self.base / "spill"

    def received(self, se: SeId) -> Path:
        """Where the intake puts what came from one service engine."""
        return self.base / "received" / se

    def segment(self, segment: Segment) -> Path:
        """The file that it is in, alone or with others."""
        return self.received(segment.se) / segment.file

    def set_aside(self, segment: Segment) -> None:
        """Keep it where people can look at it; no error when it is gone."""
        path = self.segment(segment)
        target = self.bad / f"{segment.se}-{segment.head.name}{SEGMENT}"
        self.bad.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            if segment.place is None:
                path.replace(target)
                return
            with path.open("rb") as file:
                file.seek(segment.place.offset)
                target.touch(mode=0o600)
                target.write_bytes(file.read(segment.head.size))
        except FileNotFoundError:
            return

    def bound_bad(self) -> None:
        """Remove the oldest of what was set aside, beyond ``BAD_BYTES``."""
        found = sorted(
            ((entry.stat(follow_symlinks=False), entry.path) for entry in os.scandir(self.bad)),
            key=lambda one: one[0].st_mtime_ns,
            reverse=True,
        )
        room = BAD_BYTES
        for facts, path in found:
            room -= facts.st_size
            if room < 0:
                Path(path).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Make the folders; remove what an export or a query left, and what was never whole."""
        for folder in (self.store, self.exports, self.spill):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unlink(path for path in self.store.rglob(".*") if not path.is_dir())
        for folder in (self.exports, self.spill):
            unlink([path for path in folder.rglob("*") if not path.is_dir()])

    def names(self) -> set[str]:
        """Of all that is in the store's folder."""
        return {str(path.relative_to(self.store)) for path in self.store.rglob("*") if not path.is_dir()}

    def set_file_aside(self, name: str) -> None:
        """Keep a file of the store where people can look at it; no error when it is gone."""
        self.bad.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.store / name
        try:
            path.replace(self.bad / path.name)
        except FileNotFoundError:
            return


def unlink(paths: Iterable[Path]) -> None:
    """Remove those that are there."""
    for path in paths:
        path.unlink(missing_ok=True)
