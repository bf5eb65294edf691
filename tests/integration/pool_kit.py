"""Small servers to stand in a pool, a state around a pool, and clients that ask through the data plane."""

import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from avinet.model.config import (
    HealthMonitor,
    IpAddr,
    IpAddrType,
    Pool,
    Server,
    Service,
    Vip,
    VirtualService,
)
from avinet.model.resources import Resource


class Authority:
    """A CA that signs servers' certificates; files in ``folder``."""

    def __init__(self, folder, name="ca"):
        self.folder = folder / name
        self.folder.mkdir()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(
            self.name, self.key.public_key(), x509.BasicConstraints(ca=True, path_length=None)
        )
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _sign(self, subject, public_key, *extensions):
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=10))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256())

    def pair(self, name):
        """PEM of a key and of its certificate for ``name``."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key.public_key(), x509.SubjectAlternativeName([x509.DNSName(name)]))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return private.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()

    def context(self, name, *, clients=False):
        """A server's TLS context with a certificate for ``name``; ``clients`` must show one of this CA, too."""
        path = self.folder / f"{name}.pem"
        path.write_text("".join(self.pair(name)))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self.pem)
        return context


class Origin:
    """An HTTP server that answers with its name.  ``/slow`` sends a first half, and the rest once ``go`` is set."""

    def __init__(self, name, *, context=None, port=0):
        origin = self
        self.name = name
        self.status = 200
        self.health_status = 200
        self.health_body = "all is well"
        self.delay_s = 0.0
        self.go = threading.Event()
        self.asked = []
        """(path, host) of each request."""
        self.headers = []
        """Of each request, by names in lower case."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                origin.asked.append((self.path, self.headers["host"]))
                origin.headers.append({name.lower(): value for name, value in self.headers.items()})
                if self.path.startswith("/health"):
                    self.answer(origin.health_status, origin.health_body)
                elif self.path == "/slow":
                    self.send_response(200)
                    self.send_header("content-length", str(2 * len(origin.name)))
                    self.end_headers()
                    self.wfile.write(origin.name.encode())
                    origin.go.wait(20)
                    self.wfile.write(origin.name.encode())
                else:
                    time.sleep(origin.delay_s)
                    self.answer(origin.status, origin.name)

            def answer(self, status, body):
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *arguments):
                pass

        class Listening(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def finish_request(self, request, client_address):
                if context is None:
                    super().finish_request(request, client_address)
                    return
                with context.wrap_socket(request, server_side=True) as secure:  # in a thread of its own
                    super().finish_request(secure, client_address)

            def handle_error(self, request, client_address):
                pass

        self.server = Listening(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.go.set()
        self.server.shutdown()
        self.server.server_close()


class Echo:
    """A TCP server that says its name and then sends back what it gets."""

    def __init__(self, name):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.name = name
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection:
            try:
                connection.sendall(self.name.encode())
                while data := connection.recv(4096):
                    connection.sendall(data)
            except OSError:
                pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def server(origin, **more):
    """A pool's entry for an origin, for its port, or for (name, port)."""
    address, port = origin if isinstance(origin, tuple) else ("127.0.0.1", getattr(origin, "port", origin))
    try:
        ipaddress.ip_address(address)
        kind = IpAddrType.V4
    except ValueError:
        kind = IpAddrType.DNS
    return Server(ip=IpAddr(addr=address, type=kind), port=port, **more)


def monitor(**more):
    """A monitor that finds out quickly."""
    quick = {"send_interval": 0.2, "receive_timeout": 0.2, "successful_checks": 1, "failed_checks": 1}
    return HealthMonitor(**({"uuid": "healthmonitor-1", "name": "m"} | quick | more))


def state_of(vip_port, servers, *, monitors=(), profile=None, routes=(), others=(), **pool):
    """One virtual service with its pool and monitors; ``pool`` are the pool's fields, ``others`` more objects."""
    profiled = {} if profile is None else {"application_profile_ref": profile}
    things = (
        VirtualService(
            uuid="virtualservice-1",
            name="v",
            vip=(Vip(ip_address=IpAddr(addr="127.0.0.1")),),
            services=(Service(port=vip_port),),
            pool_ref="pool-1",
            se_group_ref="serviceenginegroup-1",
            routes=tuple(routes),
            **profiled,
        ),
        Pool(
            uuid="pool-1",
            name="p",
            servers=tuple(s if isinstance(s, Server) else server(s) for s in servers),
            health_monitor_refs=tuple(m.uuid for m in monitors),
            **pool,
        ),
        *monitors,
        *others,
    )
    resources = (
        Resource(f"{type(thing).__name__.lower()}/{thing.uuid}", msgspec.msgpack.encode(thing))
        for thing in things
    )
    return {resource.name: resource for resource in resources}


class Answer:
    """Status, body and headers of one answer."""

    def __init__(self, response):
        self.status = response.status
        self.body = response.read().decode()
        self.headers = {name.lower(): value for name, value in response.getheaders()}


def ask(port, path="/", *, method="GET", headers=None, source=None, timeout=8.0):
    """One request on a connection of its own.  Blocking: for a thread."""
    address = (source, 0) if source else None
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout, source_address=address)
    try:
        connection.request(method, path, headers=headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()
