"""Asking a server what its health check asks, once, to say in words why that fails.

Envoy tells that a check failed or timed out, and no more.  So when it says that one fails, the agent looks for
itself, from the same host, and reports what it saw.  The look decides nothing: who is up is Envoy's to say.
"""

import socket
import ssl
import time

import attrs

from avinet.dataplane.interface import Failure

MAX_LOOK_S = 5.0
"""For one look, however patient the monitor is: it holds a thread."""
MAX_ANSWER_BYTES = 64 * 1024
"""Of head and body; as much as the check itself reads of a body."""
_MIN_LEFT_S = 0.01


@attrs.frozen
class Tls:
    """How a server is spoken to; ``ca`` is PEM, empty when it need not prove anything."""

    name: str = ""
    """Asked for (SNI)."""
    ca: str = ""
    verify_name: bool = False
    at_least_1_3: bool = False


@attrs.frozen
class Http:
    """A request, and what its answer must be."""

    method: str
    path: str
    host: str
    statuses: tuple[tuple[int, int], ...]
    """Ranges, the end not in them."""
    body: bytes = b""


@attrs.frozen
class Question:
    """One check of one server."""

    address: str
    port: int
    timeout_s: float
    tls: Tls | None = None
    http: Http | None = None


@attrs.frozen
class Finding:
    """Why a check fails; ``Failure.NONE`` when it did not just now."""

    failure: Failure = Failure.NONE
    reason: str = ""


def look(question: Question) -> Finding:
    """Ask, and say what came.  Blocking, for ``MAX_LOOK_S`` and a resolver's time at most."""
    until = time.monotonic() + min(question.timeout_s, MAX_LOOK_S)
    try:
        return _look(question, until)
    except OSError as failure:
        return _finding_of(failure, question)


def _finding_of(failure: OSError, question: Question) -> Finding:
    if isinstance(failure, TimeoutError):
        return Finding(Failure.TIMEOUT, f"no answer within {min(question.timeout_s, MAX_LOOK_S):g} s")
    if isinstance(failure, ssl.SSLCertVerificationError):
        return Finding(Failure.TLS, f"its certificate: {failure.verify_message}")
    if isinstance(failure, ssl.SSLError):
        return Finding(Failure.TLS, f"no TLS handshake: {failure.reason or failure}")
    if isinstance(failure, socket.gaierror):
        return Finding(Failure.UNRESOLVED, f"its name does not resolve: {failure.strerror}")
    if isinstance(failure, ConnectionRefusedError):
        return Finding(Failure.REFUSED, f"nothing listens on port {question.port}")
    return Finding(Failure.REFUSED, f"not reached: {failure.strerror or failure}")


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left < _MIN_LEFT_S:
        raise TimeoutError
    return left


def _look(question: Question, until: float) -> Finding:
    with socket.create_connection((question.address, question.port), timeout=_left(until)) as plain:
        if question.tls is None:
            return _ask(plain, question.http, until)
        context = _context(question.tls)
        with context.wrap_socket(plain, server_hostname=question.tls.name or None) as secure:
            return _ask(secure, question.http, until)


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.at_least_1_3 else ssl.TLSVersion.TLSv1_2
    context.check_hostname = bool(tls.ca) and tls.verify_name
    if tls.ca:
        context.load_verify_locations(cadata=tls.ca)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as Envoy: an intermediate may be the anchor
    else:
        context.verify_mode = ssl.CERT_NONE
    return context


def _ask(connection: socket.socket, http: Http | None, until: float) -> Finding:
    if http is None:
        return Finding()
    lines = [f"{http.method} {http.path} HTTP/1.1", f"Host: {http.host}", "Connection: close", "", ""]
    connection.settimeout(_left(until))
    connection.sendall("\r\n".join(lines).encode())
    head, separator, body = _read(connection, http, until).partition(b"\r\n\r\n")
    if not head:
        return Finding(Failure.REFUSED, "it closed the connection without an answer")
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if not separator or len(words) < 2 or not words[0].startswith(b"HTTP/1") or not words[1].isdigit():
        return Finding(Failure.CHECK_FAILED, "its answer is not HTTP")
    status = int(words[1])
    if not any(start <= status < end for start, end in http.statuses):
        return Finding(Failure.WRONG_STATUS, f"it answers with status {status}")
    if http.body not in body:
        return Finding(Failure.WRONG_BODY, "its answer does not have the wanted text")
    return Finding()


def _read(connection: socket.socket, http: Http, until: float) -> bytes:
    """The answer, as far as it is needed, or comes in time."""
    answer = b""
    while len(answer) < MAX_ANSWER_BYTES:
        _, separator, body = answer.partition(b"\r\n\r\n")
        if separator and http.body in body:
            break
        try:
            connection.settimeout(_left(until))
            piece = connection.recv(MAX_ANSWER_BYTES)
        except TimeoutError:
            if separator:
                break  # the head is there; the text may never come
            raise
        if not piece:
            break
        answer += piece
    return answer
