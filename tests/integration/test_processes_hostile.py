"""Those who mean ill: an SE's own key in the hands of the real OpenSSH, and strangers on every port."""

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.processes import until
from tests.integration.registering import Machine, ask, tls_context

REFUSED = "administratively prohibited"


@pytest.fixture(scope="module")
def prey(shared):
    """An SE whose key a stranger has, and the SE beside it that must not notice."""
    if shutil.which("ssh") is None:
        pytest.skip("needs openssh-client: make test-deps")
    agent = shared.add_engine("se-prey")
    agent.kill()
    yield shared.row("se-prey")
    shared.stop_engine("se-prey")
    shared.client.delete("/api/serviceengine/se-prey")


def ssh(site, *arguments, limit_s=10, command=()):
    """OpenSSH with the SE's key, as aviseuser, to the controller."""
    key = site.engine_state("se-prey") / "identity" / "se.key"
    options = ("-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=DEBUG1")
    known = (
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "ExitOnForwardFailure=yes",
    )
    where = ("-i", str(key), "-p", str(site.ports.ssh), "aviseuser@127.0.0.1")
    try:
        return subprocess.run(
            ("ssh", *options, *known, *arguments, *where, *command),
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as late:
        return subprocess.CompletedProcess(
            (),
            255,
            (late.stdout or b"").decode(),
            "timed out\n" + (late.stderr or b"").decode(errors="replace"),
        )


def refused(done, *words):
    assert done.returncode != 0, done
    assert "timed out" not in done.stderr, done.stderr[-1500:]
    for word in words:
        assert word in done.stderr, done.stderr[-1500:]


def test_a_shell_a_command_a_terminal_sftp_and_a_subsystem_are_refused(shared, prey):
    for arguments, command in (
        ((), ("id",)),
        (("-tt",), ()),
        (("-T",), ()),
        (("-s",), ("sftp",)),
        (("-A",), ("id",)),
        (("-X",), ("id",)),
    ):
        done = ssh(shared, *arguments, command=command)
        refused(done, REFUSED)
        assert "uid=" not in done.stdout
    shared.until_event("SSH_REQUEST_REFUSED", "se-prey")


@pytest.mark.parametrize(
    "target", ["localhost:22", "127.0.0.1:8443", "localhost:{api}", "localhost:{ssh}", "10.0.0.1:80"]
)
def test_a_port_that_is_not_listed_is_refused(shared, prey, target):
    target = target.format(api=shared.ports.api, ssh=shared.ports.ssh)
    refused(ssh(shared, "-W", target), REFUSED)


def test_the_control_service_is_open_and_speaks_only_its_protocol(shared, prey):
    done = ssh(shared, "-W", f"localhost:{shared.control_port}", limit_s=12)
    assert REFUSED not in done.stderr


@pytest.mark.parametrize(
    "where", ["127.1.0.1:{reverse}", "127.0.0.1:{reverse}", "0.0.0.0:{reverse}", "*:{reverse}", "{mine}:4444"]
)
def test_listening_anywhere_but_at_its_own_loopback_is_refused(shared, prey, where):
    other = shared.row("se-0")["loopback"]
    assert other == "127.1.0.1", "se-0 came first"
    where = where.format(reverse=shared.ports.reverse, mine=prey["loopback"])
    refused(ssh(shared, "-N", "-R", f"{where}:localhost:22"), "remote port forwarding failed")


def test_its_own_loopback_is_its_own(shared, prey):
    """What the line allows is allowed, with the stock client."""
    where = f"{prey['loopback']}:{shared.ports.reverse}"
    done = ssh(shared, "-N", "-R", f"{where}:127.0.0.1:9", limit_s=2)
    assert "remote forward success" in done.stderr, done.stderr[-1000:]


def test_unix_sockets_and_layer_2_tunnels_are_refused(shared, prey):
    refused(
        ssh(shared, "-N", "-R", f"{shared.folder}/stolen.sock:localhost:22"), "remote port forwarding failed"
    )
    assert not (shared.folder / "stolen.sock").exists()
    local = shared.folder / "local.sock"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ssh, shared, "-N", "-L", f"{local}:{shared.paths.api_socket}", limit_s=2)
        until(local.exists, limit_s=5)
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(5)
            one.connect(str(local))
            assert one.recv(1) == b"", "the operator's socket was reached"
        assert REFUSED in running.result().stderr or "open failed" in running.result().stderr


def test_other_users_other_keys_and_passwords_get_one_and_the_same_answer(shared, prey, tmp_path):
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"), check=True)
    said = set()
    for user in ("aviseuser", "avictlruser", "root", "nobody"):
        done = subprocess.run(
            (
                *(
                    "ssh",
                    "-F",
                    "none",
                    "-o",
                    "StrictHostKeyChecking=no",
                    "-o",
                    "UserKnownHostsFile=/dev/null",
                ),
                *("-o", "IdentitiesOnly=yes", "-o", "NumberOfPasswordPrompts=1", "-o", "LogLevel=ERROR"),
                *("-i", str(tmp_path / "key"), "-p", str(shared.ports.ssh), f"{user}@127.0.0.1", "id"),
            ),
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 255
        said.add(re.sub(r"\w+@", "", done.stderr.strip()))
    assert said == {"127.0.0.1: Permission denied (publickey)."}
    shared.until_event("SSH_LOGIN_REFUSED")


# Strangers

GARBAGE = (
    b"",
    b"\x00" * 100,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"SSH-2.0-x\r\n" + b"\xff" * 400,
    b"SSH-1.0-x\r\n",
    b"\x16\x03\x01\xff\xff" + b"\x01" * 60,
    b"A" * 70_000,
)


@contextlib.contextmanager
def steady(site, name="se-0"):
    """Throughout, the SE's session stays the same and up, and traffic goes on."""

    def mine():
        return [e for e in site.events() if e["code"] in {"SE_UP", "SE_DOWN"} and name in e["text"]]

    before = mine()
    yield
    assert site.row(name)["state"] == "UP"
    assert mine() == before
    assert site.get().startswith("hello from")


def reverse_of(site, name="se-0"):
    return (site.row(name)["loopback"], site.ports.reverse)


def places(site):
    return [("127.0.0.1", p) for p in (site.ports.ssh, site.ports.registration, site.ports.api)] + [
        reverse_of(site)
    ]


def test_garbage_on_every_port_is_cut_and_an_attached_engine_does_not_notice(shared):
    with steady(shared):
        for place in places(shared):
            for data in GARBAGE:
                for _ in range(8):
                    with contextlib.suppress(OSError), socket.create_connection(place, 5) as one:
                        one.sendall(data)
    assert Machine(shared, shared.image(), shared.token()[0]["token"]).enrol().status == 200


def test_hundreds_of_half_open_connections_on_every_port_do_not_keep_others_out(shared):
    held = []
    try:
        with steady(shared):
            for place in places(shared):
                for number in range(300):
                    with contextlib.suppress(OSError):
                        one = socket.create_connection(place, 5, source_address=(f"127.9.{number % 4}.7", 0))
                        one.settimeout(0.01)
                        one.sendall(b"S" if number % 2 else b"\x16\x03\x01")
                        held.append(one)
            assert len(held) > 600
            # While they are held: SEs enrol and log in, operators ask, commands run.
            assert Machine(shared, shared.image(), shared.token()[0]["token"]).enrol().status == 200
            agent = shared.add_engine("se-late", wait=False)
            shared.until_up("se-late", agent)
            ran = shared.cli("se", "exec", "se-late", "echo through")
            assert ran.stdout == "through\n", ran.stderr
            password = shared.paths.admin_password
            api = ("--api", f"https://127.0.0.1:{shared.ports.api}", "--ca", str(shared.paths.root_pem))
            remote = shared.cli(*api, "--user", "admin", "--password-file", str(password), "se", "list")
            assert remote.returncode == 0, remote.stderr
    finally:
        for one in held:
            one.close()
    shared.stop_engine("se-late")
    shared.client.delete("/api/serviceengine/se-late")


def test_a_slow_body_and_a_slow_header_on_8443_are_cut_while_others_enrol(shared):
    """A slowloris of 20 s: 40 connections that send a byte now and then."""
    held = []
    try:
        with steady(shared):
            for number in range(40):
                plain = socket.create_connection(("127.0.0.1", shared.ports.registration), 5)
                context = tls_context(shared)
                context.check_hostname = False
                one = context.wrap_socket(plain)
                one.sendall(b"POST /v1/service-engines HTTP/1.1\r\nHost: x\r\n")
                if number % 2:
                    one.sendall(b"Content-Type: application/jose+json\r\nContent-Length: 60000\r\n\r\n")
                held.append(one)
            end = time.monotonic() + 20
            slowest = 0.0
            alive = held
            while time.monotonic() < end:
                alive = [one for one in alive if trickle(one)]
                started = time.monotonic()
                assert ask(shared, "GET", "/v1/membership").status == 200
                slowest = max(slowest, time.monotonic() - started)
                time.sleep(1)
            assert slowest < 2
            assert len(alive) < 40, "nobody was cut"
    finally:
        for one in held:
            one.close()


def trickle(one):
    """One more byte of nothing; False once the connection is cut."""
    try:
        one.settimeout(0.01)
        one.sendall(b"x")
        return one.recv(4096) != b""
    except (TimeoutError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False


def test_the_operators_port_wants_a_password_and_slows_down_guesses(site):
    site.start()
    api = ("--api", f"https://127.0.0.1:{site.ports.api}", "--ca", str(site.paths.root_pem))
    assert site.cli(*api, "se", "list").returncode == 6
    wrong = site.folder / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("guess\n")
    statuses = {site.cli(*api, "--user", "admin", "--password-file", str(wrong), "se", "list").returncode}
    assert statuses == {6}
    assert site.until_event("OPERATOR_LOGIN_REFUSED")
    untrusted = site.cli("--api", api[1], "se", "list")
    assert (untrusted.returncode, "--ca" in untrusted.stderr) == (6, True)
    good = site.cli(*api, "--user", "admin", "--password-file", str(site.paths.admin_password), "se", "list")
    assert good.returncode == 0, good.stderr
    until(lambda: site.controller.running)
