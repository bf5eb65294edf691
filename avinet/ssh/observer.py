"""What the controller's SSH server reports, in an operator's words."""

from typing import Protocol

from avinet.errors import AvinetError
from avinet.ssh.services import ChannelPeer


class Observer(Protocol):
    """Hears what an operator may want to know.  Each call is about something a peer did; coalesce them."""

    def auth_failed(self, source: str, user: str, fingerprint: str, why: str) -> None:
        """A stranger was refused.  ``why`` is a stable word: ``unknown-key``, ``network``, ..."""

    def turned_away(self, source: str, why: str) -> None:
        """A connection was not even looked at: ``crowded`` or ``pace`` (see ``gate.TurnedAway``)."""

    def authenticated(self, peer: ChannelPeer) -> None:
        """An SE's key logged in; not yet a session."""

    def lost(self, peer: ChannelPeer, why: AvinetError) -> None:
        """A login ended."""

    def refused(self, peer: ChannelPeer, what: str) -> None:
        """A login asked for something that its line does not allow."""

    def reverse_failed(self, peer: ChannelPeer, why: AvinetError) -> None:
        """A permitted forward could not be had, such as when someone else holds its port."""
