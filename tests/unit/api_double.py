"""A controller's API made of recorded answers, on a real UNIX socket in a thread."""

import json
import socketserver
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import attrs


@attrs.frozen
class Answer:
    status: int = 200
    body: object = None
    content_type: str = "application/json"
    headers: dict = attrs.field(factory=dict)
    claimed_length: int | None = None

    def data(self):
        if isinstance(self.body, bytes):
            return self.body
        return b"" if self.body is None else json.dumps(self.body).encode()


def problem(status, reason, detail, **facts):
    body = {"status": status, "reason": reason, "detail": detail, **facts}
    return Answer(status, body, "application/problem+json")


@attrs.frozen
class Asked:
    method: str
    target: str
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(Asked(self.command, self.path, dict(self.headers), body))
        answer = self.server.answers.get(
            (self.command, self.path), problem(404, "no-such-path", f"There is nothing at {self.path}.")
        )
        if isinstance(answer, list):
            answer = answer.pop(0)
        data = answer.data()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        length = len(data) if answer.claimed_length is None else answer.claimed_length
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    do_GET = do_POST = do_DELETE = _serve

    def address_string(self):
        return "local"

    def log_message(self, *args):
        pass


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 16

    def handle_error(self, request, client_address):
        """A client that hangs up early is part of a test, and no news."""


class ApiDouble:
    """``answers[method, target]`` is an ``Answer`` or a list of them; ``asked`` is what came."""

    def __init__(self, case):
        folder = tempfile.TemporaryDirectory(prefix="avinet-")
        case.addCleanup(folder.cleanup)
        self.state = Path(folder.name)
        self._server = _Server(str(self.state / "api.sock"), _Handler)
        self._server.answers = self.answers = {}
        self._server.asked = self.asked = []
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        case.addCleanup(self._stop, thread)

    def _stop(self, thread):
        self._server.shutdown()
        thread.join()
        self._server.server_close()
