"""The operator's ``[ssh]`` settings as the terms of a role's connections."""

import attrs

from avinet.app.settings import ChannelSection
from avinet.ssh.memory import ProcessMemory
from avinet.ssh.profile import LinkLimits
from avinet.ssh.terms import Terms
from avinet.units import MIB


def terms_of(settings: ChannelSection, limits: LinkLimits | None = None) -> Terms:
    """What the settings say over ``limits``."""
    chosen = attrs.evolve(
        limits or LinkLimits(),
        rekey_after_bytes=settings.rekey_bytes,
        rekey_after_s=settings.rekey_s,
        memory_bytes=settings.connection_memory_mib * MIB,
    )
    return Terms(chosen, ProcessMemory(settings.memory_mib * MIB), settings.post_quantum_only)
