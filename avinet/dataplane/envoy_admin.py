"""Asking a running Envoy, over its admin socket (a UNIX socket, 0600)."""

import socket
import struct
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, ResponseDone
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.interface import DataPlaneDownError
from avinet.units import MIB

MAX_ANSWER_BYTES = 128 * MIB
"""The configuration of 20,000 resources, at some 5 KiB of JSON each."""
_CONNECT_TIMEOUT_S = 2


@implementer(IAgentEndpointFactory)
@attrs.frozen
class _OneSocket:
    reactor: Any
    path: Path

    def endpointForURI(self, uri: URI) -> UNIXClientEndpoint:
        """The socket, whatever the URI's host."""
        return UNIXClientEndpoint(self.reactor, str(self.path), timeout=_CONNECT_TIMEOUT_S)


class _Body(Protocol):
    """Collects an answer, up to ``MAX_ANSWER_BYTES``."""

    def __init__(self, done: "Deferred[bytes]") -> None:
        self._done = done
        self._parts: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_ANSWER_BYTES:
            self.cut()
            return
        self._parts.append(data)

    def cut(self) -> None:
        """Give up: close the connection."""
        if self.transport is not None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: B008 - Twisted's signature
        if self._done.called:
            return
        if reason.check(ResponseDone) and self._size <= MAX_ANSWER_BYTES:
            self._done.callback(b"".join(self._parts))
        else:
            self._done.errback(DataPlaneDownError(detail="its answer was cut short"))


@attrs.define(eq=False)
class EnvoyAdmin:
    """One Envoy's admin interface.  Every call fails with ``DataPlaneDownError`` when it does not answer."""

    reactor: Any
    files: EnvoyFiles
    timeout_s: float

    @property
    def path(self) -> Path:
        """The socket; it moves when Envoy is started in another environment."""
        return self.files.socket

    async def ask(self, query: str, *, method: bytes = b"GET") -> bytes:
        """The body of ``/query``."""
        asked = Deferred.fromCoroutine(self._exchange(query, method))
        try:
            return await asked.addTimeout(self.timeout_s, self.reactor)
        except (DataPlaneDownError, CancelledError):
            raise
        except DeferredTimeoutError:
            detail = f"no answer from {self.path} within {self.timeout_s:g} s"
            raise DataPlaneDownError(detail=detail) from None
        except Exception as failure:
            raise DataPlaneDownError(detail=f"{self.path}: {failure or type(failure).__name__}") from failure

    async def _exchange(self, query: str, method: bytes) -> bytes:
        agent = Agent.usingEndpointFactory(self.reactor, _OneSocket(self.reactor, self.path))
        response: IResponse = await agent.request(method, f"http://envoy/{query}".encode())
        done: Deferred[bytes] = Deferred(lambda _: body_reader.cut())
        body_reader = _Body(done)
        response.deliverBody(body_reader)
        body = await done
        if response.code != 200:
            said = body.decode("utf-8", "replace")[:200]
            raise DataPlaneDownError(detail=f"/{query.partition('?')[0]} answers {response.code}: {said}")
        return body

    async def _json(self, query: str) -> Any:
        try:
            return msgspec.json.decode(await self.ask(query))
        except (msgspec.DecodeError, UnicodeDecodeError) as failure:
            raise DataPlaneDownError(detail=f"its answer is not JSON: {failure}") from failure

    async def stats(self, pattern: str, *, only: str = "") -> dict[str, int | str]:
        """Counters, gauges and text readouts whose whole name matches ``pattern`` (RE2).

        Envoy walks over all that it has: with 500 virtual services a look takes it 50 ms.
        """
        answer = await self._json(f"stats?format=json{only}&filter={quote(f'^({pattern})$')}")
        return {s["name"]: s["value"] for s in answer["stats"] if "name" in s}

    async def texts(self, pattern: str) -> dict[str, int | str]:
        """Text readouts alone; they are few, so a look takes Envoy 1 ms however much it has."""
        return await self.stats(pattern, only="&type=TextReadouts")

    async def counters(self, pattern: str) -> dict[str, int | str]:
        """Counters alone that have counted anything."""
        return await self.stats(pattern, only="&type=Counters&usedonly")

    async def histograms(self, pattern: str) -> list[dict[str, Any]]:
        """Like ``stats``, as Envoy gives it, and histograms with each of their bins."""
        query = f"stats?format=json&histogram_buckets=detailed&filter={quote(f'^({pattern})$')}"
        items: list[dict[str, Any]] = (await self._json(query))["stats"]
        return items

    async def dump(self, resource: str, *, mask: str = "") -> list[dict[str, Any]]:
        """The items of one part of its configuration: ``dynamic_listeners``, ``dynamic_active_clusters``...

        With a ``mask`` only those of their fields.
        """
        answer = await self._json(f"config_dump?resource={resource}" + (f"&mask={mask}" if mask else ""))
        items: list[dict[str, Any]] = answer.get("configs", [])
        return items

    async def clusters(self) -> list[dict[str, Any]]:
        """Every cluster with its servers and their health."""
        answer = await self._json("clusters?format=json")
        items: list[dict[str, Any]] = answer.get("cluster_statuses", [])
        return items

    async def state(self) -> str:
        """``LIVE`` once it serves."""
        return str((await self._json("server_info"))["state"])

    async def reopen_logs(self) -> None:
        """Have it open its log files anew, after a rename."""
        await self.ask("reopen_logs", method=b"POST")


def peer_of(path: Path) -> int | None:
    """The process that listens on the UNIX socket ``path``, as the kernel says; None when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)  # a listener whose queue is full is as good as none
        try:
            connection.connect(str(path))
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return None
    pid: int = struct.unpack("3i", credentials)[0]
    return pid or None
