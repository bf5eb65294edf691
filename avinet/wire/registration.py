"""What a new SE and the registration API on 8443 say to each other, beside the signed request itself.

``POST /v1/service-engines`` carries a JWS in the General JSON Serialization (``avinet.trust.registration``) and
is answered with 200 and ``EnrolmentAnswer``, with 202, ``Retry-After`` and ``PendingAnswer`` while an operator
must approve, or with a problem document.  The same bytes may be sent again at any time and get current facts.
``GET /v1/membership`` answers the current membership list, a compact JWS signed by the root.

``MetaInfo`` is what one SE is told at its creation (user data, as JSON): where controllers are, which cluster
they form, and its one-time token.  Nodes are tolerant of each other: unknown fields are ignored.
"""

import msgspec

from avinet.model.ids import ClusterId, SeId
from avinet.model.membership import Membership

ENROL_PATH = "/v1/service-engines"
MEMBERSHIP_PATH = "/v1/membership"
OPENAPI_PATH = "/v1/openapi.json"
REQUEST_CONTENT_TYPE = "application/jose+json"
MEMBERSHIP_CONTENT_TYPE = "application/jose"

MAX_REQUEST_BYTES = 64 * 1024
"""A request is about 2 KiB; the rest is room for what later versions add."""
MAX_ANSWER_BYTES = 1024 * 1024
"""A membership list of 3 controllers is about 6 KiB."""


class EnrolmentAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of an enrolled SE as they are now."""

    se: SeId
    name: str
    group: str
    cluster: ClusterId
    loopback: str
    """The controller-side address that stands for this SE."""
    membership: str
    """The current list, a compact JWS."""
    services: dict[str, int] = {}
    """Service name to its ``localhost`` port behind the secure channel."""


class PendingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An operator compares these with what the machine shows, and approves."""

    se: SeId
    name: str
    fingerprint: str
    """Of the SE key, ``SHA256:...``."""


class MetaInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One SE's user data."""

    cluster: ClusterId
    controllers: tuple[str, ...]
    """``host:port`` of registration APIs, tried in order; ``[v6]:port`` for IPv6 literals."""
    token: str = ""
    """The one-time token's text; empty once enrolled, and under the ``image`` policy."""

    def __repr__(self) -> str:
        """Without the token."""
        return f"MetaInfo(cluster={self.cluster!r}, controllers={self.controllers!r})"


def registration_addresses(membership: Membership) -> tuple[str, ...]:
    """Every controller's registration API as ``host:port``, in order; what ``MetaInfo.controllers`` holds."""
    return tuple(
        f"[{address}]:{controller.registration_port}"
        if ":" in address
        else f"{address}:{controller.registration_port}"
        for controller in membership.controllers
        for address in controller.addresses
    )
