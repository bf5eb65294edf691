"""What a process wants of every SSH connection that it has, whoever dialed: its bounds, and the memory they share."""

import attrs

from avinet.ssh.memory import ProcessMemory
from avinet.ssh.profile import LinkLimits


@attrs.frozen
class Terms:
    """One a process, so that ``memory`` counts all that its peers make it hold."""

    limits: LinkLimits = attrs.field(factory=LinkLimits)
    memory: ProcessMemory = attrs.field(factory=ProcessMemory)
    hybrid_only: bool = False
    """Offer no key exchange but the post-quantum one."""
