"""The reverse listener on real sockets: who reaches which SE by it, who does not, and who else can have its port."""

import contextlib
import errno
import os
import random
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from avinet.ports import PortTakenError
from avinet.ssh.reverse import ReverseListeners
from avinet.ssh.reverse_socket import DeviceBindingError, SocketEach, loopback_socket, shared_socket
from tests.integration.reverse_kit import Holder, call

ONE, TWO = "127.1.0.1", "127.1.0.2"


def free_port():
    """Below those of outgoing connections: one of these on any address keeps the port from the shared socket."""
    for _ in range(1000):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return port
    raise AssertionError


class Refusing(socket.socket):
    """As Linux before 5.7 is to a program without CAP_NET_RAW."""

    def setsockopt(self, level, option, value):
        if option == socket.SO_BINDTODEVICE:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        super().setsockopt(level, option, value)


@pytest.fixture(scope="module")
def platform():
    """Skips where there is no such socket to test."""
    try:
        loopback_socket(free_port()).close()
    except DeviceBindingError as why:
        pytest.skip(f"needs sockets bound to a device: {why.detail}")


class Listeners:
    """Two SEs' forwards, by one socket or by one each."""

    def __init__(self, opened=loopback_socket):
        self.port = free_port()
        self.made = ReverseListeners(reactor, reactor, partial(shared_socket, port=self.port, opened=opened))
        self.holders = {address: Holder(name) for address, name in ((ONE, "se-1"), (TWO, "se-2"))}

    def claim(self):
        for address, holder in self.holders.items():
            self.made.claim(holder, address, self.port)

    async def call(self, address):
        return await deferToThread(call, address, self.port)

    async def stop(self):
        await self.made.stop()
        for holder in self.holders.values():
            await holder.server.stopListening()


@contextlib.asynccontextmanager
async def listeners(**how):
    made = Listeners(**how)
    try:
        yield made
    finally:
        await made.stop()


@contextlib.contextmanager
def foreign(address, port):
    """Another process that listens there; its pid."""
    script = f"import socket; s = socket.create_server(({address!r}, {port})); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"1\n"
        yield process.pid
        process.communicate(b"\n")


@pytest.mark.parametrize(
    "opened", [loopback_socket, partial(loopback_socket, make=Refusing)], ids=["shared", "each"]
)
@pytest_twisted.ensureDeferred
async def test_each_se_is_reached_by_its_own_address(platform, opened):
    async with listeners(opened=opened) as world:
        world.claim()
        assert isinstance(world.made._sockets, SocketEach) == (opened is not loopback_socket)
        assert [await world.call(address) for address in (TWO, ONE, TWO)] == ["se-2", "se-1", "se-2"]


@pytest_twisted.ensureDeferred
async def test_addresses_of_no_attached_se_are_reset(platform):
    async with listeners() as world:
        for address in (ONE, "127.0.0.1", "127.255.0.1"):
            assert await world.call(address) == "reset"
        world.claim()
        assert [await world.call(address) for address in (ONE, "127.1.0.3")] == ["se-1", "reset"]
        world.made.release(world.holders[ONE], ONE)
        assert [await world.call(address) for address in (ONE, TWO)] == ["reset", "se-2"]


@pytest_twisted.ensureDeferred
async def test_a_port_held_on_any_one_address_is_an_error_of_the_start_that_names_the_holder(platform):
    port = free_port()
    for address in ("127.1.77.7", "127.0.0.1", "0.0.0.0"):
        with foreign(address, port) as pid, pytest.raises(PortTakenError) as caught:
            ReverseListeners(reactor, reactor, partial(shared_socket, port=port))
        for part in (f"Port {port} ", "[ssh] reverse_port", f"pid {pid} (", f", on {address}"):
            assert part in str(caught.value)
    await ReverseListeners(reactor, reactor, partial(shared_socket, port=port)).stop()


@pytest_twisted.ensureDeferred
async def test_nobody_can_take_an_address_from_the_shared_socket(platform):
    """What the security of the one socket rests on, whatever options another program sets."""
    async with listeners() as world:
        world.claim()
        for options in (
            (),
            (socket.SO_REUSEADDR,),
            (socket.SO_REUSEPORT,),
            (socket.SO_REUSEADDR, socket.SO_REUSEPORT),
        ):
            for family, address in (
                (socket.AF_INET, ONE),
                (socket.AF_INET, "127.1.200.200"),
                (socket.AF_INET, "0.0.0.0"),
                (socket.AF_INET6, f"::ffff:{ONE}"),
            ):
                with socket.socket(family) as other:
                    for option in options:
                        other.setsockopt(socket.SOL_SOCKET, option, 1)
                    with pytest.raises(OSError, match="in use"):
                        other.bind((address, world.port))


@pytest_twisted.ensureDeferred
async def test_who_bound_an_address_and_does_not_listen_yet_cannot_any_more(platform):
    port = free_port()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((ONE, port))
        made = ReverseListeners(reactor, reactor, partial(shared_socket, port=port))
        try:
            with pytest.raises(OSError, match="in use"):
                other.listen()
        finally:
            await made.stop()


@pytest_twisted.ensureDeferred
async def test_without_a_device_to_bind_to_a_foreign_holder_is_named_when_the_se_claims(platform):
    async with listeners(opened=partial(loopback_socket, make=Refusing)) as world:
        with foreign(TWO, world.port) as pid:
            with pytest.raises(PortTakenError, match=f"pid {pid} "):
                world.claim()
            assert await world.call(ONE) == "se-1"
        world.made.claim(world.holders[TWO], TWO, world.port)
        assert await world.call(TWO) == "se-2"


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest_twisted.ensureDeferred
async def test_two_thousand_ses_cost_one_descriptor(platform):
    before = descriptors()
    port = free_port()
    made = ReverseListeners(reactor, reactor, partial(shared_socket, port=port))
    holder = Holder("all")
    try:
        for n in range(2_000):
            made.claim(holder, f"127.1.{n // 250}.{n % 250 + 1}", port)
        assert descriptors() - before == 2  # the other is the holder's
        assert await deferToThread(call, "127.1.7.250", port) == "all"
    finally:
        await made.stop()
        await holder.server.stopListening()


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def neighbours(platform):
    """Two machines on one wire, each a network namespace: (the controller's, another's)."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2 to make network namespaces")
    here, there = (f"avinet-{os.getpid()}-{name}" for name in ("c", "n"))
    with contextlib.ExitStack() as stack:
        for name in (here, there):
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError as why:
                pytest.skip(f"may not make network namespaces here: {why.stderr.strip()}")
            stack.callback(ip, "netns", "del", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", here, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", there)
        for name, address in ((here, "10.77.0.1/24"), (there, "10.77.0.2/24")):
            ip("-n", name, "addr", "add", address, "dev", "wire")
            ip("-n", name, "link", "set", "wire", "up")
        yield here, there


def from_within(namespace, address, port):
    script = f"from tests.integration.reverse_kit import call; print(call({address!r}, {port}))"
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", script]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def test_nobody_reaches_it_from_another_machine(neighbours):
    here, there = neighbours
    port = 5097
    # The worst that an administrator does (Kubernetes did): loopback addresses are let in from the wire, and sent out.
    for name in neighbours:
        setting = "/proc/sys/net/ipv4/conf/wire/route_localnet"
        ip("netns", "exec", name, "sh", "-c", f"echo 1 > {setting}")
    ip("-n", here, "addr", "add", "10.88.0.1/32", "dev", "lo")
    ip("-n", there, "route", "add", "10.88.0.1/32", "via", "10.77.0.1")
    ip("-n", there, "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
    ip("-n", there, "route", "add", "127.1.0.1/32", "via", "10.77.0.1", "dev", "wire", "src", "10.77.0.2")
    guest = Path(__file__).with_name("reverse_guest.py")
    command = [
        "ip",
        "netns",
        "exec",
        here,
        sys.executable,
        "-m",
        f"tests.integration.{guest.stem}",
        str(port),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            assert from_within(here, "127.1.0.1", port) == "se-1"
            # An address of the machine: on the device itself, and on another one, where it is told from ``lo``.
            assert from_within(here, "10.88.0.1", port) == "reset"
            assert from_within(here, "10.77.0.1", port) == "refused"
            for address in ("10.77.0.1", "10.88.0.1", "127.1.0.1"):
                assert from_within(there, address, port + 1) == "open", "it could not be reached at all"
                assert from_within(there, address, port) == "refused"
            # A socket on one address lets him in so far; where he comes from gives him away.
            assert from_within(here, "127.1.0.1", port + 2) == "se-2"
            assert from_within(there, "127.1.0.1", port + 2) == "reset"
        finally:
            process.communicate()
