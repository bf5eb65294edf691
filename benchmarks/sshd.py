"""The peer: a stock sshd, and the stock ssh to go with it.

For logins it is logged in to by the same client with the same profile, the same number abreast.  It does less than a
control session (no service behind it, no forward, no configuration), so it is a generous peer.

For bulk, ``Ssh`` keeps one connection open (a ControlMaster) over which commands run: like ours, it is timed without
its login.
"""

import contextlib
import functools
import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore, ensureDeferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint

from avinet.app.demo.ports import choose_ports
from avinet.ssh.client import connect
from avinet.trust import keys
from avinet.trust.files import private_dir, write_private
from benchmarks.harness import progress
from benchmarks.processes import bound_to_us, end, until

SSHD = "/usr/sbin/sshd"
START_S = 0.5
CIPHERS = "aes256-gcm@openssh.com,aes256-ctr"
"""The first with every peer that has it."""
MASTER_LIMIT_S = 20.0


@contextlib.contextmanager
def stock_sshd(folder: Path, authorized: str, *more: str) -> Iterator[int]:
    """Its port, on loopback; ``more`` are lines of its configuration."""
    private_dir(folder)
    Path("/run/sshd").mkdir(exist_ok=True)  # it wants it to exist
    port = choose_ports(0).controllers[0].ssh
    write_private(folder / "host", keys.openssh_private(keys.generate()))
    (folder / "authorized").write_text(authorized + "\n")
    settings = (
        f"ListenAddress 127.0.0.1:{port}", f"HostKey {folder}/host", "UsePAM no", "StrictModes no",
        f"AuthorizedKeysFile {folder}/authorized", "PidFile none", "PermitRootLogin yes",
        "MaxStartups 1000", "PerSourcePenalties no", "LogLevel ERROR", *more,
    )  # fmt: skip
    known = [line for line in settings if not line.startswith("PerSourcePenalties") or _version() >= (9, 8)]
    (folder / "config").write_text("\n".join(known) + "\n")
    daemon = subprocess.Popen(bound_to_us(SSHD, "-D", "-e", "-f", os.fspath(folder / "config")))
    try:
        time.sleep(START_S)
        if daemon.poll() is not None:
            raise RuntimeError("sshd did not start")
        yield port
    finally:
        end(daemon)


def _version() -> tuple[int, int]:
    said = subprocess.run((SSHD, "-V"), capture_output=True, text=True, check=False).stderr
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@functools.cache
def available() -> bool:
    """Whether there is one that we may run; says so, once, when there is not."""
    if shutil.which(SSHD) is None or shutil.which("ssh") is None or os.geteuid() != 0:
        progress("no sshd and ssh here, or not root: figures are without their peer (make test-deps)")
        return False
    return True


def our_user() -> str:
    """Who runs this."""
    return pwd.getpwuid(os.getuid()).pw_name


@attrs.define(eq=False)
class Ssh:
    """The stock client with one key, and at most one connection kept open."""

    folder: Path
    port: int
    identity: Path
    user: str = attrs.field(factory=our_user)
    _master: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)

    def command(self, *arguments: str) -> tuple[str, ...]:
        """``ssh`` and its arguments; options first, then what to run."""
        options = (
            "-F", "none", "-p", f"{self.port}", "-i", os.fspath(self.identity), "-c", CIPHERS,
            "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
            "-o", "ExitOnForwardFailure=yes",
        )  # fmt: skip
        return ("ssh", *options, *arguments)

    @property
    def _socket(self) -> Path:
        return self.folder / f"m{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._master is not None:
            end(self._master)

    def keep(self, *arguments: str) -> None:
        """Open the connection and keep it, with these options (forwards, say)."""
        where = f"{self.user}@127.0.0.1"
        keeping = self.command("-M", "-S", os.fspath(self._socket), "-N", *arguments, where)
        self._master = master = subprocess.Popen(bound_to_us(*keeping), stdin=subprocess.DEVNULL)

        def there() -> bool:
            if master.poll() is not None:
                raise RuntimeError(f"ssh ended with status {master.returncode}")
            return self._socket.exists()

        until(there, MASTER_LIMIT_S, "ssh's login")

    def over(self, *command: str) -> tuple[str, ...]:
        """``command`` over the connection that is kept."""
        return self.command("-S", os.fspath(self._socket), f"{self.user}@127.0.0.1", *command)

    def run(self, *command: str, out: IO[bytes] | int) -> None:
        """Run to its end; an error when it fails."""
        subprocess.run(self.over(*command), stdin=subprocess.DEVNULL, stdout=out, check=True)

    @property
    def pid(self) -> int:
        """Of the connection that is kept."""
        if self._master is None:
            raise AssertionError("no connection is kept")
        return self._master.pid


async def logins_per_s(reactor: Any, folder: Path, logins: int, abreast: int) -> float:
    """As many logins as asked for, a second."""
    key = keys.generate()
    user = our_user()
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
