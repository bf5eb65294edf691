"""A child process for real: it dies with its parent, however that ends."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from avinet.cloud.child import Child, Command, RotatingLog

PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "avinet.cloud.launch", str(os.getpid()), "/bin/sleep", "300"])
while "sleep" not in open(f"/proc/{child.pid}/cmdline").read().split("\\0")[0]:
    time.sleep(0.01)
print(child.pid, flush=True)
time.sleep(300)
"""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def start_parent(program=PARENT):
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


async def until(what, timeout_s=10.0):
    end = reactor.seconds() + timeout_s
    while not what():
        assert reactor.seconds() < end, "it did not happen"
        await deferLater(reactor, 0.02, lambda: None)


@pytest_twisted.ensureDeferred
async def test_a_child_ends_when_its_parent_is_killed():
    parent = start_parent()
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    await until(lambda: not alive(child))


@pytest_twisted.ensureDeferred
async def test_a_child_that_takes_no_sigterm_ends_with_its_parent_where_that_was_asked_for():
    deaf = PARENT.replace("str(os.getpid())", "f'{os.getpid()}:9'").replace(
        '"/bin/sleep", "300"', '"/bin/sh", "-c", "trap  TERM; exec /bin/sleep 300"'
    )
    parent = start_parent(deaf)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    await until(lambda: not alive(child))


def test_a_child_whose_parent_is_gone_already_does_not_start():
    done = subprocess.run(
        [sys.executable, "-m", "avinet.cloud.launch", "1", "/bin/echo", "started"],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, b"")


@pytest_twisted.ensureDeferred
async def test_a_killed_child_is_started_again_and_a_stopped_one_is_not():
    folder = Path(tempfile.mkdtemp(prefix="avinet-test-"))
    child = Child(
        "test",
        Command(("/bin/sh", "-c", "echo up; exec sleep 300"), folder, dict(os.environ)),
        RotatingLog(folder / "log"),
        reactor,
        reactor,
    )
    child.start()
    await until(lambda: (folder / "log").exists() and (folder / "log").read_text() == "up\n")
    first = child.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.pid not in {None, first})
    await until(lambda: (folder / "log").read_text() == "up\nup\n")
    second = child.pid
    await child.stop()
    assert not alive(second)
    await deferLater(reactor, 0.1, lambda: None)
    assert child.pid is None
