"""A peer as a process: AsyncSSH's client, fetching files from a stock sshd over one connection.

The quickest of its ways here: ``cat`` with its output redirected to a file, and AsyncSSH's own window and packet
size.  Both ends AsyncSSH, SFTP, and windows of 16 MiB with packets of 256 KiB were all slower (125 to 230 MiB/s
where this made 230 to 280).

One request a line: ``{"path", "out"}``.
"""

import argparse
import asyncio
import shlex
import sys

import asyncssh
import msgspec

from benchmarks.processes import say

CIPHER = "aes256-gcm@openssh.com"


async def serve(given: argparse.Namespace) -> None:
    """Until the input ends."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    login = asyncssh.connect(
        "127.0.0.1", given.port, username=given.user, client_keys=[given.identity], known_hosts=None,
        encryption_algs=[CIPHER], config=None, agent_path=None,
    )  # fmt: skip
    async with login as connection:
        say(ready=asyncssh.__version__)
        while line := await lines.readline():
            request = msgspec.json.decode(line)
            command = shlex.join(("cat", request["path"]))
            async with connection.create_process(command, encoding=None, stdout=request["out"]) as process:
                await process.wait()
            say(done=True)


def main() -> None:
    """As said above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--identity", required=True)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
