"""The root's signature of an image's manifest, for whichever controller builds the image.

The leader builds images, and whoever has the root key signs what is in them.  Another controller asks with a request
that its node key signs; what it may ask for is bounded by what it is: a controller decides what SEs run.
"""

from typing import ClassVar

import attrs
import msgspec

from avinet.controller.engines import Emit
from avinet.controller.failure_budget import FailureBudget, plain_address
from avinet.controller.image_keys import IMAGE_TTL_S
from avinet.controller.joining import QUIET, TooManyJoinFailuresError, WrongClusterError
from avinet.controller.root_holder import RootHolder
from avinet.errors import AvinetError, Kind, error
from avinet.model.events import Level
from avinet.trust.image import Manifest, sign_manifest
from avinet.trust.joining import open_manifest_wish


@error
class ManifestWrongError(AvinetError):
    """The image's manifest cannot be signed: {why}."""

    kind: ClassVar[Kind] = Kind.INVALID
    why: str


@attrs.frozen(eq=False)
class ManifestSigning:
    """Of whoever has the root key."""

    holder: RootHolder
    budget: FailureBudget
    emit: Emit

    async def judge(self, body: bytes, source: str) -> str:
        """The signed manifest that a member asks for."""
        source = plain_address(source)
        wait_s = self.budget.wait_s(source)
        if wait_s > 0:
            raise TooManyJoinFailuresError(retry_after_s=wait_s)
        try:
            return await self._judge(body)
        except AvinetError as failure:
            if failure.kind not in QUIET:
                self.budget.failed(source)
                text = f"A request from {source} to sign an image was refused: {failure}"
                self.emit("CONTROLLER_REFUSED", Level.WARNING, source, text, reason=failure.reason)
            raise

    async def _judge(self, body: bytes) -> str:
        current = self.holder.members.current
        wish = open_manifest_wish(body, current.controllers)
        await self.holder.require()
        try:
            manifest = msgspec.json.decode(wish, type=Manifest)
        except msgspec.DecodeError as why:
            raise ManifestWrongError(why=str(why)) from why
        if manifest.cluster != current.cluster:
            raise WrongClusterError(cluster=current.cluster, asked=manifest.cluster[:64])
        if manifest.expires_at > manifest.created_at + IMAGE_TTL_S:
            raise ManifestWrongError(why="it would be good for longer than images are")
        return sign_manifest(self.holder.root, msgspec.json.encode(manifest))
