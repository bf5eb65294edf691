"""A raw HTTP client for tests: bytes in, bytes out, through the real Site over in-memory transports."""

import json

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from avinet.rest.access import Principal, Role
from avinet.rest.site import BoundedSite


class Known:
    """A guard that takes every caller for one user, and remembers how requests ended."""

    def __init__(self, user, role=Role.ADMIN):
        self.principal = Principal(user=user, role=role)
        self.accesses = []

    def admit(self, caller):
        pass

    async def authenticate(self, caller):
        return self.principal

    def ended(self, access):
        self.accesses.append(access)


class Transport(StringTransport):
    """A transport that remembers how it ended, and tells a push producer about back-pressure on demand."""

    aborted = False

    def abortConnection(self):
        self.aborted = True
        self.disconnected = True
        super().abortConnection()


class Answer:
    """One parsed HTTP answer."""

    def __init__(self, raw: bytes, *, head=False):
        top, _, rest = raw.partition(b"\r\n\r\n")
        lines = top.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines[1:])}
        if self.headers.get("transfer-encoding") == "chunked":
            rest = self._unchunk(rest)
        self.body = rest

    @staticmethod
    def _unchunk(data):
        out = b""
        while data:
            size, _, data = data.partition(b"\r\n")
            n = int(size, 16)
            out += data[:n]
            data = data[n + 2 :]
        return out

    @property
    def json(self):
        return json.loads(self.body)


class Connection:
    """One connection to a site."""

    def __init__(self, site: BoundedSite, peer="192.0.2.7"):
        self.transport = Transport(peerAddress=IPv4Address("TCP", peer, 4000))
        self.transport.protocol = self.channel = site.buildProtocol(self.transport.getPeer())
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes):
        self.channel.dataReceived(data)

    def answer(self):
        raw = self.transport.value()
        self.transport.clear()
        return Answer(raw)

    def lose(self):
        from twisted.internet.error import ConnectionDone
        from twisted.python.failure import Failure

        self.channel.connectionLost(Failure(ConnectionDone()))


def request_bytes(method, path, body=None, headers=None, content_type="application/json"):
    lines = [f"{method} {path} HTTP/1.1", "Host: x"]
    payload = b""
    if body is not None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines += [f"Content-Length: {len(payload)}", f"Content-Type: {content_type}"]
    lines += [f"{n}: {v}" for n, v in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + payload


class Client:
    """Makes one connection a request."""

    def __init__(self, router, clock=None, peer="192.0.2.7"):
        self.clock = clock or Clock()
        self.site = BoundedSite(router, self.clock)
        self.peer = peer

    def connect(self):
        return Connection(self.site, self.peer)

    def __call__(self, method, path, body=None, headers=None, **kwargs):
        connection = self.connect()
        connection.send(request_bytes(method, path, body, headers, **kwargs))
        answer = connection.answer()
        connection.lose()
        return answer
