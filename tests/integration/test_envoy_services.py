"""Virtual services in a real Envoy, asked by curl and openssl: TLS, HTTP/2, routes, redirects, WebSockets, TCP."""

import os
import signal
import socket
import ssl
import time
from pathlib import Path

import msgspec
import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.dataplane.envoy import stop_data_plane
from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.interface import RejectedError
from avinet.model.config import ApplicationProfile, PathMatch, Route, SSLKeyAndCertificate, SslProfile
from avinet.model.resources import hashes_of
from tests.integration.pool_kit import Authority, Echo, Origin
from tests.integration.service_kit import (
    NAME,
    TlsLoad,
    WebSocketEcho,
    certificate,
    curl,
    handshake,
    pool,
    service,
    trusting,
    upgraded,
)
from tests.integration.test_envoy import Bench, free_port
from tests.unit.certificates import issued


class Services(Bench):
    """A bench with servers of all kinds."""

    def started(self, kind, *arguments, **more):
        found = kind(*arguments, **more)
        self.backends.append(found)
        return found

    def pool(self, name, **more):
        return pool(name, self.started(Origin, name), **more)

    async def serving(self, state):
        plane = self.plane()
        await plane.start()
        await plane.apply(state)
        assert await plane.in_force() == hashes_of(state.values())
        return plane


@pytest_twisted.ensureDeferred
async def test_the_name_asked_for_picks_the_certificate_and_the_first_is_for_the_rest():
    async with Services() as bench:
        port = free_port()
        found = (certificate("a"), certificate("b", "b.test", "*.wild.test"), certificate("c", "x.wild.test"))
        await bench.serving(service(tls=(port,), pools=(bench.pool("one"),), certificates=found))
        for name, subject in (
            ("a.test", "a.test"),
            ("b.test", "b.test"),
            ("y.wild.test", "b.test"),
            ("x.wild.test", "x.wild.test"),
            ("other.test", "a.test"),
            ("", "a.test"),
        ):
            assert (await handshake(port, name))[0] == subject, name
        answer = await curl(f"https://127.0.0.1:{port}/", host="y.wild.test")
        assert (answer.status, answer.body) == (200, "one")


@pytest_twisted.ensureDeferred
async def test_profiles_bound_the_versions_of_tls_and_its_ciphers():
    async with Services() as bench:
        one, two = free_port(), free_port()
        pools, found = (bench.pool("one"),), (certificate("a"),)
        modern = service(
            tls=(two,), pools=pools, certificates=found, ssl_profile_ref=SslProfile.MODERN, name="2"
        )
        await bench.serving(service(tls=(one,), pools=pools, certificates=found) | modern)
        old = ("-cipher", "ALL:@SECLEVEL=0")
        assert (await handshake(one, "a.test"))[1] == "TLSv1.3"
        assert (await handshake(one, "a.test", "-tls1_2"))[1] == "TLSv1.2"
        assert (await handshake(one, "a.test", "-tls1_1", *old))[1] is None
        assert (await handshake(one, "a.test", "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"))[1] is None
        assert (await handshake(two, "a.test"))[1] == "TLSv1.3"
        assert (await handshake(two, "a.test", "-tls1_2"))[1] is None


@pytest_twisted.ensureDeferred
async def test_http2_is_agreed_by_alpn_or_begun_with_where_it_is_enabled():
    async with Services() as bench:
        plain, tls, old_plain, old_tls = (free_port() for _ in range(4))
        pools, found = (bench.pool("one"),), (certificate("a"),)
        await bench.serving(
            service(plain=(plain,), tls=(tls,), pools=pools, certificates=found)
            | service(
                plain=(old_plain,), tls=(old_tls,), pools=pools, certificates=found, http2=False, name="2"
            )
        )
        assert (await curl(f"https://127.0.0.1:{tls}/")).version == "HTTP/2"
        assert (await curl(f"https://127.0.0.1:{tls}/", "--http1.1")).version == "HTTP/1.1"
        assert (await curl(f"https://127.0.0.1:{old_tls}/")).version == "HTTP/1.1"
        assert (await curl(f"http://127.0.0.1:{plain}/", "--http2-prior-knowledge")).version == "HTTP/2"
        assert (await curl(f"http://127.0.0.1:{plain}/")).version == "HTTP/1.1"
        with pytest.raises(Exception, match="curl"):
            await curl(f"http://127.0.0.1:{old_plain}/", "--http2-prior-knowledge")


@pytest_twisted.ensureDeferred
async def test_requests_without_tls_are_sent_to_the_port_with_it():
    async with Services() as bench:
        plain, tls = free_port(), free_port()
        state = service(
            plain=(plain,),
            tls=(tls,),
            pools=(bench.pool("one"),),
            certificates=(certificate("a"),),
            http_to_https=True,
        )
        await bench.serving(state)
        url = f"http://127.0.0.1:{plain}/some/path?with=query"
        answer = await curl(url, host="app.test")
        location = f"https://app.test:{tls}/some/path?with=query"
        assert (answer.status, answer.headers["location"]) == (301, location)
        answer = await curl(url, "-X", "POST", "-d", "x", host="app.test")
        assert (answer.status, answer.headers["location"]) == (308, location)
        assert (await curl(f"https://127.0.0.1:{tls}/")).status == 200


@pytest_twisted.ensureDeferred
async def test_host_and_path_choose_the_pool_and_the_first_match_decides():
    async with Services() as bench:
        port = free_port()
        names = ("default", "api", "shop", "wild", "exact", "regex")
        pools = tuple(bench.pool(name) for name in names)
        routes = (
            Route(path="/api", pool_ref="pool-api"),
            Route(hosts=("Shop.test",), path="/exact", path_match=PathMatch.EQUALS, pool_ref="pool-exact"),
            Route(hosts=("shop.test",), pool_ref="pool-shop"),
            Route(path="/item/[0-9]+", path_match=PathMatch.REGEX, pool_ref="pool-regex"),
            Route(hosts=("*.wild.test",), pool_ref="pool-wild"),
        )
        await bench.serving(service(plain=(port,), pools=pools, routes=routes))
        for host, path, wanted in (
            ("any.test", "/", "default"),
            ("any.test", "/api", "api"),
            ("any.test", "/api/x?y", "api"),
            ("any.test", "/apis", "default"),
            ("any.test", "/x/../api", "api"),
            ("shop.test", "/api", "api"),
            ("SHOP.test", "/exact", "exact"),
            ("shop.test", "/exact/more", "shop"),
            ("shop.test", "/item/12", "shop"),
            ("any.test", "/item/12", "regex"),
            ("any.test", "/item/12/x", "default"),
            ("a.wild.test", "/", "wild"),
            ("b.a.wild.test", "/", "wild"),
            ("wild.test", "/", "default"),
            ("a.wild.test", "/item/12", "regex"),
        ):
            answer = await curl(f"http://127.0.0.1:{port}{path}", "--path-as-is", host=host)
            assert answer.body == wanted, (host, path)


@pytest_twisted.ensureDeferred
async def test_servers_are_told_who_asks_and_how_whatever_the_client_claims():
    async with Services() as bench:
        plain, tls = free_port(), free_port()
        origin = bench.started(Origin, "one")
        state = service(
            plain=(plain,), tls=(tls,), pools=(pool("p", origin),), certificates=(certificate("a"),)
        )
        await bench.serving(state)
        claims = ("-H", "X-Forwarded-For: 192.0.2.7", "-H", "X-Forwarded-Proto: gopher")
        for url, scheme in ((f"http://127.0.0.1:{plain}/", "http"), (f"https://127.0.0.1:{tls}/", "https")):
            await curl(url, *claims)
            told = origin.headers[-1]
            assert told["x-forwarded-proto"] == scheme
            first, _, last = told["x-forwarded-for"].rpartition(",")
            assert first == "192.0.2.7"
            assert last


@pytest_twisted.ensureDeferred
async def test_websockets_pass_on_every_way_and_outlive_the_time_of_a_request():
    async with Services() as bench:
        plain, tls = free_port(), free_port()
        echo = bench.started(WebSocketEcho)
        pools = (bench.pool("default"), pool("ws", echo, request_timeout_s=0.4))
        routes = (Route(hosts=("ws.test",), path="/chat", pool_ref="pool-ws"),)
        state = service(
            plain=(plain,), tls=(tls,), pools=pools, routes=routes, certificates=(certificate("a"),)
        )
        await bench.serving(state)
        for port, over_tls in ((plain, False), (tls, True)):
            connection, status = await deferToThread(upgraded, port, tls=over_tls, path="/chat/room")
            assert status == "HTTP/1.1 101 Switching Protocols"
            await deferLater(reactor, 1.0)
            connection.sendall(b"hello")
            assert await deferToThread(connection.recv, 100) == b"HELLO"
            connection.close()
        assert (await curl(f"http://127.0.0.1:{plain}/chat", host="ws.test")).body == "plain"


@pytest_twisted.ensureDeferred
async def test_tcp_is_passed_on_with_tls_and_without_and_counted():
    async with Services() as bench:
        plain, tls = free_port(), free_port()
        echo = bench.started(Echo, "echo ")
        state = service(
            plain=(plain,),
            tls=(tls,),
            pools=(pool("p", echo),),
            certificates=(certificate("a"),),
            application_profile_ref=ApplicationProfile.TCP,
        )
        plane = await bench.serving(state)

        def said(port, over_tls):
            raw = socket.create_connection(("127.0.0.1", port), timeout=8)
            with trusting().wrap_socket(raw) if over_tls else raw as connection:
                connection.sendall(b"over")
                text = b""
                while len(text) < 9:
                    text += connection.recv(100)
                return text

        assert await deferToThread(said, plain, False) == b"echo over"
        assert await deferToThread(said, tls, True) == b"echo over"
        assert (await handshake(tls, "a.test", "-alpn", "h2"))[0] == "a.test"
        (counters,) = (await plane.status()).services
        assert counters.service == NAME
        assert counters.connections_total >= 2
        assert counters.bytes_out >= 18


@pytest_twisted.ensureDeferred
async def test_no_request_and_no_connection_is_lost_while_a_certificate_is_replaced():
    async with Services() as bench:
        port = free_port()
        pools = (bench.pool("one"),)
        plane = await bench.serving(service(tls=(port,), pools=pools, certificates=(certificate("a"),)))
        load = TlsLoad(port)
        load.start()
        for _ in range(5):
            state = service(tls=(port,), pools=pools, certificates=(certificate("a"),))
            await plane.apply(state)
            assert await plane.in_force() == hashes_of(state.values())
            await deferLater(reactor, 0.3)
        await deferLater(reactor, 1.5)  # the drain of anything that was replaced
        await load.finish()
        assert load.bad == []
        assert (
            load.answers > 20
        )  # a busy machine does few; that it ran throughout, the certificates seen tell
        assert load.connections == 1
        assert len(load.seen) == 6
        assert ssl.PEM_cert_to_DER_cert(_pem_in_force(state)) in load.seen


def _pem_in_force(state):
    body = state["sslkeyandcertificate/sslkeyandcertificate-a"].body
    return msgspec.msgpack.decode(body, type=SSLKeyAndCertificate).certificate.certificate


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_envoy_refuses_is_named_and_everything_stays():
    async with Services() as bench:
        port, other = free_port(), free_port()
        pools = (bench.pool("one"),)
        good = service(tls=(port,), pools=pools, certificates=(certificate("a"),))
        plane = await bench.serving(good)
        short = certificate("b", pair=issued("b.test", key=rsa.generate_private_key(65537, 1024)))
        wrong = certificate("b", pair=(issued("b.test")[0], issued("b.test")[1]))
        for bad in (short, wrong):
            more = service(tls=(port, other), pools=pools, certificates=(certificate("a"), bad))
            with pytest.raises(RejectedError) as refused:
                await plane.apply(more)
            assert refused.value.resource == "sslkeyandcertificate/sslkeyandcertificate-b"
            assert "PRIVATE" not in str(refused.value)
            assert await plane.in_force() == hashes_of(good.values())
        assert (await handshake(port, "b.test"))[0] == "a.test"


def _in_clear(folder):
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return [path for path in files if b"PRIVATE KEY" in path.read_bytes()]


def _folder_with_keys(plane_folder):
    return EnvoyFiles(plane_folder).secrets.folder


@pytest_twisted.ensureDeferred
async def test_keys_are_in_memory_only_for_their_owner_and_there_again_after_a_restart_of_the_machine():
    async with Services() as bench:
        port = free_port()
        state = service(tls=(port,), pools=(bench.pool("one"),), certificates=(certificate("a"),))
        plane = await bench.serving(state)
        folder = _folder_with_keys(bench.folder / "a")
        files = sorted(path.name for path in folder.iterdir())
        assert files == ["sslkeyandcertificate-a.json"]
        assert (folder.stat().st_mode & 0o777, (folder / files[0]).stat().st_mode & 0o777) == (0o700, 0o600)
        assert _in_clear(bench.folder) == []
        await plane.detach()
        assert await deferToThread(stop_data_plane, bench.folder / "a")
        assert not folder.exists()
        again = bench.plane()
        await again.start(state)
        assert (await handshake(port, "a.test"))[0] == "a.test"  # before anything is applied
        assert await again.in_force() == hashes_of(state.values())


@pytest_twisted.ensureDeferred
async def test_an_envoy_that_dies_is_started_with_its_keys_and_unused_ones_are_removed():
    async with Services() as bench:
        port = free_port()
        pools = (bench.pool("one"),)
        plane = await bench.serving(
            service(tls=(port,), pools=pools, certificates=(certificate("a"), certificate("b")))
        )
        folder = _folder_with_keys(bench.folder / "a")
        state = service(tls=(port,), pools=pools, certificates=(certificate("a"),))
        await plane.apply(state)
        assert [path.name for path in folder.iterdir()] == ["sslkeyandcertificate-a.json"]
        (folder / "sslkeyandcertificate-a.json").unlink()
        assert (await handshake(port, "a.test"))[0] == "a.test"
        restarts = []
        plane.on_restart(lambda: restarts.append(time.monotonic()))
        os.kill(plane.pid, signal.SIGKILL)
        while not restarts:
            await deferLater(reactor, 0.05)
        assert (await handshake(port, "a.test"))[0] == "a.test"
        assert await plane.in_force() == hashes_of(state.values())


@pytest_twisted.ensureDeferred
async def test_a_pool_shows_its_certificate_to_servers_that_ask():
    async with Services() as bench:
        authority, port = Authority(bench.folder), free_port()
        pair = issued("client.test")
        context = authority.context("server.test")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=pair[0])
        origin = bench.started(Origin, "one", context=context)
        shows = pool(
            "p",
            origin,
            ssl_profile_ref=SslProfile.STANDARD,
            ssl_key_and_certificate_ref="sslkeyandcertificate-client",
        )
        found = certificate("client", pair=pair)
        state = service(plain=(port,), pools=(shows,), certificates=(found,))
        await bench.serving(state)
        assert (await curl(f"http://127.0.0.1:{port}/")).body == "one"


@pytest_twisted.ensureDeferred
async def test_a_disabled_service_listens_nowhere_and_is_in_force_all_the_same():
    async with Services() as bench:
        port, tls = free_port(), free_port()
        one = {
            "plain": (port,),
            "tls": (tls,),
            "pools": (bench.pool("one"),),
            "certificates": (certificate("a"),),
        }
        plane = await bench.serving(service(**one))
        state = service(**one, enabled=False)
        await plane.apply(state)
        assert await plane.in_force() == hashes_of(state.values())
        for number in (port, tls):
            with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", number)):
                pass
