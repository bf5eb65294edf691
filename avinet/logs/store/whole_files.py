"""A file of the store is written beside its name, fsynced, renamed and its folder fsynced: it is whole or it is not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avinet.trust.files import sync_folder


def beside_of(target: Path) -> Path:
    """What a file is called until it is whole."""
    return target.with_name(f".{target.name}.new")


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A name to write to, 0600, which becomes ``target`` durably at the end, or nothing."""
    beside = beside_of(target)
    beside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    try:
        yield beside
        descriptor = os.open(beside, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
    # The folder of a day may be new itself.
    sync_folder(target.parent.parent)
