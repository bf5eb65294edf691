"""Envoy as a data plane: the parts put together.

``render`` turns the state into clusters, listeners and secrets, ``EnvoyCheck`` tells whether they can be had,
``EnvoySwitch`` moves the running Envoy to them, ``EnvoyProcess`` keeps one running, ``envoy_readback`` says what it
has, and ``Written`` whether somebody else has written into its files.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Never

import attrs
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from avinet.dataplane import envoy_process
from avinet.dataplane.cut import CutError, cut_connections
from avinet.dataplane.envoy_admin import EnvoyAdmin
from avinet.dataplane.envoy_binary import find_envoy
from avinet.dataplane.envoy_check import EnvoyCheck
from avinet.dataplane.envoy_diagnosis import Diagnoses
from avinet.dataplane.envoy_drain import ended, settle
from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_health import server_health, still_open
from avinet.dataplane.envoy_logs import WRITES_PATTERN, log_writes, reopened
from avinet.dataplane.envoy_memory import Memory
from avinet.dataplane.envoy_process import EnvoyProcess
from avinet.dataplane.envoy_readback import STRANGE, ReadBack, ours
from avinet.dataplane.envoy_render import Rendered, render
from avinet.dataplane.envoy_secret import Secret
from avinet.dataplane.envoy_settings import EnvoySettings
from avinet.dataplane.envoy_start import become_envoy, started_by_service
from avinet.dataplane.envoy_stats import STATS_PATTERN, Stats
from avinet.dataplane.envoy_switch import EnvoySwitch
from avinet.dataplane.envoy_written import Items, Written, as_read
from avinet.dataplane.host_addresses import RECORD, HostAddresses
from avinet.dataplane.interface import DataPlaneDownError, LogFiles, RejectedError, Status
from avinet.errors import AvinetError
from avinet.model.resources import Resource, hashes_of

TIDY_INTERVAL_S = 10.0
"""How often old clusters and an overlong log are looked for."""

_WARMING = ("cluster_manager.warming_clusters", "listener_manager.total_listeners_warming")
"""While something is, a change is not over."""
_CHANGES = (
    r"cluster_manager\.(cds\.version_text|warming_clusters|cluster_(added|modified|removed))"
    r"|listener_manager\.(lds\.version_text|total_listeners_warming|listener_(added|modified|removed))"
)

_log = Logger()


class EnvoyDataPlane:
    """One SE's Envoy.  ``folder`` is ``STATE/data-plane``; ``in_thread`` is ``deferToThread`` or alike.

    ``wall`` is UNIX time: how long disabled servers may drain outlives the machine's uptime.
    """

    def __init__(
        self,
        reactor: Any,
        folder: Path,
        settings: EnvoySettings,
        in_thread: Callable[..., Deferred[Any]],
        wall: Callable[[], float] = time.time,
    ) -> None:
        files = EnvoyFiles(folder)
        self._settings = settings
        self._in_thread = in_thread
        self._wall = wall
        self._files = files
        self._reactor = reactor
        self._admin = EnvoyAdmin(reactor, files, settings.admin_timeout_s)
        self._process = EnvoyProcess(
            reactor, files, settings, self._admin, self._restarted, lambda: _place(files, self._secrets)
        )
        self._written = Written(files)
        self._memory = Memory()
        self._checker = EnvoyCheck(files, settings, in_thread)
        self._switch = EnvoySwitch(reactor, files, settings, self._admin, self._written)
        self._secrets: tuple[Secret, ...] = ()
        self._diagnoses = Diagnoses(in_thread, reactor.seconds)
        self._listing: tuple[dict[str, int | str], ReadBack] | None = None
        self._observers: list[Callable[[], None]] = []
        self._turn = DeferredLock()
        self._tidy = LoopingCall(self._tidy_up)
        self._tidy.clock = reactor
        self._description = ""

    @property
    def description(self) -> str:
        """``envoy 1.40.0``; empty until started."""
        return self._description

    @property
    def pid(self) -> int | None:
        """The Envoy process, while one runs."""
        return self._process.process.pid if self._process.process else None

    def on_restart(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` each time that Envoy was found dead and runs again."""
        self._observers.append(callback)

    def _restarted(self) -> None:
        for callback in self._observers:
            callback()

    def start(self, state: Mapping[str, Resource] | None = None) -> Deferred[None]:
        """Find the binary, adopt the Envoy that runs, else start one or wait for it; fires when it serves.

        The secrets of ``state``, which was in force last, are there before one is started.
        """
        return Deferred.fromCoroutine(self._start(state or {}))

    async def _start(self, state: Mapping[str, Resource]) -> None:
        self._secrets = _secrets_of(self._files, state)
        binary = await self._in_thread(find_envoy, self._settings.binary)
        self._description = f"envoy {binary.version}"
        await self._process.start(binary)
        self._tidy.start(TIDY_INTERVAL_S, now=False)

    def apply(self, state: Mapping[str, Resource]) -> Deferred[None]:
        """Put ``state`` in force, whole or not at all."""
        return self._turn.run(lambda: Deferred.fromCoroutine(self._apply(dict(state))))

    async def _apply(self, state: dict[str, Resource]) -> None:
        before = self._written.items("cds")
        rendered = self._render(state)
        wanted = attrs.evolve(rendered, clusters=settle(rendered.clusters, before, self._wall()))
        digests = hashes_of(state.values())
        if self._process.binary is None:
            raise DataPlaneDownError(detail="it was not started")
        if await self._is_in_force(wanted, digests):
            return
        await self._checker.check(wanted, self._process.binary)
        await self._switch.switch(wanted, digests)
        self._secrets = wanted.secrets
        try:
            await self._end_drains()
        except (AvinetError, OSError) as failure:
            _log.warn("servers that were disabled are left out later: {why}", why=str(failure))

    async def _end_drains(self) -> None:
        """Leave out the disabled servers whose time is over, and cut what is still open to them."""
        clusters = self._written.items("cds")
        kept, over = ended(clusters, self._wall())
        if not over:
            return
        places = still_open(
            ((d.cluster, d.address, d.port) for d in over), clusters, await self._admin.clusters()
        )
        await self._switch.replace_clusters(kept)
        if self._process.process is None:
            return
        try:
            count = await self._in_thread(cut_connections, self._process.process.pid, places)
        except CutError as failure:
            _log.warn("{why}", why=str(failure))
            return
        if count:
            _log.info("cut {count} connections to servers that were disabled", count=count)

    def _render(self, state: Mapping[str, Resource]) -> Rendered:
        return _rendered(self._files, state, self._memory)

    def _changed(self, secrets: Iterable[Secret]) -> dict[str, list[str]]:
        """Files that are not as they were written, and the resources concerned."""
        found = self._written.changed()
        if self._files.secrets is not None:
            for secret in self._files.secrets.differing(secrets):
                found.setdefault("secrets", []).append(secret.resource)
        return found

    async def _is_in_force(self, wanted: Rendered, digests: dict[str, str]) -> bool:
        if not (self._is_written("lds", wanted.listeners) and self._is_written("cds", wanted.clusters)):
            return False
        if await self._found(wanted.secrets) != digests:
            return False
        self._secrets = wanted.secrets
        self._checker.found_good(wanted)
        return True

    def _is_written(self, kind: str, wanted: Items) -> bool:
        """Whether the file is to have ``wanted``; of clusters it may have old ones beside."""
        noted = self._written.noted(kind)
        there = {item["name"]: item for item in self._written.items(kind)}
        asked = wanted if noted else as_read(wanted)
        if any(there.get(item["name"]) != item for item in asked):
            return False
        if kind == "lds" and len(there) != len(wanted):
            return False
        if noted:
            return True
        if not self._files.as_written(kind):
            return False
        # By an earlier agent.
        self._written.note(kind, tuple({**there, **{item["name"]: item for item in wanted}}.values()))
        return True

    def in_force(self) -> Deferred[Mapping[str, str]]:
        """Resource name to hash, as Envoy's own configuration dump and its files tell.

        A resource whose part of a file was changed by others is not in force, and the file is named as one that
        should not be there: ``file/lds.json``.
        """
        return self._turn.run(lambda: Deferred.fromCoroutine(self._in_force()))

    async def _in_force(self) -> Mapping[str, str]:
        return await self._found(self._secrets)

    async def _found(self, secrets: Iterable[Secret]) -> dict[str, str]:
        found = (await self._switch.read_back()).in_force
        changed = self._changed(secrets)
        if not changed:
            changed = {f"{kind}.json": [] for kind in self._written.stale(await self._switch.versions())}
        for file, resources in changed.items():
            found[f"file/{file}"] = STRANGE
            for resource in resources:
                found.pop(resource, None)
        return found

    def status(self) -> Deferred[Status]:
        """Health of the servers in use and the counters of the virtual services that listen."""
        return Deferred.fromCoroutine(self._status())

    async def _status(self) -> Status:
        process = self._process.process
        if process is None:
            raise DataPlaneDownError(detail="its process is gone and is being started again")
        has = await self._listed()
        found = await self._admin.histograms(f"{STATS_PATTERN}|{WRITES_PATTERN}")
        stats = Stats.of(found)
        pools = sorted({str(ours(cluster)["pool"]) for cluster in has.pool_clusters})
        servers = server_health(has.pool_clusters, await self._admin.clusters())
        return Status(
            started_at=process.started_at,
            servers=self._diagnoses.explain(servers, has.pool_clusters),
            services=tuple(stats.service(name) for name in has.services),
            pools=tuple(stats.pool(name) for name in pools),
            log_writes=log_writes(found),
        )

    async def _listed(self) -> ReadBack:
        """What Envoy has, read anew only after a change: it is asked each few seconds, and 3 KB a service long."""
        changes = await self._admin.stats(_CHANGES)
        if self._listing is None or self._listing[0] != changes or any(changes.get(w) for w in _WARMING):
            self._listing = (changes, await self._switch.read_back(whole=True))
        return self._listing[1]

    def log_files(self) -> LogFiles:
        """In ``STATE/data-plane/logs``."""
        return self._files.logs

    def reopen_logs(self) -> Deferred[None]:
        """Have Envoy write to new files; fires when those that were renamed are final."""
        return Deferred.fromCoroutine(reopened(self._reactor, self._admin, self._files.logs, self._runs))

    def _runs(self) -> bool:
        return self._process.process is not None

    def detach(self) -> Deferred[None]:
        """Leave Envoy running for the next agent; waits for an ``apply`` under way."""
        return self._turn.run(self._detach)

    def _detach(self) -> None:
        self._stop_tidying()
        self._process.detach()

    def stop(self) -> Deferred[None]:
        """End Envoy."""
        return self._turn.run(lambda: Deferred.fromCoroutine(self._stop()))

    async def _stop(self) -> None:
        self._stop_tidying()
        await self._process.stop()

    def _stop_tidying(self) -> None:
        self._diagnoses.stop()
        if self._tidy.running:
            self._tidy.stop()

    def _tidy_up(self) -> Deferred[None]:
        tidied = self._turn.run(lambda: Deferred.fromCoroutine(self._sweep()))
        return tidied.addErrback(lambda f: _log.failure("tidying up failed", f))

    async def _sweep(self) -> None:
        if self._written.changed():
            return  # what is in the files cannot be trusted: it is mended first
        try:
            await self._end_drains()
            await self._switch.sweep()
            if self._files.rotate_log():
                await self._admin.reopen_logs()
        except (AvinetError, OSError) as failure:
            _log.warn("tidying up has to wait: {why}", why=str(failure))


def _rendered(files: EnvoyFiles, state: Mapping[str, Resource], memory: Memory | None = None) -> Rendered:
    return render(state, files.secrets.folder if files.secrets is not None else None, files.logs, memory)


def _secrets_of(files: EnvoyFiles, state: Mapping[str, Resource]) -> tuple[Secret, ...]:
    """Of a state that was in force once; none when it cannot be any more, which ``apply`` tells."""
    try:
        return _rendered(files, state).secrets
    except RejectedError:
        return ()


def _place(files: EnvoyFiles, secrets: Iterable[Secret]) -> None:
    if files.secrets is not None:
        files.secrets.write(secrets)


def launch_data_plane(folder: Path, settings: EnvoySettings, state: Mapping[str, Resource]) -> Never:
    """Become the Envoy of ``STATE/data-plane``, for a service manager; returns only by an error.  Blocking.

    ``state`` is what was in force last, for its secrets.
    """
    files = EnvoyFiles(folder)
    become_envoy(
        files, find_envoy(settings.binary), settings, ready=lambda: _place(files, _secrets_of(files, state))
    )


def service_of_data_plane(folder: Path) -> int | None:
    """The Envoy of ``STATE/data-plane``, if one lives that a service manager started."""
    process = started_by_service(EnvoyFiles(folder))
    return process.pid if process is not None else None


def stop_data_plane(folder: Path) -> int | None:
    """End the Envoy that belongs to ``STATE/data-plane`` with no agent running; its pid, or None.  Blocking.

    Addresses that were put on the host for it are taken back.
    """
    process = envoy_process.stop_data_plane(EnvoyFiles(folder))
    if (folder / RECORD).exists():
        HostAddresses(folder / RECORD).keep_only(())
    return process.pid if process is not None else None
