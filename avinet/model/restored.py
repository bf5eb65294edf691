"""A configuration that came out of a backup, and who has seen a newer one than it."""

import msgspec

from avinet.model.fence import Fence


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """Kept beside what is in force until an operator says that it is the one to have."""

    at: float
    """UNIX seconds."""
    incarnation: int
    """Begun by the restore."""
    known: Fence
    """The last order that the backup knows of."""

    def is_newer(self, seen: Fence) -> bool:
        """Whether who has ``seen`` this took orders that the backup knows nothing of, and none since the restore.

        Terms do not matter: an election gives nobody another configuration.
        """
        before = (self.known.incarnation, self.known.version)
        return seen.incarnation < self.incarnation and (seen.incarnation, seen.version) > before
