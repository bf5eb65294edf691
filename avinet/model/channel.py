"""How an SE's secure channel is, as operators read it: what its two ends settled, and how it does.

``in`` is from the SE to the controller, ``out`` the other way.
"""

import msgspec

IMPLICIT = "implicit"
"""The MAC of a cipher that authenticates by itself; OpenSSH's clients say so, too."""


class ChannelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One connection, now."""

    address: str
    """Where the SE connected from."""
    age_s: float
    """Since it logged in."""
    peer: str
    """The software that the SE names, such as ``SSH-2.0-avinet``."""
    kex: str
    host_key: str
    cipher_in: str
    cipher_out: str
    mac_in: str
    mac_out: str
    strict: bool
    """Strict key exchange: nobody can cut packets out of a handshake (OpenSSH's PROTOCOL section 1.10)."""
    rekeys: int
    """Key exchanges after the first."""
    channels: int
    """Open now, either way."""
    rtt_min_ms: float | None
    """The least round trip that data met; null until there was any, since heartbeats do not count."""
    rate_bytes_s: int | None
    """Delivered by the controller when it sent as much as it might; null until then."""
    window_bytes: int
    """What the controller may have on its way to the SE at once, control traffic aside."""
    held_bytes: int
    """Data in memory that waits for the SE, or for whoever it is for."""
