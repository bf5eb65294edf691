"""Which controllers may log in over SSH as ``avictlruser`` and what for: from the membership list, as an OpenSSH file.

One ``ControllerPermit`` is one line.  The SSH server asks the index; the file is for a stock sshd and for people; both
say the same, and ``parse`` reads back exactly what ``render`` wrote.
"""

import re
from collections.abc import Iterable

import attrs

from avinet.model.ids import ControllerName
from avinet.trust.authorized_keys import (
    MAX_PORT,
    NO_COMMAND,
    AuthorizedKeysLineError,
    PermitInvalidError,
)
from avinet.trust.keys import InvalidKeyError, key_blob, parse_line

HERE = "localhost"
"""What both sides ask for: a stock sshd compares the text, and listens on the loopback whatever ``GatewayPorts`` says."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LINE = re.compile(
    r"restrict,port-forwarding,command=\"/usr/sbin/nologin\""
    r"(?P<opens>(?:,permitopen=\"localhost:\d+\")+)"
    r"(?P<listens>(?:,permitlisten=\"localhost:\d+\")+)"
    r" (?P<key>ssh-ed25519 [A-Za-z0-9+/=]+) (?P<name>\S+)"
)
_PORT = re.compile(r"localhost:(\d+)")


@attrs.frozen
class ControllerPermit:
    """One controller's line; ports are on the loopback.  ``key`` is an OpenSSH line without comment.

    Neither kind of ports may be empty: to sshd a line without ``permitopen`` allows every one.
    """

    name: ControllerName
    key: str
    opens: tuple[int, ...]
    """What it may reach here."""
    listens: tuple[int, ...]
    """What it may have listened to here on its behalf: its own services."""

    def __attrs_post_init__(self) -> None:
        """Whatever a line is made of must not end its option."""
        if not _NAME.fullmatch(self.name):
            raise PermitInvalidError(what="the controller's name", value=self.name)
        for what, ports in (("the ports to open", self.opens), ("the ports to listen on", self.listens)):
            if not ports or not all(1 <= port <= MAX_PORT for port in ports):
                raise PermitInvalidError(what=what, value=str(ports))

    def render(self) -> str:
        """The line, without its end."""
        options = ["restrict", "port-forwarding", f'command="{NO_COMMAND}"']
        options += [f'permitopen="{HERE}:{port}"' for port in self.opens]
        options += [f'permitlisten="{HERE}:{port}"' for port in self.listens]
        return f"{','.join(options)} {self.key} {self.name}"


@attrs.define(eq=False)
class ControllerKeys:
    """All lines, by key.  ``replace`` takes them whole, as a list is taken."""

    _by_key: dict[bytes, ControllerPermit] = attrs.field(factory=dict, init=False, repr=False)

    def replace(self, permits: Iterable[ControllerPermit]) -> None:
        """These and no others; ``InvalidKeyError`` leaves everything as it was."""
        by_key = {}
        for permit in permits:
            parse_line(permit.key)
            by_key[key_blob(permit.key)] = permit
        self._by_key = by_key

    def find(self, key: bytes) -> ControllerPermit | None:
        """The line of a public key in SSH wire form."""
        return self._by_key.get(key)

    def all(self) -> tuple[ControllerPermit, ...]:
        """By name."""
        return tuple(sorted(self._by_key.values(), key=lambda one: one.name))

    def render(self) -> str:
        """The whole file."""
        return "".join(permit.render() + "\n" for permit in self.all())

    @classmethod
    def parse(cls, text: str) -> "ControllerKeys":
        """The inverse of ``render``; anything else is an ``AuthorizedKeysLineError``."""
        permits = []
        for number, line in enumerate(text.splitlines(), 1):
            match = _LINE.fullmatch(line)
            if match is None:
                raise AuthorizedKeysLineError(number=number)
            try:
                opens, listens = (
                    tuple(int(port) for port in _PORT.findall(match[kind])) for kind in ("opens", "listens")
                )
                permits.append(ControllerPermit(ControllerName(match["name"]), match["key"], opens, listens))
                parse_line(match["key"])
            except (PermitInvalidError, InvalidKeyError) as why:
                raise AuthorizedKeysLineError(number=number) from why
        index = cls()
        index.replace(permits)
        return index
