"""A small web server that answers every request with its name: what the demo's virtual service balances over.

Run as ``python -m avinet.app.demo.backend NAME PORT``; it listens on 127.0.0.1 only.
"""

import sys

from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Request, Site


class Named(Resource):
    """Answers any path with one line."""

    isLeaf = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self._answer = f"hello from {name}\n".encode()

    def render(self, request: Request) -> bytes:
        """The same line for every method and path."""
        request.setHeader(b"content-type", b"text/plain")
        return self._answer


def main() -> None:
    """Serve until SIGTERM."""
    name, port = sys.argv[1], int(sys.argv[2])
    reactor.listenTCP(port, Site(Named(name)), interface="127.0.0.1")  # type: ignore[arg-type]
    reactor.run()


if __name__ == "__main__":
    main()
