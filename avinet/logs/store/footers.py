"""What files of the store say of themselves, read from them: for worker processes, which have pyarrow loaded."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from avinet.logs.store.contents import KEY, Contents, Gathered, heard


def said_by(path: Path) -> Contents | None:
    """What a file says of itself; None when it says nothing.  ``OSError``, ``pa.ArrowException`` where it cannot be read."""
    found = (pq.read_metadata(path).metadata or {}).get(KEY.encode())
    return None if found is None else heard(found)


def said_by_all(paths: Iterable[Path]) -> Contents:
    """What several files hold together, as far as they say."""
    gathered = Gathered()
    for path in paths:
        try:
            found = said_by(path)
        except (OSError, pa.ArrowException):
            found = None
        gathered.join(found or Contents(whole=False))
    return gathered.contents()
