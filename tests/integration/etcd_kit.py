"""Real etcds of a test's own: on free loopback ports, in a folder of their own, with TLS and passwords."""

import base64
import contextlib
import json
import shutil
import signal
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from avinet.store.etcd_http import EtcdAccess
from tests.integration.processes import free_port, until

USER, PASSWORD = "avinet", "s3cret"


def needs_etcd():
    """Skip the module where there is none."""
    if shutil.which("etcd") is None:
        pytest.skip("needs etcd-server: make test-deps", allow_module_level=True)


def write_certificates(folder):
    """``ca.pem``, and ``node.pem`` with ``node.key`` for 127.0.0.1, both sides of TLS."""
    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    # No common name: etcd's gateway refuses who has one, since it would not be the user that it names.
    names = [x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, name)]) for name in ("CA", "node")]
    for number, path in enumerate(("ca.pem", "node.pem")):
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[number])
            .issuer_name(names[0])
            .public_key(keys[number].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(keys[number].public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False
            )
        )
        if number:
            address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
            builder = builder.add_extension(address, critical=False)
        signed = builder.sign(keys[0], hashes.SHA256())
        (folder / path).write_bytes(signed.public_bytes(Encoding.PEM))
    key = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "node.key").write_bytes(key)


class Member:
    """One etcd."""

    def __init__(self, cluster, name, options):
        self.cluster = cluster
        self.name = name
        self.options = options
        self.url = f"https://127.0.0.1:{free_port()}"
        self.peer_url = f"https://127.0.0.1:{free_port()}"
        self.process = None

    def start(self):
        folder = self.cluster.folder
        tls = []
        for side in ("", "peer-"):
            tls += [f"--{side}cert-file={folder}/node.pem", f"--{side}key-file={folder}/node.key"]
            tls += [f"--{side}trusted-ca-file={folder}/ca.pem", f"--{side}client-cert-auth"]
        with (folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "etcd",
                    *("--name", self.name, "--data-dir", str(folder / self.name)),
                    *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
                    *("--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url),
                    *("--initial-cluster", self.cluster.initial, "--initial-cluster-token", "test"),
                    *("--heartbeat-interval", "50", "--election-timeout", "500", "--bcrypt-cost", "4"),
                    *("--experimental-watch-progress-notify-interval", "1s", "--logger", "zap"),
                    *tls,
                    *self.options,
                ],
                stdout=log,
                stderr=log,
            )

    def send(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ask(self, path, _timeout_s=5.0, **request):
        """One request of the gateway, as the administrator."""
        return self.cluster.ask(self.url, path, _timeout_s, **request)


class Cluster:
    """Some etcds; ``close`` ends them and removes their folder."""

    def __init__(self, size=1, options=()):
        self.folder = Path(tempfile.mkdtemp(prefix="avinet-etcd-"))
        write_certificates(self.folder)
        (self.folder / "password").write_text(PASSWORD + "\n")
        self.tls = ssl.create_default_context(cafile=self.folder / "ca.pem")
        self.tls.load_cert_chain(self.folder / "node.pem", self.folder / "node.key")
        self.members = [Member(self, f"m{number}", options) for number in range(size)]
        self.initial = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        self.token = ""
        try:
            for member in self.members:
                member.start()
            until(lambda: self.members[0].ask("kv/range", key=encoded("a")), poll_s=0.02)
            self._protect()
        except BaseException:
            self.close()
            raise

    def _protect(self):
        ask = self.members[0].ask
        for user in ("root", USER):
            ask("auth/user/add", name=user, password=PASSWORD)
        ask("auth/role/add", name=USER)
        everything = {"permType": "READWRITE", "key": encoded("\0"), "range_end": encoded("\0")}
        ask("auth/role/grant", name=USER, perm=everything)
        ask("auth/user/grant", user=USER, role=USER)
        ask("auth/user/grant", user="root", role="root")
        ask("auth/enable")

    def ask(self, url, path, timeout_s, **request):
        try:
            return self._ask(url, path, timeout_s, request)
        except OSError as why:
            if "invalid auth token" not in str(why) and (self.token or "permission denied" not in str(why)):
                raise
        self.token = ""
        user = {"name": "root", "password": PASSWORD}
        self.token = self._ask(url, "auth/authenticate", timeout_s, user)["token"]
        return self._ask(url, path, timeout_s, request)

    def _ask(self, url, path, timeout_s, request):
        headers = {"Authorization": self.token} if self.token else {}
        wanted = urllib.request.Request(f"{url}/v3/{path}", json.dumps(request).encode(), headers)
        try:
            with urllib.request.urlopen(wanted, timeout=timeout_s, context=self.tls) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as why:
            with why:
                raise OSError(f"{path}: {why.read().decode()}") from why

    def access(self, *, first=0, **options):
        """For a controller whose own etcd is ``first``."""
        urls = [member.url for member in self.members]
        return EtcdAccess(
            tuple(urls[first:] + urls[:first]),
            ca_file=self.folder / "ca.pem",
            certificate_file=self.folder / "node.pem",
            key_file=self.folder / "node.key",
            user=USER,
            password_file=self.folder / "password",
            **options,
        )

    def leader(self):
        """The member that leads now."""
        for member in self.members:
            with contextlib.suppress(OSError):
                status = member.ask("maintenance/status", 1.0)
                if status.get("leader", "0") == status["header"]["member_id"]:
                    return member
        return None

    def wipe(self):
        """No keys, no leases."""
        ask = self.members[0].ask
        for lease in ask("lease/leases").get("leases", ()):
            with contextlib.suppress(OSError):  # it ended meanwhile
                ask("lease/revoke", ID=lease["ID"])
        ask("kv/deleterange", key=encoded("\0"), range_end=encoded("\0"))

    def close(self):
        for member in self.members:
            if member.process is not None:
                member.send(signal.SIGKILL)
                member.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def encoded(text):
    return base64.b64encode(text.encode()).decode()
