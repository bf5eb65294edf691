"""Why something about a service engine was not done."""

from typing import ClassVar

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import SeId


@error
class EngineNotFoundError(AvinetError):
    """There is no service engine {se}; see: avinet se list."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    se: str


@error
class EngineDeletedError(AvinetError):
    """Service engine {se} was deleted. A machine that is to join again needs a new record and token."""

    kind: ClassVar[Kind] = Kind.GONE
    se: str


@error
class EngineNameTakenError(AvinetError):
    """A service engine called {name} exists already ({se}). Choose another name, or delete that one."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    name: str
    se: SeId


@error
class EngineNameError(AvinetError):
    """{name!r} cannot be a service engine's name: use 1 to 63 letters, digits, dots, dashes or underscores, a letter or digit first."""

    kind: ClassVar[Kind] = Kind.INVALID
    name: str


@error
class EngineStateError(AvinetError):
    """Service engine {se} is {lifecycle}; {action} is for one that is {wanted}."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    se: str
    lifecycle: str
    action: str
    wanted: str


@error
class TooManyEnginesError(AvinetError):
    """This cluster has {limit} service engines, which is the most. Delete some that are gone."""

    kind: ClassVar[Kind] = Kind.LIMITED
    limit: int


@error
class EngineBusyError(AvinetError):
    """Service engine {se} is being changed by others at the same time; try again."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    se: str
