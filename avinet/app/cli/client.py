"""A blocking client of the operator API, for the command line and for threads.

Over the controller's UNIX socket, where the file's permissions are the login, or over TLS with a user's password.
Each call has a connection of its own, so one ``Client`` may be used by several threads.  Whatever goes wrong is an
``AvinetError``: a problem document becomes ``RefusedError`` with the controller's own sentence.
"""

import base64
import contextlib
import http.client
import json
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self
from urllib.parse import quote, urlencode, urlsplit

import attrs

from avinet.app.cli.errors import (
    ConnectionLostError,
    ControllerStartingError,
    ControllerUnreachableError,
    ControllerUntrustedError,
    NoAnswerError,
    ReaderGoneError,
    RefusedError,
    StrangeAnswerError,
    UsageError,
    phrase_of,
)
from avinet.app.cli.pin import MAX_PEM_BYTES, Pinned, RootChangedError
from avinet.trust.locks import lock_holder
from avinet.units import MIB

TIMEOUT_S = 150.0
"""More than the slowest route takes (creating a machine, 120 s), so that the controller's own error is what is seen."""
STREAM_TIMEOUT_S = 45.0
"""Three heartbeats of the event stream: a controller silent for longer is gone."""
FETCH_TIMEOUT_S = 660.0
"""Until the first byte of a file that is made for it: more than the slowest such route (an export, 600 s)."""
MAX_ANSWER_BYTES = 256 * MIB
"""A list of 10,000 SEs is 8 MiB."""
ROOT_TIMEOUT_S = 15.0
"""For one small file of whoever answers there."""
CHUNK_BYTES = 64 * 1024
JSON_TYPE = "application/json"
MAX_EVENT_LINE_BYTES = MIB
"""An event is about a KiB."""


SOCKET_ADVICE = (
    "Say where it is: with --state DIR (AVINET_STATE) on its own machine, with avinet login URL on another."
)
STARTING_ADVICE = "Try again in a moment, or ask another controller."
URL_ADVICE = "If it is, see whether address and port are right: its port is [api] port of its settings, 443 unless set."
LOGIN_ADVICE = "That is where you are logged in. For another controller: avinet login URL; for one on this machine: --state DIR (AVINET_STATE)."
ROOT_ADVICE = (
    "Compare and keep its root once: avinet login {place}; or name the cluster's root certificate "
    "(STATE/trust/root.pem there) with --ca."
)
NAMES_ADVICE = "Ask for it by a name that its certificate has: those in [controller] addresses and [api] names of its settings."
_MISNAMED = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH (OpenSSL's x509_vfy.h)."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


@attrs.frozen
class _Ask:
    """One request."""

    method: str
    target: str
    data: bytes | None = attrs.field(default=None, repr=False)
    content_type: str | None = None
    timeout_s: float | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Client:
    """The operator API at one place."""

    place: str
    """For errors: the socket's path, or the URL."""
    _connect: Callable[[float], http.client.HTTPConnection] = attrs.field(repr=False)
    _headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    timeout_s: float = TIMEOUT_S
    fingerprint: str = ""
    """Of the root that was pinned, where one was."""
    advice: str = URL_ADVICE
    """For when nobody is there."""
    folder: Path | None = None
    """The state folder beside it, whose lock says whether somebody is there all the same."""

    @classmethod
    def unix(cls, path: Path | str) -> Self:
        """Over ``STATE/api.sock``."""
        socket_path = Path(path)
        return cls(
            str(socket_path),
            lambda timeout_s: _UnixConnection(socket_path, timeout_s),
            advice=SOCKET_ADVICE,
            folder=socket_path.parent,
        )

    @classmethod
    def tls(
        cls,
        url: str,
        ca: Path | str | None = None,
        user: str | None = None,
        password: str | None = None,
        root: str | None = None,
    ) -> Self:
        """Over TLS; ``root`` is a certificate's text.  Without it and ``ca``, the system's certificates are trusted."""
        host, port = _place_of(url)
        try:
            context = ssl.create_default_context(cafile=None if ca is None else os.fspath(ca), cadata=root)
        except (OSError, ssl.SSLError) as why:
            raise UsageError(what=f"the certificate file {ca} does not read: {why}") from why
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        headers = {}
        if user is not None:
            login = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
            headers["Authorization"] = f"Basic {login}"
        return cls(
            url,
            lambda timeout_s: http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context),
            headers,
        )

    @classmethod
    def pinned(cls, login: Pinned) -> Self:
        """By the login that ``avinet login`` kept."""
        made = cls.tls(login.url, root=login.root)
        bearer = {"Authorization": f"Bearer {login.token}"}
        return attrs.evolve(made, headers=bearer, fingerprint=login.fingerprint, advice=LOGIN_ADVICE)

    @staticmethod
    def root_of(url: str) -> bytes:
        """What the API at ``url`` calls its root certificate.  Nothing is verified and nothing is sent: compare it."""
        host, port = _place_of(url)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=ROOT_TIMEOUT_S, context=context)
        client = Client(url, lambda timeout_s: connection)
        with client._asked(_Ask("GET", "/root.pem", timeout_s=ROOT_TIMEOUT_S)) as answer:
            return answer.read(MAX_PEM_BYTES + 1)

    def get(
        self, path: str, query: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """The decoded JSON answer."""
        return self._json(_Ask("GET", _target(path, query), timeout_s=timeout_s))

    def post(
        self,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        content_type: str = JSON_TYPE,
        query: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send ``body`` as JSON, or ``raw`` as it is."""
        data = raw if raw is not None else json.dumps({} if body is None else body).encode()
        return self._json(_Ask("POST", _target(path, query), data, content_type))

    def put(self, path: str, body: Any) -> Any:
        """Send ``body`` as JSON."""
        return self._json(_Ask("PUT", path, json.dumps(body).encode(), JSON_TYPE))

    def delete(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """Delete what is there."""
        return self._json(_Ask("DELETE", _target(path, query)))

    def text(self, path: str) -> str:
        """An answer that is no JSON, such as metrics."""
        with self._asked(_Ask("GET", path)) as answer:
            text = answer.read(MAX_ANSWER_BYTES + 1)
            if len(text) > MAX_ANSWER_BYTES or answer.length:
                raise StrangeAnswerError(place=self.place, why=f"it is over {MAX_ANSWER_BYTES} bytes, or cut")
            return text.decode("utf-8", "replace")

    def download(self, path: str, body: Any, out: BinaryIO) -> Mapping[str, str]:
        """POST ``body`` and write the answer's bytes to ``out``; the answer's header fields, in lower case."""
        return self.send(path, json.dumps(body).encode(), JSON_TYPE, out)

    def send(self, path: str, data: bytes, content_type: str, out: BinaryIO) -> Mapping[str, str]:
        """POST ``data`` as it is and write the answer's bytes to ``out``; the answer's header fields, in lower case."""
        with self._asked(_Ask("POST", path, data, content_type)) as answer:
            return _written(answer, out, self.place)

    def fetch(self, path: str, query: Mapping[str, Any], out: BinaryIO) -> Mapping[str, str]:
        """GET what is no JSON and write its bytes to ``out``; the answer's header fields, in lower case."""
        with self._asked(_Ask("GET", _target(path, query), timeout_s=FETCH_TIMEOUT_S)) as answer:
            return _written(answer, out, self.place)

    def stream_events(
        self, after: int | str | None = None, path: str = "/api/events"
    ) -> Iterator[dict[str, Any]]:
        """Events, or what else ``path`` streams, as they happen: those after id ``after``, or from now on.  Ends only by an error."""
        extra = {"Accept": "text/event-stream"}
        if after is not None:
            extra["Last-Event-ID"] = str(after)
        with self._asked(_Ask("GET", path, timeout_s=STREAM_TIMEOUT_S, headers=extra)) as answer:
            data: list[bytes] = []
            while line := answer.readline(MAX_EVENT_LINE_BYTES):
                text = line.rstrip(b"\r\n")
                if not text and data:
                    yield self._decoded(b"\n".join(data))
                    data = []
                elif text.startswith(b"data:"):
                    data.append(text[5:].removeprefix(b" "))
            raise ConnectionLostError(place=self.place, why="the controller closed the stream")

    def _json(self, ask: _Ask) -> Any:
        with self._asked(ask) as answer:
            text = answer.read(MAX_ANSWER_BYTES + 1)
            if len(text) > MAX_ANSWER_BYTES:
                raise StrangeAnswerError(place=self.place, why=f"it is over {MAX_ANSWER_BYTES} bytes")
            if answer.length:  # http.client says nothing when a bounded read ends early
                raise ConnectionLostError(place=self.place, why=f"{answer.length} bytes are missing")
            return self._decoded(text) if text else None

    def _decoded(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except ValueError as why:
            raise StrangeAnswerError(place=self.place, why="what came is not JSON") from why

    @contextlib.contextmanager
    def _asked(self, ask: _Ask) -> Iterator[http.client.HTTPResponse]:
        """Ask, and give the successful answer; whatever fails meanwhile becomes an ``AvinetError``."""
        limit = self.timeout_s if ask.timeout_s is None else ask.timeout_s
        headers = {"Accept": JSON_TYPE, **self._headers, **ask.headers}
        if ask.content_type is not None:
            headers["Content-Type"] = ask.content_type
        connection = self._connect(limit)
        try:
            self._open(connection)
            with contextlib.suppress(BrokenPipeError):  # refused before all of it was read: see the answer
                connection.request(ask.method, ask.target, ask.data, headers)
            answer = connection.getresponse()
            if answer.status >= 300:
                raise self._refused(answer)
            yield answer
        except TimeoutError as why:
            raise NoAnswerError(place=self.place, limit_s=limit) from why
        except (http.client.IncompleteRead, http.client.RemoteDisconnected, ConnectionError) as why:
            raise ConnectionLostError(place=self.place, why=str(why) or type(why).__name__) from why
        except (http.client.HTTPException, ssl.SSLError) as why:
            raise StrangeAnswerError(place=self.place, why=str(why) or type(why).__name__) from why
        finally:
            connection.close()

    def _open(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as why:
            if self.fingerprint:
                raise RootChangedError(
                    place=self.place, fingerprint=self.fingerprint, why=why.verify_message
                ) from why
            misnamed = why.verify_code in _MISNAMED
            advice = NAMES_ADVICE if misnamed else ROOT_ADVICE.format(place=self.place)
            raise ControllerUntrustedError(
                place=self.place, why=why.verify_message.rstrip("."), advice=advice
            ) from why
        except ssl.SSLError as why:
            raise StrangeAnswerError(place=self.place, why=why.reason or "it does not speak TLS") from why
        except TimeoutError as why:
            raise self._unreachable("it does not accept connections") from why
        except OSError as why:
            raise self._unreachable(why.strerror or str(why)) from why

    def _unreachable(self, why: str) -> ControllerUnreachableError:
        pid = None if self.folder is None else lock_holder(self.folder)
        if pid is not None:
            return ControllerStartingError(place=self.place, why=why, advice=STARTING_ADVICE, pid=pid)
        return ControllerUnreachableError(place=self.place, why=why, advice=self.advice)

    def _refused(self, answer: http.client.HTTPResponse) -> RefusedError:
        text = answer.read(MIB)
        try:
            problem = json.loads(text)
        except ValueError:
            problem = {}
        if not isinstance(problem, dict):
            problem = {}
        detail = problem.get("detail") or f"{self.place} answered {phrase_of(answer.status)}."
        return RefusedError(
            detail=str(detail),
            status=answer.status,
            said_reason=str(problem.get("reason", "")),
            facts=problem,
        )


def _written(answer: http.client.HTTPResponse, out: BinaryIO, place: str) -> Mapping[str, str]:
    expected = answer.getheader("Content-Length")
    written = 0
    while chunk := answer.read(CHUNK_BYTES):
        try:
            out.write(chunk)
        except BrokenPipeError as why:
            raise ReaderGoneError from why
        written += len(chunk)
    if expected is not None and written != int(expected):
        raise ConnectionLostError(place=place, why=f"{written} of {expected} bytes came")
    return {name.lower(): value for name, value in answer.getheaders()}


def _place_of(url: str) -> tuple[str, int]:
    """(host, port) of an API's URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError as why:
        raise UsageError(what=f"{url} is no URL: {why}") from why
    if parts.scheme != "https" or not parts.hostname or parts.path not in {"", "/"}:
        raise UsageError(what=f"{url} is not like https://controller.example:443")
    return parts.hostname, port


def path_to(*parts: str) -> str:
    """``/api/pool/a%20name``."""
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


def _target(path: str, query: Mapping[str, Any] | None) -> str:
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path
