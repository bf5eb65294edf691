"""What an SE accepts of its controllers, and what it tells of each use."""

import attrs

from avinet.ssh.confined import ConfinedFolder
from avinet.units import HOUR_S

SHOWN_COMMAND = 200
"""Characters of a command in a sentence; the whole is beside it."""


@attrs.frozen
class CommandPolicy:
    """What this SE accepts, and its bounds."""

    exec_allowed: bool = True
    interactive_allowed: bool = True
    files: ConfinedFolder | None = None
    """What sftp and scp reach; None: nothing."""
    time_limit_s: float = HOUR_S
    """For a command without a terminal; a shell lasts as long as its connection."""
    sessions: int = 16
    connections: int = 32
    """Of one controller; another one's do not count, and their number is bounded by the membership list."""
    shell: str = "/bin/sh"


@attrs.frozen
class Use:
    """What a session did, for the audit log."""

    kind: str
    """``exec``, ``shell``, ``files``, or ``refused``."""
    command: str
    """For files, what was moved, in words."""
    fingerprint: str
    """Of the controller's key."""
    exit_status: int
    """As a shell shows it: 128 + n after signal n."""
    seconds: float
    pty: bool = False

    @property
    def text(self) -> str:
        """For people."""
        if self.kind == "files":
            return self.command
        did = (
            "was refused"
            if self.kind == "refused"
            else f"ended with status {self.exit_status} after {self.seconds:.1f} s"
        )
        return f"{self.command[:SHOWN_COMMAND] or 'a shell'!r} {did}"
