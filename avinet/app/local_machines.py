"""Service engines on the controller's own machine: they need an Envoy beside its avinet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from avinet.cloud.local import LocalCloud, LocalSettings
from avinet.dataplane.envoy import stop_data_plane
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


def local_cloud(reactor: Any, base: Path) -> LocalCloud:
    """The cloud that is this machine.  An SE's Envoy outlives its agent, so it is ended with the machine."""

    def end_data_plane(state: Path) -> Deferred[None]:
        return deferToThread(stop_data_plane, state / "data-plane").addCallback(lambda _: None)

    return LocalCloud(LocalSettings(base=base), reactor, reactor, end_data_plane)
