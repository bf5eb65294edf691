"""What a controller makes SE images of: its root's signature, its membership list, and its own software."""

from collections.abc import Awaitable, Callable, Mapping

from twisted.internet.threads import deferToThread

from avinet.app.software import software_version
from avinet.controller.images import ImageSources
from avinet.trust.node import ControllerIdentity


def _package() -> Mapping[str, tuple[bytes, int]]:
    """Software, requirements, unit and install script; blocks for a second, and so does the import."""
    from avinet.app.package import image_files

    return image_files()


def image_sources(
    identity: ControllerIdentity,
    sign: Callable[[bytes], Awaitable[str]],
    membership: Callable[[], str],
) -> ImageSources:
    """``membership`` gives the signed list as it is when an image is made, ``sign`` the root's word for what is in it."""
    return ImageSources(
        identity.root_pem,
        sign,
        identity.cluster,
        membership,
        software_version(),
        lambda: deferToThread(_package),
    )
