"""How the state engine follows the membership list: what joining and leaving ask of whoever runs it."""

from typing import ClassVar, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ControllerName
from avinet.model.membership import Controller
from avinet.wire.joining import StateAdmission


@error
class StateEngineAloneError(AvinetError):
    """This controller keeps its state in a file of its own, which others cannot share. Set [store] engine = "etcd", restart it, then try again; see docs/cluster.md."""

    kind: ClassVar[Kind] = Kind.CONFLICT


class StateEngineGrowth(Protocol):
    """The members of a state engine that several controllers can share.

    Each method may be called again after any failure, with the same outcome.
    """

    async def require(self) -> None:
        """``StateEngineAloneError``, or ``StoreUnavailableError`` while it can take nobody."""

    async def admit(self, member: Controller, key: Ed25519PublicKey) -> StateAdmission:
        """Let ``member`` in, where it is not, and issue a certificate over ``key``; it may be started with the answer."""

    async def dismiss(self, name: ControllerName) -> None:
        """Take a member out; it need not be one."""


class NoGrowth:
    """A state engine of one controller alone: it takes nobody, and has nobody to dismiss."""

    async def require(self) -> None:
        """``StateEngineAloneError``."""
        raise StateEngineAloneError

    async def admit(self, member: Controller, key: Ed25519PublicKey) -> StateAdmission:
        """``StateEngineAloneError``."""
        raise StateEngineAloneError

    async def dismiss(self, name: ControllerName) -> None:
        """Nothing to do."""


class OutsideGrowth:
    """A state engine that others run: every controller has its address in its settings, and none is a member of it."""

    async def require(self) -> None:
        """Nothing."""

    async def admit(self, member: Controller, key: Ed25519PublicKey) -> StateAdmission:
        """Nothing to let in."""
        return StateAdmission(ca="", certificate="", passwords={}, members={})

    async def dismiss(self, name: ControllerName) -> None:
        """Nothing to do."""
