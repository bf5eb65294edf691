"""Who may log in over SSH and what for: an index in memory, and the same facts as an OpenSSH file.

One ``Permit`` is one line.  The SSH server asks the index; the file is for a stock sshd and for people.  The two
come from the same permits, and ``parse`` reads back exactly what ``render`` wrote, so a test can show that nothing
is lost on the way.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import ClassVar

import attrs

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import SeId
from avinet.trust.keys import InvalidKeyError, key_blob, parse_line

NO_COMMAND = "/usr/sbin/nologin"

_LINE = re.compile(
    r"restrict,port-forwarding,command=\"/usr/sbin/nologin\""
    r"(?P<opens>(?:,permitopen=\"[^\",]+:\d+\")*)"
    r",permitlisten=\"(?P<loopback>[0-9.]+):(?P<port>\d+)\""
    r"(?:,from=\"(?P<networks>[^\"]+)\")?"
    r" (?P<key>ssh-ed25519 [A-Za-z0-9+/=]+) (?P<se>se-[0-9a-f-]+)"
)
_HOST = re.compile(r"[A-Za-z0-9.:_-]{1,253}")
_SE = re.compile(r"se-[0-9a-f-]+")
MAX_PORT = 65535
_OPEN = re.compile(r"permitopen=\"([^\",]+):(\d+)\"")


@error
class PermitInvalidError(AvinetError):
    """{what} {value!r} cannot stand in authorized_keys."""

    kind: ClassVar[Kind] = Kind.INVALID
    what: str
    value: str


@error
class AuthorizedKeysLineError(AvinetError):
    """Line {number} is not one that avinet writes into authorized_keys."""

    kind: ClassVar[Kind] = Kind.INVALID
    number: int


@attrs.frozen
class Permit:
    """One SE's line.  ``key`` is an OpenSSH line without comment; no ``networks`` means from anywhere."""

    se: SeId
    key: str
    loopback: str
    reverse_port: int
    permit_open: tuple[tuple[str, int], ...] = ()
    networks: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        """Whatever a line is made of must not end its option: a quote in a network would add one."""
        if not _SE.fullmatch(self.se):
            raise PermitInvalidError(what="the service engine's id", value=self.se)
        for host, port in (*self.permit_open, (self.loopback, self.reverse_port)):
            if not _HOST.fullmatch(host) or not 1 <= port <= MAX_PORT:
                raise PermitInvalidError(what="the address", value=f"{host}:{port}")
        for network in self.networks:
            # ip_network takes any text as an IPv6 scope, "fe80::%a\"b" included; sshd knows no scopes here.
            if "%" in network or not _is_network(network):
                raise PermitInvalidError(what="the network", value=network)

    def render(self) -> str:
        """The line, without its end."""
        options = ["restrict", "port-forwarding", f'command="{NO_COMMAND}"']
        options += [f'permitopen="{host}:{port}"' for host, port in self.permit_open]
        options.append(f'permitlisten="{self.loopback}:{self.reverse_port}"')
        if self.networks:
            options.append(f'from="{",".join(self.networks)}"')
        return f"{','.join(options)} {self.key} {self.se}"

    def allowed_from(self, address: str) -> bool:
        """Whether a login from ``address`` is within ``networks``."""
        if not self.networks:
            return True
        try:
            source = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(source, "ipv4_mapped", None)
        return any((mapped or source) in ipaddress.ip_network(network) for network in self.networks)


@attrs.define(eq=False)
class AuthorizedKeys:
    """All permits of one user, by SE and by key."""

    _by_se: dict[SeId, Permit] = attrs.field(factory=dict, init=False)
    _by_key: dict[bytes, Permit] = attrs.field(factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self._by_se)

    def put(self, permit: Permit) -> None:
        """Add a permit, in place of the one that its SE or, since a key stands for one SE, its key had."""
        parse_line(permit.key)
        blob = key_blob(permit.key)
        before = self._by_key.get(blob)
        if before is not None:
            self.remove(before.se)
        self.remove(permit.se)
        self._by_se[permit.se] = permit
        self._by_key[blob] = permit

    def remove(self, se: SeId) -> None:
        """Forget an SE; it need not be there."""
        permit = self._by_se.pop(se, None)
        if permit is not None:
            del self._by_key[key_blob(permit.key)]

    def find(self, key_blob: bytes) -> Permit | None:
        """The permit of a public key in SSH wire form."""
        return self._by_key.get(key_blob)

    def by_se(self, se: SeId) -> Permit | None:
        """The permit of an SE."""
        return self._by_se.get(se)

    def render(self) -> str:
        """The whole file, by UUID."""
        return render_all(self.permits())

    def permits(self) -> list[Permit]:
        """All of them as they are now; rendering thousands may then be another thread's work."""
        return list(self._by_se.values())

    @classmethod
    def parse(cls, text: str) -> "AuthorizedKeys":
        """The inverse of ``render``; anything else is an ``AuthorizedKeysLineError``."""
        index = cls()
        for number, line in enumerate(text.splitlines(), 1):
            match = _LINE.fullmatch(line)
            if match is None:
                raise AuthorizedKeysLineError(number=number)
            try:
                index.put(
                    Permit(
                        se=SeId(match["se"]),
                        key=match["key"],
                        loopback=match["loopback"],
                        reverse_port=int(match["port"]),
                        permit_open=tuple((host, int(port)) for host, port in _OPEN.findall(match["opens"])),
                        networks=tuple(match["networks"].split(",")) if match["networks"] else (),
                    )
                )
            except (PermitInvalidError, InvalidKeyError) as why:
                raise AuthorizedKeysLineError(number=number) from why
        return index


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def known_hosts_line(loopback: str, port: int, host_key: str) -> str:
    """One line of ``known_hosts`` for an SE behind its loopback address."""
    return f"[{loopback}]:{port} {host_key}" if port != 22 else f"{loopback} {host_key}"


def render_all(permits: Iterable[Permit]) -> str:
    """The whole file, by UUID."""
    return "".join(permit.render() + "\n" for permit in sorted(permits, key=lambda one: one.se))
