"""The folders and files of one SE's Envoy.

``STATE/data-plane/`` holds what must survive: bootstrap, LDS and CDS (a folder each: Envoy re-reads everything in
a watched folder at each rename), log, and who runs (``envoy.json``).  Private keys are in memory only
(``avinet.dataplane.envoy_secret_files``).  The admin socket lives in a short runtime
folder of its own, since Envoy refuses socket paths over 108 bytes; its name is derived from the state folder, so
that two SEs on one machine do not collide.  All files are 0600 in 0700 folders.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import msgspec

from avinet.dataplane.envoy_secret import Secret, with_static_secrets
from avinet.dataplane.envoy_secret_files import SecretFiles, memory_folder, own_folder
from avinet.dataplane.envoy_settings import EnvoySettings
from avinet.dataplane.interface import LogFiles
from avinet.model.logs import LogClass
from avinet.trust.files import DiskFullError, private_dir, write_private
from avinet.units import MIB

MAX_LOG_BYTES = 8 * MIB
"""Envoy's own log, at its default level a few lines a day; one old file is kept beside it."""
FLUSH_INTERVAL_MS = 1_000
"""Until a line that was logged is in its file, at 64 KiB sooner.  Envoy's default of 10 s is what whoever follows the
logs would wait."""
_TYPES = {
    "lds": "type.googleapis.com/envoy.config.listener.v3.Listener",
    "cds": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
}
_CONNECTIONS = (
    "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3"
    ".DownstreamConnectionsConfig"
)


_SILENT = re.compile(r"empty|[0-9a-f]{12}")
"""Versions of older agents: only the name of the write."""


def _digest(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()[:32]


def _runtime_base() -> Path:
    """XDG_RUNTIME_DIR, else /run for root, else /tmp."""
    for candidate in (os.environ.get("XDG_RUNTIME_DIR", ""), "/run"):
        if candidate and os.access(candidate, os.W_OK | os.X_OK):
            return Path(candidate)
    return Path("/tmp")  # noqa: S108 - the folder made in it is checked for owner and mode


def _absolute(folder: Path) -> Path:
    """Envoy runs in a folder of its own."""
    return folder.absolute()


def _put(path: Path, data: bytes) -> None:
    """Write what is not there yet: Envoy must start again on a full disk too, with the files that it had."""
    try:
        if path.read_bytes() == data:
            return
    except OSError:
        pass
    write_private(path, data)


class _Head(msgspec.Struct):
    """All else is skipped."""

    version_info: str


@attrs.frozen
class XdsFile:
    """What tells one LDS or CDS file from another."""

    version: str
    """As Envoy reports it."""
    digest: bytes
    """Of the whole file."""

    @classmethod
    def of(cls, version: str, whole: bytes) -> "XdsFile":
        """With this content."""
        return cls(version, hashlib.sha256(whole).digest())


@attrs.frozen
class EnvoyFiles:
    """Where everything is.  ``folder`` is ``STATE/data-plane``."""

    folder: Path = attrs.field(converter=_absolute)

    @property
    def bootstrap(self) -> Path:
        """What Envoy is started with."""
        return self.folder / "bootstrap.json"

    @property
    def validation(self) -> Path:
        """A whole configuration without secrets, only ever read by ``envoy --mode validate``."""
        return self.folder / "validate.json"

    @property
    def log(self) -> Path:
        """Envoy's own log."""
        return self.folder / "envoy.log"

    @property
    def record(self) -> Path:
        """Which process runs."""
        return self.folder / "envoy.json"

    @property
    def logs(self) -> LogFiles:
        """Request logs."""
        return LogFiles(self.folder / "logs")

    @property
    def _runtime_note(self) -> Path:
        return self.folder / "runtime"

    def xds(self, kind: str) -> Path:
        """``kind`` is ``lds`` or ``cds``."""
        return self.folder / kind / f"{kind}.json"

    @property
    def socket(self) -> Path:
        """The admin socket; where it was when Envoy was started, whatever the environment says now."""
        try:
            runtime = Path(self._runtime_note.read_text().strip())
        except FileNotFoundError:
            runtime = self._usual_runtime()
        return runtime / "admin.sock"

    def _usual_runtime(self) -> Path:
        name = hashlib.sha256(os.fsencode(self.folder.resolve())).hexdigest()[:12]
        return _runtime_base() / f"avinet-{name}"

    def prepare_folders(self) -> None:
        """Make the folders."""
        for folder in (self.folder, self.logs.folder, *(self.folder / kind for kind in _TYPES)):
            private_dir(folder)

    def prepare(self) -> None:
        """Make the folders, and the empty configuration where there is none yet."""
        self.prepare_folders()
        for kind in _TYPES:
            if not self.xds(kind).exists():
                self.write_xds(kind, "empty", ())

    def prepare_runtime(self) -> None:
        """Make the folder of the admin socket, owned by us alone, and remember it."""
        if not self.socket.parent.parent.is_dir():
            self._runtime_note.unlink(missing_ok=True)  # it was on a runtime folder that a logout removed
        runtime = self.socket.parent
        own_folder(runtime)
        try:
            _put(self._runtime_note, f"{runtime}\n".encode())
        except DiskFullError:
            # The note matters only once the environment names another folder.
            if runtime != self._usual_runtime():
                raise

    @property
    def secrets(self) -> SecretFiles | None:
        """The files with private keys; None where no memory file system is."""
        folder = memory_folder(self.socket.parent)
        return SecretFiles(folder) if folder is not None else None

    def forget_process(self) -> None:
        """Remove what only a running Envoy needs: who runs, its secrets, and the runtime folder."""
        if self.secrets is not None:
            self.secrets.remove()
        self.record.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.socket.parent.rmdir()
        self._runtime_note.unlink(missing_ok=True)

    def write_xds(self, kind: str, write: str, resources: tuple[dict[str, Any], ...]) -> XdsFile:
        """Rename a new ``lds`` or ``cds`` file into place: Envoy reads it at once.

        The version that Envoy then reports: ``write``, which names this write and no other, and what was written.
        """
        encoded = msgspec.json.encode([{"@type": _TYPES[kind], **resource} for resource in resources])
        version = f"{write}-{_digest(encoded)}"
        whole = b'{"version_info":%b,"resources":%b}' % (msgspec.json.encode(version), encoded)
        write_private(self.xds(kind), whole)
        return XdsFile.of(version, whole)

    def xds_file(self, kind: str) -> XdsFile:
        """The file as it is; ``OSError`` or ``msgspec.DecodeError`` when it cannot be read."""
        whole = self.xds(kind).read_bytes()
        return XdsFile.of(str(msgspec.json.decode(whole, type=_Head).version_info), whole)

    def as_written(self, kind: str) -> bool:
        """Whether the file has what its version says; also when it is of an agent whose versions did not say."""
        try:
            content = msgspec.json.decode(self.xds(kind).read_bytes())
            write, _, digest = str(content["version_info"]).partition("-")
            encoded = msgspec.json.encode(content["resources"])
            return digest == _digest(encoded) if digest else _SILENT.fullmatch(write) is not None
        except (OSError, msgspec.DecodeError, KeyError, TypeError):
            return False

    def read_xds(self, kind: str) -> tuple[dict[str, Any], ...]:
        """The resources of the file in place, as ``write_xds`` takes them; none when it is damaged."""
        try:
            content = msgspec.json.decode(self.xds(kind).read_bytes())
            resources = content["resources"]
        except (FileNotFoundError, msgspec.DecodeError, KeyError, TypeError):
            return ()
        return tuple({k: v for k, v in r.items() if k != "@type"} for r in resources)

    def write_validation(
        self,
        clusters: Iterable[Any],
        listeners: Iterable[Any],
        secrets: Iterable[Secret],
        number: int = 0,
    ) -> Path:
        """Write what ``--mode validate`` is to look at: validation does not read LDS, CDS and SDS files.

        With secrets in it is in memory, and the caller's to remove; so are those with another ``number`` than 0, which
        are looked at beside it.
        """
        resources: dict[str, Any] = {"clusters": clusters, "listeners": listeners}
        path, found, files = self.validation, [secret.static for secret in secrets], self.secrets
        if found and files is not None:
            path = files.validation
            own_folder(path.parent.parent)
            own_folder(path.parent)
            resources = {**with_static_secrets(resources), "secrets": found}
        if number:
            path = path.with_stem(f"{path.stem}-{number}")
        content = {"node": {"id": "avinet", "cluster": "avinet"}, "static_resources": resources}
        encoded = msgspec.json.encode(content)
        for log_class in LogClass:
            # It would make the file, at a moment when the one who has renamed it waits for the other Envoy to do so.
            encoded = encoded.replace(msgspec.json.encode(str(self.logs.current(log_class))), b'"/dev/null"')
        write_private(path, encoded)
        return path

    def write_bootstrap(self, max_connections: int) -> None:
        """Write the bootstrap: where everything else is, and the limit on connections."""
        source = {
            f"{kind}_config": {
                "resource_api_version": "V3",
                "path_config_source": {
                    "path": str(self.xds(kind)),
                    "watched_directory": {"path": str(self.xds(kind).parent)},
                },
            }
            for kind in _TYPES
        }
        content = {
            "node": {"id": "avinet", "cluster": "avinet"},
            "admin": {"address": {"pipe": {"path": str(self.socket), "mode": 0o600}}},
            "dynamic_resources": source,
            "overload_manager": {
                "resource_monitors": [
                    {
                        "name": "envoy.resource_monitors.global_downstream_max_connections",
                        "typed_config": {
                            "@type": _CONNECTIONS,
                            "max_active_downstream_connections": max_connections,
                        },
                    }
                ]
            },
        }
        _put(self.bootstrap, msgspec.json.encode(content))

    def command(self, binary: Path, settings: EnvoySettings) -> list[str]:
        """How Envoy is started.

        Without ``--disable-hot-restart`` it asks the kernel to end it with its parent.
        """
        return [
            str(binary),
            *("-c", str(self.bootstrap)),
            *("--concurrency", str(settings.concurrency)),
            "--disable-hot-restart",
            *("--drain-time-s", str(settings.drain_s)),
            *("--drain-strategy", "immediate"),
            *("-l", settings.log_level),
            *("--log-path", str(self.log)),
            *("--file-flush-interval-msec", str(FLUSH_INTERVAL_MS)),
        ]

    def rotate_log(self) -> bool:
        """Rename the log where it is too long; True while Envoy must be told to open it anew."""
        renamed = self.log.with_suffix(".log.1")
        try:
            if self.log.stat().st_size <= MAX_LOG_BYTES:
                return False
        except FileNotFoundError:
            # Renamed and not opened anew: an Envoy that was not told writes to the old file, which nobody would
            # rotate.  One that was told opens it with its next line.
            return renamed.exists()
        self.log.replace(renamed)
        return True

    def log_tail(self, lines: int = 3) -> str:
        """The log's end, for errors."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 4096))
                return " / ".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "it wrote no log"
