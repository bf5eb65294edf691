"""The membership list: which controllers a cluster has and how each proves itself.

A numbered document, signed by the root (``avinet.trust.membership``).  Everyone keeps the highest number seen
and refuses lower ones, which is how trust in a controller is learnt, changed and withdrawn.
"""

import msgspec

from avinet.model.ids import ClusterId, ControllerName


class Controller(msgspec.Struct, frozen=True, kw_only=True):
    """One controller as others reach and recognise it.  Keys are OpenSSH lines without comment."""

    name: ControllerName
    addresses: tuple[str, ...]
    """Host names or IP addresses, tried in order."""
    ssh_port: int = 22
    registration_port: int = 8443
    reverse_port: int = 5097
    node_certificate: str
    """PEM."""
    ssh_host_key: str
    id_se: str
    id_controller: str = ""
    """Its client key for other controllers; empty in a list of a release that knew of no others."""
    state_client_port: int = 0
    """Where its state engine serves, on 127.0.0.1; unique in the cluster, since each other member listens there
    for it.  0: it has none."""
    state_peer_port: int = 0


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """All controllers of a cluster as of ``number``."""

    cluster: ClusterId
    number: int
    controllers: tuple[Controller, ...]
    revoked_serials: tuple[str, ...] = ()
    """Hexadecimal serial numbers of node certificates that are no longer to be believed."""

    def by_name(self, name: str) -> Controller | None:
        """The controller called ``name``, or None."""
        return next((c for c in self.controllers if c.name == name), None)
