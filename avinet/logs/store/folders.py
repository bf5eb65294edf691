"""Where a log store keeps what, and how each place is kept tidy."""

import os
from collections.abc import Collection, Iterable
from itertools import count
from pathlib import Path

import attrs
from twisted.logger import Logger

from avinet.logs.entries import Segment
from avinet.units import MIB

BAD_BYTES = 256 * MIB
"""Of segments and lines that were set aside, the newest."""

_log = Logger()


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

    def segment(self, segment: Segment) -> Path:
        """Where the intake puts it."""
        return self.base / "received" / segment.se / f"{segment.head.name}.zst"

    def set_aside(self, segment: Segment) -> None:
        """Keep it where people can look at it; no error when it is gone."""
        path = self.segment(segment)
        self.bad.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            path.replace(self.bad / f"{segment.se}-{path.name}")
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

    def clean(self, listed: Collection[str]) -> int:
        """Remove the files of the store that are not ``listed``, and what an export or a query left; how many of the first.

        A crash leaves one such file.  Where nothing is listed and there are more, it is the list that was lost: then the
        folder is set aside whole, as ``store.unlisted.1`` or the next number, and a new one begun.
        """
        unlisted = [
            path
            for path in self.store.rglob("*")
            if not path.is_dir() and str(path.relative_to(self.store)) not in listed
        ]
        if not listed and len(unlisted) > 1:
            aside = next(path for n in count(1) if not (path := self.base / f"store.unlisted.{n}").exists())
            self.store.rename(aside)
            _log.error(
                "the ledger of logs lists no file, but there are {count}: they are kept in {folder}, and are in no answer",
                count=len(unlisted),
                folder=aside,
            )
            unlisted = []
        for folder in (self.store, self.exports, self.spill):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unlink(unlisted)
        for folder in (self.exports, self.spill):
            unlink([path for path in folder.rglob("*") if not path.is_dir()])
        return len(unlisted)


def unlink(paths: Iterable[Path]) -> None:
    """Remove those that are there."""
    for path in paths:
        path.unlink(missing_ok=True)
