"""The peer for logins: a stock sshd, logged in to by the same client with the same profile, the same number abreast.

It does less than a control session (no service behind it, no forward, no configuration), so it is a generous peer.
"""

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, ensureDeferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint

from avinet.app.demo.ports import choose_ports
from avinet.ssh.client import connect
from avinet.trust import keys
from avinet.trust.files import private_dir, write_private

SSHD = "/usr/sbin/sshd"
START_S = 0.5


@contextlib.contextmanager
def stock_sshd(folder: Path, authorized: str) -> Iterator[int]:
    """Its port, on loopback."""
    private_dir(folder)
    Path("/run/sshd").mkdir(exist_ok=True)  # it wants it to exist
    port = choose_ports(0).ssh
    write_private(folder / "host", keys.openssh_private(keys.generate()))
    (folder / "authorized").write_text(authorized + "\n")
    settings = (
        f"ListenAddress 127.0.0.1:{port}", f"HostKey {folder}/host", "UsePAM no", "StrictModes no",
        f"AuthorizedKeysFile {folder}/authorized", "PidFile none", "PermitRootLogin yes",
        "MaxStartups 1000", "PerSourcePenalties no", "LogLevel ERROR",
    )  # fmt: skip
    known = [line for line in settings if not line.startswith("PerSourcePenalties") or _version() >= (9, 8)]
    (folder / "config").write_text("\n".join(known) + "\n")
    bound_to_us = (sys.executable, "-m", "avinet.cloud.launch", str(os.getpid()))
    daemon = subprocess.Popen((*bound_to_us, SSHD, "-D", "-e", "-f", os.fspath(folder / "config")))
    try:
        time.sleep(START_S)
        if daemon.poll() is not None:
            raise RuntimeError("sshd did not start")
        yield port
    finally:
        daemon.terminate()
        daemon.wait()


def _version() -> tuple[int, int]:
    said = subprocess.run((SSHD, "-V"), capture_output=True, text=True, check=False).stderr
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def available() -> bool:
    """Whether there is one that we may run."""
    return shutil.which(SSHD) is not None and os.geteuid() == 0


async def logins_per_s(reactor: Any, folder: Path, logins: int, abreast: int) -> float:
    """As many logins as asked for, a second."""
    key = keys.generate()
    user = pwd.getpwuid(os.getuid()).pw_name
    pace = DeferredSemaphore(abreast)

    async def login(port: int) -> None:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        channel = await connect(
            endpoint, user=user, key=key, verify_host_key=lambda line: True, clock=reactor
        )
        channel.close()

    def begin(port: int) -> Deferred[None]:
        return ensureDeferred(login(port))

    with stock_sshd(folder, keys.public_line(key.public_key())) as port:
        begun = time.monotonic()
        await gatherResults([pace.run(begin, port) for _ in range(logins)], consumeErrors=True)
        return logins / (time.monotonic() - begun)
