"""Virtual services with TLS and routes, and the clients that people use: curl and openssl."""

import json
import re
import socket
import ssl
import subprocess
import threading
from http.client import HTTPSConnection

import msgspec
from twisted.internet.threads import deferToThread

from avinet.model.config import (
    CertificateText,
    IpAddr,
    Pool,
    Service,
    SSLKeyAndCertificate,
    Vip,
    VirtualService,
)
from avinet.model.resources import Resource
from tests.integration.pool_kit import server
from tests.unit.certificates import issued

NAME = "virtualservice/virtualservice-1"


def resource(thing):
    return Resource(f"{type(thing).__name__.lower()}/{thing.uuid}", msgspec.msgpack.encode(thing))


def certificate(name, *names, pair=None, **more):
    pem, key = pair or issued(*(names or (f"{name}.test",)))
    return SSLKeyAndCertificate(
        uuid=f"sslkeyandcertificate-{name}",
        name=name,
        certificate=CertificateText(certificate=pem),
        key=key,
        **more,
    )


def pool(name, *origins, **more):
    return Pool(uuid=f"pool-{name}", name=name, servers=tuple(server(o) for o in origins), **more)


def service(*, plain=(), tls=(), pools, certificates=(), http2=True, name="1", **more):
    """State of one virtual service; the first of ``pools`` is its default one."""
    thing = VirtualService(
        uuid=f"virtualservice-{name}",
        name="v",
        vip=(Vip(ip_address=IpAddr(addr="127.0.0.1")),),
        services=(
            *(Service(port=p, enable_http2=http2) for p in plain),
            *(Service(port=p, enable_ssl=True, enable_http2=http2) for p in tls),
        ),
        pool_ref=pools[0].uuid,
        se_group_ref="serviceenginegroup-1",
        ssl_key_and_certificate_refs=tuple(c.uuid for c in certificates),
        **more,
    )
    return {r.name: r for r in map(resource, (thing, *pools, *certificates))}


class Curl:
    """What curl says of one request."""

    def __init__(self, output):
        head, _, self.body = output.rpartition("\r\n\r\n")
        status, *lines = head.split("\r\n\r\n")[-1].split("\r\n")
        self.version, self.status = status.split()[0], int(status.split()[1])
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}


def curl(url, *options, host=None):
    """One request; with ``host`` the name is asked for (SNI and host header) at the URL's own port."""
    if host is not None:
        port = url.partition("://")[2].partition("/")[0].rpartition(":")[2]
        options = (*options, "--resolve", f"{host}:{port}:127.0.0.1")
        url = url.replace("127.0.0.1", host)
    command = ["curl", "-sSik", "--noproxy", "*", "-m", "8", *options, url]
    return deferToThread(
        lambda: Curl(subprocess.run(command, capture_output=True, check=True).stdout.decode())
    )


def handshake(port, name="", *options):
    """(subject, protocol) of openssl's handshake, (None, None) when it is refused."""

    def run():
        sni = ["-servername", name] if name else ["-noservername"]
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *sni, *options]
        done = subprocess.run(command, input="", capture_output=True, text=True, check=False, timeout=8)
        subject = re.search(r"^subject=CN ?= ?(.*)$", done.stdout, re.MULTILINE)
        protocol = re.search(r"^New, (TLSv[\d.]+)", done.stdout, re.MULTILINE)
        return (subject[1] if subject else None, protocol[1] if protocol else None)

    return deferToThread(run)


def trusting():
    """A TLS client's context that believes everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class TlsLoad(threading.Thread):
    """HTTPS requests one after another until told to stop: each on a new connection and on one that is kept."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port = port
        self.stopping = False
        self.answers = 0
        self.connections = 0
        """How many the kept one was."""
        self.bad = []
        self.seen = set()
        """Certificates shown to new connections."""

    def run(self):
        kept = self._connect()
        while not self.stopping:
            new = self._connect()
            self.seen.add(new.sock.getpeercert(binary_form=True))
            for connection in (new, kept):
                try:
                    connection.request("GET", "/")
                    response = connection.getresponse()
                    response.read()
                    if response.status != 200:
                        self.bad.append(response.status)
                    self.answers += 1
                except Exception as failure:
                    self.bad.append(repr(failure))
            new.close()
        self.connections = 1 if kept.sock is not None else 0
        kept.close()

    def _connect(self):
        connection = HTTPSConnection("127.0.0.1", self.port, timeout=5, context=trusting())
        connection.connect()
        connection.auto_open = 0
        return connection

    async def finish(self):
        self.stopping = True
        await deferToThread(self.join)


class WebSocketEcho:
    """Upgrades each connection and then sends back what it gets; tells what it was asked."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
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
            asked = b""
            while b"\r\n\r\n" not in asked and (data := connection.recv(4096)):
                asked += data
            if b"upgrade: websocket" not in asked.lower():
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain")
                return
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
            )
            while data := connection.recv(4096):
                connection.sendall(data.upper())

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def upgraded(port, *, tls=False, path="/", host="ws.test"):
    """A connection on which a WebSocket was asked for, and the answer's first line.  Blocking."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=8)
    if tls:
        connection = trusting().wrap_socket(connection, server_hostname=host)
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head and (data := connection.recv(4096)):
        head += data
    return connection, head.split(b"\r\n")[0].decode()


def rewrite(path, change):
    """Change a file of JSON as an editor does: written beside, renamed over."""
    content = json.loads(path.read_text())
    change(content)
    beside = path.with_suffix(".edited")
    beside.write_text(json.dumps(content))
    beside.replace(path)
