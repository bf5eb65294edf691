"""Who may still give orders: the triple that everything a leader causes carries.

A receiver keeps the highest it has seen and refuses lower ones, so that a controller that was paused, or
restored from a backup, cannot push the past.  A restore raises ``incarnation``, an election ``term``, a change
of configuration ``version``; the order is lexical in that sequence.
"""

import msgspec

from avinet.model.ids import ConfigVersion


class Fence(msgspec.Struct, frozen=True, order=True, array_like=True):
    """(incarnation, term, version), compared in that order."""

    incarnation: int = 0
    term: int = 0
    version: ConfigVersion = ConfigVersion(0)
