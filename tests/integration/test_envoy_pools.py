"""Pools in a real Envoy, with real servers: who is chosen, who is left out, how it is asked, what is answered."""

import socket
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.dataplane.envoy_cluster import UPDATE_MERGE_S
from avinet.dataplane.interface import Failure, ServerState
from avinet.model.config import (
    ApplicationProfile,
    CertificateText,
    FailAction,
    FailActionType,
    HashBy,
    HealthMonitorType,
    HttpMonitor,
    LbAlgorithm,
    OutlierDetection,
    Persistence,
    PersistenceType,
    Pool,
    Route,
    SSLKeyAndCertificate,
    SslProfile,
)
from tests.integration.pool_kit import Authority, Echo, Origin, ask, monitor, server, state_of
from tests.integration.test_envoy import SETTINGS, Bench, free_port, until


def may_cut():
    """Whether this process has CAP_NET_ADMIN, number 12."""
    words = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapEff"))
    return bool(int(words.split()[1], 16) >> 12 & 1)


HEALTH = HttpMonitor(http_request="GET /health HTTP/1.1")


class Pools(Bench):
    """A bench with origins."""

    def origin(self, name, **more):
        found = Origin(name, **more)
        self.backends.append(found)
        return found

    def origins(self, count, **more):
        return [self.origin(chr(ord("a") + n), **more) for n in range(count)]

    async def started(self, settings=SETTINGS):
        plane = self.plane(settings=settings)
        await plane.start()
        return plane, free_port()


async def asked(port, path="/", **more):
    return await deferToThread(ask, port, path, **more)


async def names(port, count, **more):
    """How often each server answered."""
    return Counter([(await asked(port, **more)).body for _ in range(count)])


async def state_of_servers(plane):
    return {s.server.rpartition(":")[2]: s for s in (await plane.status()).servers}


@pytest_twisted.ensureDeferred
async def test_round_robin_follows_the_ratios():
    async with Pools() as bench:
        one, two = bench.origins(2)
        plane, port = await bench.started()
        await plane.apply(state_of(port, [server(one, ratio=3), server(two, ratio=1)]))
        counts = await names(port, 80)
        assert 50 <= counts["a"] <= 70
        assert counts["a"] + counts["b"] == 80


@pytest_twisted.ensureDeferred
async def test_least_connections_spares_a_server_that_is_busy():
    async with Pools() as bench:
        slow, quick = bench.origins(2)
        slow.delay_s = 0.4
        plane, port = await bench.started()
        await plane.apply(state_of(port, [slow, quick], lb_algorithm=LbAlgorithm.LEAST_CONNECTIONS))
        counts = Counter()

        def client():
            end = time.monotonic() + 2
            while time.monotonic() < end:
                counts[ask(port).body] += 1

        clients = [threading.Thread(target=client) for _ in range(6)]
        for one in clients:
            one.start()
        for one in clients:
            await deferToThread(one.join)
        assert counts["b"] > 5 * counts["a"] > 0


@pytest_twisted.ensureDeferred
async def test_a_consistent_hash_keeps_its_keys_and_moves_only_those_of_a_server_that_goes():
    async with Pools() as bench:
        origins = bench.origins(3)
        plane, port = await bench.started()
        paths = [f"/item/{n}?x={n}" for n in range(60)]
        hashed = {"lb_algorithm": LbAlgorithm.CONSISTENT_HASH, "lb_algorithm_hash": HashBy.URI}
        await plane.apply(state_of(port, origins, **hashed))
        before = {path: (await asked(port, path)).body for path in paths}
        assert before == {path: (await asked(port, path)).body for path in paths}
        assert set(Counter(before.values())) == {"a", "b", "c"}
        await plane.apply(state_of(port, origins[:2], **hashed))
        after = {path: (await asked(port, path)).body for path in paths}
        moved = [path for path in paths if after[path] != before[path]]
        assert {before[path] for path in moved} == {"c"}

        header = {"lb_algorithm_hash": HashBy.HEADER, "lb_algorithm_consistent_hash_hdr": "X-User"}
        await plane.apply(state_of(port, origins, **(hashed | header)))
        users = {f"user{n}": await names(port, 2, headers={"x-user": f"user{n}"}) for n in range(30)}
        assert all(len(found) == 1 for found in users.values())
        assert len(set(map(str, users.values()))) == 3

        await plane.apply(state_of(port, origins, lb_algorithm=LbAlgorithm.CONSISTENT_HASH))
        sources = {n: await names(port, 2, source=f"127.0.1.{n}") for n in range(1, 31)}
        assert all(len(found) == 1 for found in sources.values())
        assert len(set(map(str, sources.values()))) == 3


@pytest_twisted.ensureDeferred
async def test_a_cookie_keeps_its_server_until_that_is_dead():
    async with Pools() as bench:
        origins = bench.origins(3)
        plane, port = await bench.started()
        state = state_of(
            port, origins, monitors=[monitor(http_monitor=HEALTH)], persistence=Persistence(timeout_s=600)
        )
        await plane.apply(state)
        first = await asked(port)
        cookie = first.headers["set-cookie"]
        assert cookie.startswith("avinet-pool-1=")
        assert "Max-Age=600" in cookie
        assert "HttpOnly" in cookie
        headers = {"cookie": cookie.partition(";")[0]}
        assert await names(port, 12, headers=headers) == {first.body: 12}
        assert len(await names(port, 12)) == 3
        (mine,) = (o for o in origins if o.name == first.body)
        mine.health_status = 500
        await until(lambda: is_not_up(plane, mine))
        moved = await asked(port, headers=headers)
        assert moved.status == 200
        assert moved.body != first.body
        assert moved.headers["set-cookie"].startswith("avinet-pool-1=")


async def is_not_up(plane, origin):
    return not (await state_of_servers(plane))[str(origin.port)].up


async def is_up(plane, origin):
    return (await state_of_servers(plane))[str(origin.port)].up


@pytest_twisted.ensureDeferred
async def test_persistence_by_address_keeps_a_client_and_spreads_many():
    async with Pools() as bench:
        origins = bench.origins(3)
        plane, port = await bench.started()
        by_address = Persistence(persistence_type=PersistenceType.CLIENT_IP)
        await plane.apply(state_of(port, origins, persistence=by_address))
        sources = {n: await names(port, 2, source=f"127.0.2.{n}") for n in range(1, 31)}
        assert all(len(found) == 1 for found in sources.values())
        assert len(set(map(str, sources.values()))) == 3


@pytest_twisted.ensureDeferred
async def test_the_next_priority_takes_over_and_gives_back():
    async with Pools() as bench:
        first, second, other = bench.origins(3)
        plane, port = await bench.started()
        servers = [server(first), server(second), server(other, priority=9)]
        await plane.apply(state_of(port, servers, monitors=[monitor(http_monitor=HEALTH)]))
        assert set(await names(port, 20)) == {"a", "b"}
        first.health_status = second.health_status = 500
        await until(lambda: is_not_up(plane, first))
        await until(lambda: is_not_up(plane, second))
        await deferLater(reactor, 3 * UPDATE_MERGE_S)  # until its worker threads know
        assert set(await names(port, 10)) == {"c"}
        first.health_status = second.health_status = 200
        await until(lambda: is_up(plane, first))
        await until(lambda: is_up(plane, second))
        await deferLater(reactor, 3 * UPDATE_MERGE_S)
        assert set(await names(port, 20)) == {"a", "b"}
        # A disabled one does not count as down: nothing moves to the next priority.
        await plane.apply(
            state_of(
                port,
                [server(first), server(second, enabled=False), server(other, priority=9)],
                monitors=[monitor(http_monitor=HEALTH)],
            )
        )
        assert set(await names(port, 20)) == {"a"}


class LongRequest(threading.Thread):
    """Asks for ``/slow`` and reads to its end, or until it is cut."""

    def __init__(self, port, headers=None):
        super().__init__(daemon=True)
        self.connection = HTTPConnection("127.0.0.1", port, timeout=30)
        self.headers = headers or {}
        self.begun = threading.Event()
        self.body = ""
        self.failure = None

    def run(self):
        try:
            self.connection.request("GET", "/slow", headers=self.headers)
            response = self.connection.getresponse()
            self.body = response.read(1).decode()
            self.begun.set()
            self.body += response.read().decode()
        except (OSError, HTTPException) as failure:
            self.failure = failure
        finally:
            self.connection.close()


async def begun(port, **more):
    request = LongRequest(port, **more)
    request.start()
    assert await deferToThread(request.begun.wait, 10)
    return request


@pytest_twisted.ensureDeferred
async def test_a_disabled_server_finishes_its_requests_and_keeps_its_cookies_for_a_time():
    async with Pools() as bench:
        one, two = bench.origins(2)
        plane, port = await bench.started()
        more = {"persistence": Persistence(), "graceful_disable_timeout_s": 600}
        await plane.apply(state_of(port, [one, two], **more))
        while (first := await asked(port)).body != "a":
            pass
        cookie = {"cookie": first.headers["set-cookie"].partition(";")[0]}
        request = await begun(port, headers=cookie)
        await plane.apply(state_of(port, [server(one, enabled=False), server(two)], **more))
        assert await names(port, 10) == {"b": 10}
        assert await names(port, 5, headers=cookie) == {"a": 5}
        found = (await state_of_servers(plane))[str(one.port)]
        assert (found.state, found.up) == (ServerState.DRAINING, False)
        # Longer than listeners and removed clusters drain: what is under way depends on neither.
        await deferLater(reactor, plane._settings.drain_s + 1.5)
        await plane._sweep()
        assert request.is_alive()
        # Another change does not begin its time anew, nor a new agent, nor does it end what is under way.
        plane._wall = lambda: time.time() + 550
        await plane.apply(state_of(port, [server(one, enabled=False), server(two, ratio=2)], **more))
        await plane._sweep()
        assert await names(port, 3, headers=cookie) == {"a": 3}
        one.go.set()
        await deferToThread(request.join)
        assert (request.body, request.failure) == ("aa", None)
        plane._wall = lambda: time.time() + 601
        await plane._sweep()
        await until(lambda: is_left_out(plane, one))
        assert await names(port, 5, headers=cookie) == {"b": 5}


async def is_left_out(plane, origin):
    return str(origin.port) not in await state_of_servers(plane)


@pytest.mark.skipif(not may_cut(), reason="needs CAP_NET_ADMIN")
@pytest_twisted.ensureDeferred
async def test_what_is_still_under_way_when_the_time_is_over_is_cut_and_nothing_else():
    async with Pools() as bench:
        one, two = bench.origins(2)
        plane, port = await bench.started()
        await plane.apply(state_of(port, [one, two], graceful_disable_timeout_s=0))
        requests = []
        while min(Counter(r.body for r in requests).get(name, 0) for name in "ab") < 2:
            requests.append(await begun(port))
        await plane.apply(
            state_of(port, [server(one, enabled=False), server(two)], graceful_disable_timeout_s=0)
        )
        await until(lambda: is_left_out(plane, one))
        cut = [r for r in requests if r.body == "a"]
        kept = [r for r in requests if r.body == "b"]
        for request in cut:
            await deferToThread(request.join, 5)
            assert isinstance(request.failure, HTTPException | OSError)
        two.go.set()
        for request in kept:
            await deferToThread(request.join, 5)
            assert (request.body, request.failure) == ("bb", None)


@pytest_twisted.ensureDeferred
async def test_monitors_look_at_the_body_and_send_the_host_that_they_are_told():
    async with Pools() as bench:
        good, bad = bench.origins(2)
        bad.health_body = "database is gone"
        plane, port = await bench.started()
        wanted = HttpMonitor(http_request="GET /health", http_response="is well", host="app.example")
        await plane.apply(state_of(port, [good, bad], monitors=[monitor(http_monitor=wanted)]))
        assert await names(port, 6) == {"a": 6}
        assert ("/health", "app.example") in good.asked
        bad.health_body = "x" * 5000 + "all is well"
        await until(lambda: is_up(plane, bad))


@pytest_twisted.ensureDeferred
async def test_all_of_several_monitors_must_pass():
    async with Pools() as bench:
        one, two = bench.origins(2)
        plane, port = await bench.started()
        monitors = [
            monitor(uuid="healthmonitor-1", http_monitor=HEALTH),
            monitor(uuid="healthmonitor-2", type=HealthMonitorType.TCP),
        ]
        two.health_status = 500
        await plane.apply(state_of(port, [one, two], monitors=monitors))
        assert await names(port, 6) == {"a": 6}
        two.health_status = 200
        await until(lambda: is_up(plane, two))
        assert set(await names(port, 6)) == {"a", "b"}


@pytest_twisted.ensureDeferred
async def test_monitors_speak_tls_or_not_whatever_the_pool_does():
    async with Pools() as bench:
        authority = Authority(bench.folder)
        secure = bench.origin("secure", context=authority.context("app.example"))
        plain = bench.origin("plain")
        plane, port = await bench.started()
        http = {"http_monitor": HEALTH}
        tls_pool = {
            "ssl_profile_ref": SslProfile.STANDARD,
            "ca_certs": (authority.pem,),
            "server_name": "app.example",
        }
        for asks, kind, more, pool, origins, up in (
            ("https on a plain pool", HealthMonitorType.HTTPS, http, {}, [secure, plain], secure),
            ("tls on a plain pool", HealthMonitorType.TLS, {}, {}, [secure, plain], secure),
            ("http on a tls pool", HealthMonitorType.HTTP, http, tls_pool, [secure, plain], plain),
            ("https on a tls pool", HealthMonitorType.HTTPS, http, tls_pool, [secure, plain], secure),
        ):
            one = monitor(type=kind, receive_timeout=1, send_interval=1, **more)
            await plane.apply(state_of(port, origins, monitors=[one], **pool))
            found = await state_of_servers(plane)
            ups = [o.name for o in origins if found[str(o.port)].up]
            assert ups == [up.name], asks


@pytest_twisted.ensureDeferred
async def test_servers_must_prove_the_name_that_they_are_asked_for():
    async with Pools() as bench:
        authority, stranger = Authority(bench.folder), Authority(bench.folder, "stranger")
        origin = bench.origin("secure", context=authority.context("app.example"))
        plane, port = await bench.started()
        named = server(origin, hostname="app.example")
        misnamed = server(origin, hostname="other.example")
        for what, entry, pool, status in (
            ("no CA", server(origin), {}, 200),
            ("the right CA alone", server(origin), {"ca_certs": (authority.pem,)}, 200),
            (
                "the pool's name",
                server(origin),
                {"ca_certs": (authority.pem,), "server_name": "app.example"},
                200,
            ),
            ("the server's name", named, {"ca_certs": (authority.pem,)}, 200),
            ("one of two CAs", named, {"ca_certs": (stranger.pem, authority.pem)}, 200),
            ("the wrong CA", named, {"ca_certs": (stranger.pem,)}, 503),
            ("the wrong CA, no name", server(origin), {"ca_certs": (stranger.pem,)}, 503),
            ("another name", misnamed, {"ca_certs": (authority.pem,)}, 503),
            (
                "another name of the pool",
                named,
                {"ca_certs": (authority.pem,), "server_name": "x.example"},
                503,
            ),
        ):
            await plane.apply(state_of(port, [entry], ssl_profile_ref=SslProfile.STANDARD, retries=0, **pool))
            assert (await asked(port)).status == status, what


@pytest_twisted.ensureDeferred
async def test_servers_that_ask_are_shown_a_certificate_also_by_their_checks():
    async with Pools() as bench:
        authority = Authority(bench.folder)
        origin = bench.origin("secure", context=authority.context("app.example", clients=True))
        plane, port = await bench.started()
        key, certificate = authority.pair("se.example")
        shown = SSLKeyAndCertificate(
            uuid="sslkeyandcertificate-1",
            name="c",
            key=key,
            certificate=CertificateText(certificate=certificate),
        )
        https = monitor(type=HealthMonitorType.HTTPS, http_monitor=HEALTH, receive_timeout=1, send_interval=1)
        tls = {"ssl_profile_ref": SslProfile.STANDARD, "monitors": [https], "retries": 0}
        await plane.apply(state_of(port, [origin], **tls))
        assert (await asked(port)).status == 503
        await plane.apply(
            state_of(port, [origin], ssl_key_and_certificate_ref=shown.uuid, others=[shown], **tls)
        )
        assert (await asked(port)).status == 200


@pytest_twisted.ensureDeferred
async def test_fail_actions_answer_while_no_server_is_up():
    async with Pools() as bench:
        origin = bench.origin("a")
        origin.health_status = 500
        plane, port = await bench.started()
        monitors = [monitor(http_monitor=HEALTH)]
        await plane.apply(state_of(port, [origin], monitors=monitors))
        empty = await asked(port)
        assert (empty.status, empty.body) == (503, "")

        sorry = FailAction(
            type=FailActionType.LOCAL_RESPONSE,
            status_code=500,
            body="<p>100 % sorry %REQ(:PATH)%</p>",
            content_type="text/html",
        )
        await plane.apply(state_of(port, [origin], monitors=monitors, fail_action=sorry))
        answer = await asked(port)
        assert (answer.status, answer.body) == (500, "<p>100 % sorry %REQ(:PATH)%</p>")
        assert answer.headers["content-type"] == "text/html"

        away = FailAction(
            type=FailActionType.REDIRECT, status_code=307, redirect_url="https://x.example/a%20b"
        )
        await plane.apply(state_of(port, [origin], monitors=monitors, fail_action=away))
        answer = await asked(port)
        assert (answer.status, answer.headers["location"]) == (307, "https://x.example/a%20b")

        # A pool that is disabled is one whose servers are all down; one that is well answers itself.
        origin.health_status = 200
        await plane.apply(state_of(port, [origin], fail_action=away, enabled=False))
        assert (await asked(port)).status == 307
        origin.status = 503
        await plane.apply(state_of(port, [origin], fail_action=away))
        answer = await asked(port)
        assert (answer.status, answer.body) == (503, "a")


@pytest_twisted.ensureDeferred
async def test_a_server_that_fails_real_requests_is_ejected_for_a_while():
    async with Pools() as bench:
        good, bad = bench.origins(2)
        bad.status = 500
        plane, port = await bench.started()
        outliers = OutlierDetection(consecutive_5xx=3, interval_s=0.2, ejection_time_s=2)
        await plane.apply(
            state_of(port, [good, bad], monitors=[monitor(http_monitor=HEALTH)], outlier_detection=outliers)
        )
        await names(port, 10)
        await until(lambda: is_not_up(plane, bad))
        found = (await state_of_servers(plane))[str(bad.port)]
        assert (found.state, found.failure) == (ServerState.EJECTED, Failure.OUTLIER)
        assert await names(port, 6) == {"a": 6}
        assert found.errors >= 3
        bad.status = 200
        await until(lambda: is_up(plane, bad))


@pytest_twisted.ensureDeferred
async def test_a_limit_of_connections_holds_for_each_server():
    async with Pools() as bench:
        origin = bench.origin("a")
        # Each worker thread may have one connection to a server, whatever the others have.
        plane, port = await bench.started(attrs.evolve(SETTINGS, concurrency=1))
        await plane.apply(state_of(port, [origin], max_concurrent_connections_per_server=2, retries=0))
        under_way = [await begun(port) for _ in range(2)]
        waiting = [LongRequest(port) for _ in range(2)]
        for one in waiting:
            one.start()
        await until(lambda: waits(plane, 4))
        assert (await asked(port)).status == 503
        assert len(origin.asked) == 2
        origin.go.set()
        for one in (*under_way, *waiting):
            await deferToThread(one.join, 10)
            assert (one.body, one.failure) == ("aa", None)
        status = await plane.status()
        assert status.pools[0].refused_by_limit == 1


async def waits(plane, count):
    return (await plane.status()).services[0].requests >= count


@pytest_twisted.ensureDeferred
async def test_a_request_that_takes_too_long_is_given_up_and_one_that_fails_is_repeated_elsewhere():
    async with Pools() as bench:
        slow = bench.origin("slow")
        slow.delay_s = 1.5
        plane, port = await bench.started()
        await plane.apply(state_of(port, [slow], request_timeout_s=0.3))
        assert (await asked(port)).status == 504
        good = bench.origin("good")
        await plane.apply(state_of(port, [free_port(), good]))
        assert await names(port, 10) == {"good": 10}
        await plane.apply(state_of(port, [free_port(), good], retries=0))
        assert {(await asked(port)).status for _ in range(10)} == {200, 503}


@pytest_twisted.ensureDeferred
async def test_a_name_that_does_not_resolve_holds_nothing_up_and_is_marked():
    async with Pools() as bench:
        origin = bench.origin("a")
        plane, port = await bench.started()
        began = time.monotonic()
        servers = [server(("no-such-host.invalid", 80)), server(("localhost", origin.port))]
        await plane.apply(state_of(port, servers, monitors=[monitor(http_monitor=HEALTH)]))
        assert time.monotonic() - began < 8
        await until(lambda: is_up(plane, origin))
        found = (await state_of_servers(plane))["80"]
        assert (found.up, found.failure) == (False, Failure.UNRESOLVED)
        assert await names(port, 5) == {"a": 5}
        # The next change keeps what resolves in service.
        await plane.apply(state_of(port, [servers[0], server(("localhost", origin.port), ratio=2)]))
        assert await names(port, 5) == {"a": 5}


@pytest_twisted.ensureDeferred
async def test_status_counts_answers_and_times_them():
    async with Pools() as bench:
        quick, slow = bench.origins(2)
        slow.delay_s = 0.3
        plane, port = await bench.started()
        await plane.apply(state_of(port, [quick, slow]))
        await names(port, 10)
        quick.status = 404
        missing = (await names(port, 4))["a"]

        async def counted():
            return (await plane.status()).services[0].latency.count >= 14

        await until(counted)  # Envoy merges its threads' histograms each 5 s
        status = await plane.status()
        (service,), (pool,) = status.services, status.pools
        assert (service.requests, service.responses.ok, service.responses.client_errors) == (
            14,
            14 - missing,
            missing,
        )
        assert (pool.requests, pool.responses.ok, pool.responses.client_errors) == (14, 14 - missing, missing)
        assert service.connections_total == 14
        assert service.latency.p99 == pytest.approx(300, rel=0.2)
        assert service.latency.percentile(0.1) < 50
        assert pool.latency.p99 == pytest.approx(300, rel=0.2)
        servers = await state_of_servers(plane)
        assert servers[str(quick.port)].requests + servers[str(slow.port)].requests == 14
        # Another version of the pool goes on counting.
        await plane.apply(state_of(port, [quick]))
        await asked(port)
        assert (await plane.status()).pools[0].requests == 15


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_down_is_down_for_a_reason():
    async with Pools() as bench:
        authority, stranger = Authority(bench.folder), Authority(bench.folder, "stranger")
        status, body = bench.origins(2)
        status.health_status = 503
        body.health_body = "database is gone"
        trusted = bench.origin("trusted", context=authority.context("app.example"))
        strange = bench.origin("strange", context=stranger.context("app.example"))
        misnamed = bench.origin("misnamed", context=authority.context("other.example"))
        nobody = free_port()
        plane, port = await bench.started()

        async def known(*expected):
            found = await state_of_servers(plane)
            return all(
                found[str(at)].failure is failure and words in found[str(at)].reason
                for at, failure, words in expected
            )

        wanted = HttpMonitor(http_request="GET /health", http_response="is well")
        await plane.apply(state_of(port, [status, body, nobody], monitors=[monitor(http_monitor=wanted)]))
        await until(
            lambda: known(
                (status.port, Failure.WRONG_STATUS, "503"),
                (body.port, Failure.WRONG_BODY, "text"),
                (nobody, Failure.REFUSED, f"nothing listens on port {nobody}"),
            )
        )
        # Once they are well, or fail for another reason, nothing of that is left.
        status.health_status = 200
        await until(lambda: is_up(plane, status))
        assert (await state_of_servers(plane))[str(status.port)].reason == ""

        secure = monitor(type=HealthMonitorType.TLS, receive_timeout=1, send_interval=1)
        tls = {"ssl_profile_ref": SslProfile.STANDARD, "ca_certs": (authority.pem,)}
        servers = [server(o, hostname="app.example") for o in (trusted, strange, misnamed, status)]
        await plane.apply(state_of(port, servers, monitors=[secure], **tls))
        await until(
            lambda: known(
                (trusted.port, Failure.NONE, ""),
                (strange.port, Failure.TLS, "issuer"),
                (misnamed.port, Failure.TLS, "app.example"),
                (status.port, Failure.TLS, "handshake"),
            )
        )


class Line:
    """A TCP client that stays connected."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.name = self.socket.recv(100).decode()

    def answers(self):
        """Whether what is sent comes back."""
        try:
            self.socket.sendall(b"x")
            return self.socket.recv(1) == b"x"
        except OSError:
            return False

    def close(self):
        self.socket.close()


def greeting(port):
    """What a TCP server says first; nothing when the connection is closed."""
    line = Line(port)
    line.close()
    return line.name


def as_tcp(port, servers, **pool):
    return state_of(port, servers, profile=ApplicationProfile.TCP, **pool)


@pytest_twisted.ensureDeferred
async def test_tcp_connections_outlive_changes_of_their_pool_and_are_cut_with_their_server():
    async with Pools() as bench:
        one, two = Echo("a"), Echo("b")
        bench.backends += [one, two]
        plane, port = await bench.started()
        await plane.apply(as_tcp(port, [one, two]))
        lines = [await deferToThread(Line, port) for _ in range(12)]
        assert {line.name for line in lines} == {"a", "b"}
        await plane.apply(as_tcp(port, [server(one, ratio=2), server(two, enabled=False)]))
        assert {await deferToThread(greeting, port) for _ in range(4)} == {"a"}
        await deferLater(reactor, SETTINGS.drain_s + 1.5)
        await plane._sweep()
        assert all([await deferToThread(line.answers) for line in lines])
        (counters,) = (await plane.status()).services
        assert (counters.connections, counters.connections_total) == (12, 16)
        assert (counters.bytes_in, counters.bytes_out) == (12, 16 + 12)
        plane._wall = lambda: time.time() + 61
        await plane._sweep()
        for line in lines:
            assert await deferToThread(line.answers) == (line.name == "a" or not may_cut()), line.name
            line.close()


@pytest_twisted.ensureDeferred
async def test_tcp_without_a_server_is_closed_and_a_dead_one_is_passed_over():
    async with Pools() as bench:
        one = Echo("a")
        bench.backends.append(one)
        plane, port = await bench.started()
        await plane.apply(as_tcp(port, [free_port(), one]))
        assert {await deferToThread(greeting, port) for _ in range(8)} == {"a"}
        await plane.apply(as_tcp(port, [one], enabled=False))
        assert await deferToThread(greeting, port) == ""


@pytest_twisted.ensureDeferred
async def test_each_pool_of_a_virtual_service_has_its_own_fail_action():
    async with Pools() as bench:
        origin = bench.origin("a")
        plane, port = await bench.started()
        sorry = FailAction(type=FailActionType.LOCAL_RESPONSE, status_code=200, body="sorry")
        api = Pool(uuid="pool-2", name="api", enabled=False, fail_action=sorry)
        state = state_of(port, [origin], routes=[Route(path="/api", pool_ref="pool-2")], others=[api])
        await plane.apply(state)
        assert (await asked(port)).body == "a"
        assert (await asked(port, "/api/x")).body == "sorry"
        # The other pool's request is another matter.
        empty = state_of(
            port, [origin], enabled=False, routes=[Route(path="/api", pool_ref="pool-2")], others=[api]
        )
        await plane.apply(empty)
        assert ((await asked(port)).status, (await asked(port)).body) == (503, "")
        assert (await asked(port, "/api/x")).body == "sorry"
