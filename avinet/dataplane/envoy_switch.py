"""Moving a running Envoy from one configuration to another, whole or not at all.

Envoy applies a file resource by resource: one bad listener leaves the good ones applied.  So everything is
validated first, by a second Envoy that only checks, and addresses are tried; then the clusters are written, and
once they are warm (their first health checks done) and have taken the place of those of the same name, the
listeners.  If Envoy refuses something after all, the previous files go back and are confirmed.  Clusters that are
wanted no more stay while requests on draining connections may still need them.  Listeners that are as
they were are not written: with hundreds of virtual services they are most of what Envoy would have to read.

Secrets go first: clusters and listeners that are new find their files, and a changed one is taken in place.
"""

import itertools
import re
import uuid
from collections.abc import Iterable
from typing import Any

import attrs
from twisted.internet.task import deferLater
from twisted.logger import Logger

from avinet.dataplane.envoy_active import Active
from avinet.dataplane.envoy_admin import EnvoyAdmin
from avinet.dataplane.envoy_check import blamed
from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_readback import ReadBack, ours, secrets_in_use
from avinet.dataplane.envoy_render import CARRIER, Rendered
from avinet.dataplane.envoy_secret import SECRETS_PATTERN, Secret, name_of
from avinet.dataplane.envoy_settings import EnvoySettings
from avinet.dataplane.envoy_written import Items, Written
from avinet.dataplane.interface import DataPlaneDownError, RejectedError
from avinet.errors import AvinetError

POLL_S = 0.02
"""A read of two texts, 2 ms; Envoy takes a change within some 10 ms."""
COUNT_EVERY = 10
"""Looks that are not answered by a new version, until the counters are looked at: what Envoy refuses after all is rare,
and Envoy walks over all that it counts."""
_SCOPES = {"lds": "listener_manager.lds", "cds": "cluster_manager.cds"}
_TAKEN_PATTERN = rf"{SECRETS_PATTERN}|sds\.[^.]+\.update_rejected"
_WARMING = "dynamic_warming_clusters"
_DUMPS = {"lds": "dynamic_listeners", "cds": _WARMING}

_log = Logger()


def new_write() -> str:
    """Names one write of one file, so that what Envoy confirms is this write and no other."""
    return uuid.uuid4().hex[:12]


@attrs.define(eq=False)
class EnvoySwitch:
    """One Envoy's LDS, CDS and SDS files.  One call at a time."""

    reactor: Any
    files: EnvoyFiles
    settings: EnvoySettings
    admin: EnvoyAdmin
    written: Written
    active: Active = attrs.field(init=False)
    _retired: dict[str, float] = attrs.field(factory=dict, init=False)
    """Old clusters by name, and when they may go."""

    @active.default
    def _active(self) -> Active:
        return Active(self.admin)

    async def read_back(self, *, whole: bool = False) -> ReadBack:
        """What is active in Envoy now: names and metadata, of clusters all else too when ``whole``."""
        listeners = await self.active.items("lds")
        clusters = await (self.active.whole("cds") if whole else self.active.items("cds"))
        return ReadBack(listeners, clusters, secrets_in_use(await self.admin.texts(SECRETS_PATTERN)))

    async def versions(self) -> dict[str, str]:
        """By ``lds`` and ``cds``, of which file's version Envoy has taken the whole."""
        names = {kind: f"{scope}.version_text" for kind, scope in _SCOPES.items()}
        texts = await self.admin.texts("|".join(map(re.escape, names.values())))
        return {kind: str(texts.get(name, "")) for kind, name in names.items()}

    async def switch(self, wanted: Rendered, digests: dict[str, str]) -> None:
        """Put ``wanted`` in force and have Envoy confirm ``digests``; on failure everything is as it was."""
        before_clusters, before_listeners = self.written.items("cds"), self.written.items("lds")
        secrets = self.files.secrets
        before_secrets = secrets.read(s.name for s in wanted.secrets) if secrets is not None else {}
        try:
            await self._write_secrets(wanted.secrets)
            await self._forward(wanted, before_clusters, digests)
        except Exception:  # a cancelled apply goes back too
            if secrets is not None:
                secrets.restore(before_secrets)
            await self._back(before_clusters, before_listeners)
            raise
        self._retire(wanted, before_clusters)
        if secrets is not None:
            items = (*self.files.read_xds("cds"), *wanted.listeners)
            secrets.keep(name_of(name) for item in items for name in ours(item).get("certificates", ()))

    async def _write_secrets(self, wanted: Iterable[Secret]) -> None:
        """Have the files, and Envoy take those that it uses already."""
        secrets = self.files.secrets
        changed = secrets.differing(wanted) if secrets is not None else []
        if secrets is None or not changed:
            return
        before = await self.admin.stats(_TAKEN_PATTERN)
        secrets.write(changed)
        used = [secret for secret in changed if f"sds.{secret.name}.version_text" in before]
        async for _ in self._tries("it does not take a certificate"):
            stats = await self.admin.stats(_TAKEN_PATTERN) if used else {}
            for secret in used:
                refused = f"sds.{secret.name}.update_rejected"
                if int(stats.get(refused, 0)) > int(before.get(refused, 0)):
                    raise RejectedError(resource=secret.resource, detail=self.files.log_tail(1))
            if all(stats.get(f"sds.{secret.name}.version_text") == secret.digest for secret in used):
                return

    async def _forward(self, wanted: Rendered, before: Items, digests: dict[str, str]) -> None:
        names = {cluster["name"] for cluster in wanted.clusters}
        now = self.reactor.seconds()
        kept = tuple(c for c in before if c["name"] not in names and self._retired.get(c["name"], now) >= now)
        await self._write("cds", (*wanted.clusters, *kept), wanted)
        await self._until_active(wanted.clusters)
        if await self._listens(wanted) and (await self.read_back()).in_force == digests:
            return  # only pools or certificates have changed
        await self._write("lds", wanted.listeners, wanted)
        await self._until_in_force(digests)

    async def _listens(self, wanted: Rendered) -> bool:
        """Whether Envoy uses the file that would be written."""
        return self.written.has("lds", wanted.listeners) and not self.written.stale(await self.versions())

    def _retire(self, wanted: Rendered, before: Iterable[dict[str, Any]]) -> None:
        names = {cluster["name"] for cluster in wanted.clusters}
        until = self.reactor.seconds() + self.settings.drain_s + 1
        on_disk = {cluster["name"] for cluster in self.files.read_xds("cds")} - names - {CARRIER}
        self._retired = {name: self._retired.get(name, until) for name in on_disk}

    async def sweep(self) -> None:
        """Remove old clusters whose time has come."""
        now = self.reactor.seconds()
        over = {name for name, until in self._retired.items() if until < now}
        if over:
            kept = tuple(c for c in self.files.read_xds("cds") if c["name"] not in over)
            await self._write("cds", kept, None)
            self._retired = {name: until for name, until in self._retired.items() if name not in over}

    async def _back(self, clusters: Items, listeners: Items) -> None:
        """The previous files again; they hold for the next start even when Envoy does not answer now."""
        try:
            await self._write("lds", listeners, None)
        except AvinetError as failure:
            _log.error("the previous listeners are not confirmed: {why}", why=str(failure))
        try:
            await self._write("cds", clusters, None)
        except AvinetError as failure:
            _log.error("the previous clusters are not confirmed: {why}", why=str(failure))

    async def _write(self, kind: str, resources: Items, wanted: Rendered | None) -> None:
        """Rename a file into place and wait until Envoy has taken it."""
        try:
            refused = await self._rejections(kind)
        finally:
            version = self.written.write(kind, new_write(), resources)
            self.active.wrote(kind, version, resources)
        turns = itertools.count(1)
        async for _ in self._tries(f"it does not take the new {kind.upper()} file"):
            if (await self.versions())[kind] == version:
                return
            # An Envoy that was restarted meanwhile counts from 0: that is no rejection.
            if next(turns) % COUNT_EVERY == 0 and await self._rejections(kind) > refused:
                raise await self._rejection(kind, wanted)

    async def _rejections(self, kind: str) -> int:
        name = f"{_SCOPES[kind]}.update_rejected"
        return int((await self.admin.counters(re.escape(name))).get(name, 0))

    async def _rejection(self, kind: str, wanted: Rendered | None) -> RejectedError:
        for item in await self.admin.dump(_DUMPS[kind]):
            details = item.get("error_state", {}).get("details", "")
            if details:
                name = str(item.get("name", ""))
                resource = blamed(wanted, f"{name} {details}") if wanted is not None else name
                return RejectedError(resource=resource, detail=details[-1000:])
        words = self.files.log_tail(1)
        return RejectedError(resource=blamed(wanted, words) if wanted is not None else "", detail=words)

    async def replace_clusters(self, clusters: Items) -> None:
        """Have Envoy take other clusters for the same resources."""
        await self._write("cds", clusters, None)

    async def _until_active(self, wanted: Items) -> None:
        """A cluster that changed is called as before, and is warming beside the old one until it takes its place."""
        names = {cluster["name"] for cluster in wanted}
        async for _ in self._tries("new pools are not ready"):
            # Of a file that was taken whole each cluster is either warming or active.
            warming = await self.admin.dump(_WARMING, mask="cluster.name")
            if names.isdisjoint(item["cluster"]["name"] for item in warming if "cluster" in item):
                return

    async def _until_in_force(self, digests: dict[str, str]) -> None:
        async for _ in self._tries("it took the files but does not report the configuration as in force"):
            if (await self.read_back()).in_force == digests:
                return

    async def _tries(self, complaint: str) -> Any:
        """One turn each ``POLL_S``; ``DataPlaneDownError`` after the apply time-out."""
        until = self.reactor.seconds() + self.settings.apply_timeout_s
        while self.reactor.seconds() < until:
            yield
            await deferLater(self.reactor, POLL_S)
        raise DataPlaneDownError(detail=f"{complaint} after {self.settings.apply_timeout_s:g} s")
