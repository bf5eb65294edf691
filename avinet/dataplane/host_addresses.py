"""Addresses on the host's interfaces, by ``ip`` (iproute2): added for virtual services, and exactly those taken back.

Which ones are ours is written down before each is added, for this boot of the machine: after a reboot none is there, and
one that an administrator adds then is not ours.  One that is there already is left alone, whoever put it there.

All of it blocks, for some milliseconds each.
"""

import ipaddress
import json
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import attrs
import msgspec
from twisted.logger import Logger

from avinet.errors import AvinetError, Kind, error
from avinet.model.vip_interface import HostAddress
from avinet.trust.files import write_private

TIMEOUT_S = 5.0
"""A question to the kernel; only a machine that is stuck takes longer."""
RECORD = "addresses.json"
"""In ``STATE/data-plane``."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
ANNOUNCEMENTS = 2
"""One may be lost; more help nobody."""
_SEARCH = "/usr/sbin:/sbin:/usr/bin:/bin"


@error
class HostAddressError(AvinetError):
    """{address} cannot be had on {interface}: {detail}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    address: str
    interface: str
    detail: str


@attrs.frozen
class Ran:
    """How one ``ip`` ended."""

    status: int
    out: str
    error: str


def run_ip(*arguments: str) -> Ran:
    """Run it; a missing program or one that hangs is a status like others."""
    program = shutil.which("ip", path=_SEARCH)
    if program is None:
        return Ran(127, "", "this host has no program ip (iproute2)")
    try:
        done = subprocess.run(
            (program, *arguments), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        return Ran(126, "", str(failure))
    return Ran(done.returncode, done.stdout, done.stderr.strip())


class _Record(msgspec.Struct, frozen=True):
    boot: str
    ours: list[tuple[str, str]]


def announce(one: HostAddress) -> None:
    """Tell neighbours that an IPv4 address is here now, as far as this process may (``CAP_NET_RAW``).

    Without, they find out when what they remember of the old place ends, within a minute.
    """
    if ":" in one.address:
        return
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((one.interface, 0))
            ours = raw.getsockname()[4]
            if len(ours) != 6 or not any(ours):
                return  # not an Ethernet: nobody asks for addresses there
            address = socket.inet_aton(one.address)
            head = b"\xff" * 6 + ours + struct.pack("!H", 0x0806)
            # A request for itself from itself (RFC 5227, 3): what every host's memory takes.
            body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + ours + address + bytes(6) + address
            for _ in range(ANNOUNCEMENTS):
                raw.send(head + body)
    except OSError as why:
        Logger().info(
            "{address} on {interface} was not announced to neighbours: {why}",
            address=one.address,
            interface=one.interface,
            why=str(why),
        )


@attrs.define(eq=False)
class HostAddresses:
    """``record`` is the file of what is ours."""

    record: Path
    run: Callable[..., Ran] = run_ip
    announce: Callable[[HostAddress], None] = announce
    boot: str = attrs.field(factory=lambda: BOOT_ID.read_text().strip())
    _log: ClassVar[Logger] = Logger()

    def missing(self, wanted: Iterable[HostAddress]) -> list[HostAddress]:
        """Those that are not where they should be; somebody else's does anywhere on this host, ours only there."""
        ours = {(one.interface, _canonical(one.address)) for one in self._ours()}
        there = self._there()
        others = {address for interface, address in there - ours}
        return sorted(
            one
            for one in set(wanted)
            if (address := _canonical(one.address)) not in others and (one.interface, address) not in there
        )

    def add(self, wanted: Iterable[HostAddress]) -> list[HostAddress]:
        """Put there what is missing, all or none: what was added.  ``HostAddressError``."""
        added: list[HostAddress] = []
        missing = self.missing(wanted)
        if not missing:
            return added
        self._keep(self._ours() | set(missing))
        try:
            for one in missing:
                self._add(one)
                added.append(one)
        except HostAddressError:
            self._drop(missing)
            raise
        for one in added:
            self.announce(one)
        return added

    def keep_only(self, wanted: Iterable[HostAddress]) -> None:
        """Take back what is ours and not wanted; what cannot be taken back stays ours, and is tried again."""
        self._drop(self._ours() - set(wanted))

    def take_back(self, some: Iterable[HostAddress]) -> None:
        """Take back some of ours."""
        self._drop(self._ours() & set(some))

    # Inside

    def _there(self) -> set[tuple[str, str]]:
        """(interface, address)."""
        ran = self.run("-json", "address", "show")
        if ran.status:
            raise HostAddressError(address="any address", interface="any interface", detail=ran.error)
        found: list[dict[str, Any]] = json.loads(ran.out or "[]")
        return {
            (link["ifname"], _canonical(info["local"]))
            for link in found
            for info in link.get("addr_info", ())
            if "local" in info
        }

    def _add(self, one: HostAddress) -> None:
        ran = self.run("address", "add", *_spec(one), *(("nodad",) if ":" in one.address else ()))
        if ran.status and "File exists" not in ran.error:
            raise HostAddressError(
                address=one.address, interface=one.interface, detail=self._why(ran.error, one)
            )
        self._log.info("{address} was added to {interface}", address=one.address, interface=one.interface)

    def _why(self, said: str, one: HostAddress) -> str:
        if "Operation not permitted" in said:
            return (
                "the agent may not change addresses; give it CAP_NET_ADMIN (systemctl edit avise), or put the address "
                "there yourself"
            )
        if "Cannot find device" in said:
            ran = self.run("-json", "link", "show")
            names = [link["ifname"] for link in json.loads(ran.out or "[]")] if not ran.status else []
            return f"this host has no such interface; it has {', '.join(names[:10])}"
        return said or "ip failed without a word"

    def _drop(self, some: Iterable[HostAddress]) -> None:
        gone: set[HostAddress] = set()
        for one in sorted(some):
            ran = self.run("address", "del", *_spec(one))
            if not ran.status or "Cannot assign" in ran.error or "Cannot find device" in ran.error:
                gone.add(one)
                self._log.info(
                    "{address} was taken from {interface}", address=one.address, interface=one.interface
                )
            else:
                self._log.warn(
                    "{address} stays on {interface}: {why}",
                    address=one.address,
                    interface=one.interface,
                    why=ran.error,
                )
        if gone:
            self._keep(self._ours() - gone)

    def _ours(self) -> set[HostAddress]:
        try:
            found = msgspec.json.decode(self.record.read_bytes(), type=_Record)
        except FileNotFoundError:
            return set()
        except (OSError, msgspec.MsgspecError) as failure:
            self._log.error("which addresses are ours cannot be read: {why}", why=str(failure))
            return set()
        return {HostAddress(*one) for one in found.ours} if found.boot == self.boot else set()

    def _keep(self, ours: Iterable[HostAddress]) -> None:
        record = _Record(self.boot, [(one.interface, one.address) for one in sorted(ours)])
        write_private(self.record, msgspec.json.encode(record))


def _canonical(address: str) -> str:
    return str(ipaddress.ip_address(address))


def _spec(one: HostAddress) -> tuple[str, ...]:
    length = 128 if ":" in one.address else 32
    return f"{one.address}/{length}", "dev", one.interface
