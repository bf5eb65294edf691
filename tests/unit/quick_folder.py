"""A folder for tests that end a process at hundreds of steps: not the machine, so that no fsync has anything to prove."""

import os
import tempfile
from pathlib import Path

_MEMORY = "/dev/shm"


def quick_folder(case):
    """A folder until the end of ``case``, in memory where the system has that: small files only."""
    held = tempfile.TemporaryDirectory(
        prefix="avinet-test-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None
    )
    case.addCleanup(held.cleanup)
    return Path(held.name)
