"""What a controller that joins, and one that tells what has changed, hear from whoever signs the membership list.

``POST /v1/controllers`` on 8443 carries a JWS (``avinet.trust.joining``) and is answered with 200 and ``JoinAnswer``, or
with a problem document that says in words what is wrong: who asks is an operator.  The same bytes may be sent again.
"""

import msgspec

from avinet.model.ids import ClusterId, ControllerName

JOIN_PATH = "/v1/controllers"
MANIFEST_PATH = "/v1/manifests"
"""Where a member asks for the root's signature of an image's manifest."""


class StateAdmission(msgspec.Struct, frozen=True, kw_only=True):
    """What a new member of the state engine needs beside its own key.  Certificates are PEM."""

    ca: str
    certificate: str
    passwords: dict[str, str]
    """By user."""
    members: dict[str, str]
    """Peer URL by name, its own included: what the engine is started with."""

    def __repr__(self) -> str:
        """Without the passwords."""
        return f"StateAdmission(members={self.members!r})"


class JoinAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a member as they are now."""

    cluster: ClusterId
    name: ControllerName
    membership: str
    """The current list, a compact JWS; this controller is in it, with its node certificate."""
    api_certificate: str = ""
    """Of the operator API, PEM; empty where none was asked for."""
    state: StateAdmission | None = None
    """For a new member alone."""
