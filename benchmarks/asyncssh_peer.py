"""A peer: AsyncSSH at both ends, each a process of its own.

The quickest of its ways here: the server's process writes the file in pieces of 32 KiB, as long as its packets,
and drains; the client redirects standard output to a file; AsyncSSH's own window and packet size.  Pieces of 256 KiB
or 1 MiB, windows of 16 MiB with packets of 256 KiB, and SFTP were all slower.

``serve`` is the SE's end.  ``fetch`` is the controller's: one request a line, ``{"path", "out"}``.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

import asyncssh
import msgspec

from avinet.units import KIB
from benchmarks.processes import say

CIPHER = "aes256-gcm@openssh.com"
PIECE_BYTES = 32 * KIB


async def send(process: "asyncssh.SSHServerProcess[bytes]") -> None:
    """The file whose path is the command."""
    with Path(process.command or "").open("rb") as file:  # noqa: ASYNC230 - it is in memory
        while piece := file.read(PIECE_BYTES):
            process.stdout.write(piece)
            await process.stdout.drain()
    process.exit(0)


async def serve(given: argparse.Namespace) -> None:
    """Until the process ends."""
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        authorized_client_keys=given.authorized, process_factory=send, encoding=None,
        encryption_algs=[CIPHER], config=None,
    )  # fmt: skip
    say(ready=server.get_port())
    await server.wait_closed()


async def fetch(given: argparse.Namespace) -> None:
    """Until the input ends."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    login = asyncssh.connect(
        "127.0.0.1", given.port, username="bench", client_keys=[given.identity], known_hosts=None,
        encryption_algs=[CIPHER], config=None, agent_path=None,
    )  # fmt: skip
    async with login as connection:
        say(ready=asyncssh.__version__)
        while line := await lines.readline():
            request: dict[str, Any] = msgspec.json.decode(line)
            async with connection.create_process(
                request["path"], encoding=None, stdout=request["out"]
            ) as process:
                await process.wait()
            say(done=True)


def main() -> None:
    """As said above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ends = parser.add_subparsers(dest="end", required=True)
    server, client = ends.add_parser("serve"), ends.add_parser("fetch")
    server.add_argument("--authorized", required=True, help="a file of public keys")
    client.add_argument("--identity", required=True, help="a private key")
    client.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    asyncio.run(serve(given) if given.end == "serve" else fetch(given))


if __name__ == "__main__":
    main()
