"""Who may log in as ``avictlruser``: from the membership list to the server's index and the file for OpenSSH."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import attrs
from twisted.logger import Logger

from avinet.controller.peers import PEER_SERVICES
from avinet.errors import AvinetError
from avinet.model.ids import ControllerName
from avinet.model.membership import Controller, Membership
from avinet.trust.controller_keys import ControllerKeys, ControllerPermit
from avinet.trust.files import write_public
from avinet.wire.peer_messages import PEER_PORT

USER = "avictlruser"


def state_ports(controller: Controller) -> tuple[int, ...]:
    """Of its state engine; none where it has none."""
    return tuple(port for port in (controller.state_client_port, controller.state_peer_port) if port)


def permits_of(membership: Membership, me: ControllerName) -> list[ControllerPermit]:
    """The lines of those that dial ``me``: whose names sort before its own.

    Each may reach our services and our state engine, and have us stand for its own; nobody else's.
    """
    mine = membership.by_name(me)
    services = tuple(service.port for service in PEER_SERVICES)
    if mine is None:
        return []
    opens = (PEER_PORT, *services, *state_ports(mine))
    return [
        ControllerPermit(one.name, one.id_controller, opens, (*services, *state_ports(one)))
        for one in membership.controllers
        if one.name < me and one.id_controller
    ]


@attrs.define(eq=False)
class PeerPermits:
    """Index and file; ``write`` may be left out where there is no file."""

    path: Path
    me: ControllerName
    keys: ControllerKeys = attrs.field(factory=ControllerKeys)
    write: Callable[[Path, bytes], None] = write_public
    _written: str | None = attrs.field(default=None, init=False, repr=False)
    _log: ClassVar[Logger] = Logger()

    def update(self, membership: Membership) -> None:
        """The list is this now.  The index is what counts; a file that cannot be written is logged and tried next time."""
        try:
            self.keys.replace(permits_of(membership, self.me))
        except AvinetError as why:
            # The root signed it: a defect of ours or a list of another release.  Nobody but those of before gets in.
            self._log.error("the list's controllers cannot be let in: {why}", why=str(why))
            return
        text = self.keys.render()
        if text == self._written:
            return
        try:
            self.write(self.path, text.encode())
        except OSError as why:
            self._log.error("could not write {path}: {why}", path=str(self.path), why=str(why))
        else:
            self._written = text
