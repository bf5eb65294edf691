"""Whether service engines can run on the controller's own machine: they need an Envoy beside its avinet."""

from collections.abc import Callable
from typing import Any, ClassVar

from twisted.internet.threads import deferToThread

from avinet.dataplane.envoy_binary import EnvoyBinary, find_envoy
from avinet.errors import AvinetError, Kind, error


@error
class NoLocalEnvoyError(AvinetError):
    """The controller's machine cannot run service engines (--cloud local): {why} There: pip install 'avinet[envoy]' where the controller's avinet is (in a checkout: pip install -c constraints.txt '.[envoy]'), then try again."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    why: str


async def require_local_envoy(
    find: Callable[[], EnvoyBinary] = find_envoy, in_thread: Callable[..., Any] = deferToThread
) -> None:
    """Refuse what could only end in an agent without a data plane.  It looks each time: one may be installed meanwhile."""
    try:
        await in_thread(find)
    except AvinetError as failure:
        raise NoLocalEnvoyError(why=str(failure)) from failure
