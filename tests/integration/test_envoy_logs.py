"""Request logs that a real Envoy writes: what is in them, in which file, and how they are taken away."""

import contextlib
import json
import os
import re
import signal
import socket
from subprocess import CalledProcessError

import msgspec
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.dataplane.interface import LogWrites
from avinet.model.config import AnalyticsPolicy, ApplicationProfile, FullClientLogs
from avinet.model.logs import LINE_HEAD, LINE_SERVICE, TIME_BYTES, LineField, LogClass
from tests.integration.pool_kit import Echo, Origin
from tests.integration.service_kit import WebSocketEcho, certificate, curl, handshake, pool, service, upgraded
from tests.integration.test_envoy import Load, free_port
from tests.integration.test_envoy_services import Services
from tests.unit.test_dataplane_access_log import pieces

UUID = "11111111-2222-4333-8444-555555555555"
SERVICE = f"virtualservice-{UUID}"
MEASURED = {"client_port", "connect_us", "first_byte_us", "duration_us", "request_id"}


class Logged(Services):
    """A bench that reads what its Envoy has logged."""

    async def serving(self, state):
        self.data_plane = await super().serving(state)
        return self.data_plane

    async def lines(self, count):
        """The lines of both files, by class, once there are ``count`` of them."""
        for _ in range(100):
            found = {log_class: self._read(log_class) for log_class in LogClass}
            if sum(map(len, found.values())) >= count:
                break
            await deferLater(reactor, 0.05)
        assert sum(map(len, found.values())) == count, found
        return found

    async def by_path(self, count):
        """Path to the classes it was logged in, and to what was logged of it."""
        classes, found = {}, {}
        for log_class, lines in (await self.lines(count)).items():
            for line in map(json.loads, lines):
                classes.setdefault(line["path"], []).append(log_class)
                found[line["path"]] = line
        return classes, found

    def http(self, port, origin, **policy):
        return service(
            plain=(port,), pools=(pool("one", origin),), name=UUID, analytics_policy=AnalyticsPolicy(**policy)
        )

    def _read(self, log_class):
        path = self.data_plane.log_files().current(log_class)
        whole = path.read_bytes() if path.exists() else b""
        assert not whole or whole.endswith(b"\n")
        return whole.splitlines()


def raw(port, data, *, wait_s=0.3):
    """Send bytes as they are, and what is answered within ``wait_s``."""

    def run():
        with socket.create_connection(("127.0.0.1", port), timeout=8) as connection:
            connection.sendall(data)
            connection.settimeout(wait_s)
            answer = b""
            try:
                while part := connection.recv(65536):
                    answer += part
            except (TimeoutError, ConnectionResetError):
                pass
            return answer

    return deferToThread(run)


def request(path, host="h", **headers):
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nhost: {host}\r\n{more}\r\n".encode("latin-1")


@pytest_twisted.ensureDeferred
async def test_a_line_has_its_time_and_service_at_fixed_places_and_then_what_was_asked_and_answered():
    async with Logged() as bench:
        port, tls = free_port(), free_port()
        origin = bench.started(Origin, "one")
        pools = (pool("one", origin),)
        await bench.serving(
            service(plain=(port,), tls=(tls,), pools=pools, certificates=(certificate("a"),), name=UUID)
        )
        await curl(f"https://127.0.0.1:{tls}/x?y=%22", host="a.test")
        await curl(f"http://127.0.0.1:{port}/plain", "-A", "me", "--http1.1")
        found = await bench.lines(2)
        assert not found[LogClass.SIGNIFICANT]
        for line in found[LogClass.FULL]:
            at = len(LINE_HEAD) + TIME_BYTES
            assert line.startswith(LINE_HEAD)
            assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line[len(LINE_HEAD) : at])
            assert line[at:].startswith(LINE_SERVICE + SERVICE.encode() + b'"')
            assert set(json.loads(line)) == {"_time", "_vs", *LineField}
        secure, plain = map(json.loads, found[LogClass.FULL])
        assert {name: secure[name] for name in ("protocol", "tls_version", "host", "path", "status")} == {
            "protocol": "HTTP/2",
            "tls_version": "TLSv1.3",
            "host": f"a.test:{tls}",
            "path": "/x?y=%22",
            "status": 200,
        }
        assert secure["tls_cipher"].startswith("TLS_")
        assert {name: plain[name] for name in set(LineField) - MEASURED} == {
            "bytes_in": 0,
            "bytes_out": 3,
            "client": "127.0.0.1",
            "flags": "-",
            "host": f"127.0.0.1:{port}",
            "listener": f"127.0.0.1:{port}",
            "method": "GET",
            "path": "/plain",
            "pool": "one",
            "protocol": "HTTP/1.1",
            "reason": "via_upstream",
            "server": f"127.0.0.1:{origin.port}",
            "status": 200,
            "tls_cipher": None,
            "tls_version": None,
            "user_agent": "me",
            "vs": "v",
        }
        assert all(plain[name] > 0 for name in ("client_port", "connect_us", "first_byte_us", "duration_us"))
        assert len(plain["request_id"]) == 36


@pytest_twisted.ensureDeferred
async def test_a_tcp_connection_is_logged_when_it_ends_and_is_significant_when_it_failed():
    async with Logged() as bench:
        port, dead = free_port(), free_port()
        echo = bench.started(Echo, "echo")
        tcp = {"application_profile_ref": ApplicationProfile.TCP}
        policy = AnalyticsPolicy(slow_ms=1)
        state = service(plain=(port,), pools=(pool("tcp", echo),), name="a", analytics_policy=policy, **tcp)
        state |= service(plain=(dead,), pools=(pool("dead", free_port()),), name="b", **tcp)
        await bench.serving(state)
        assert await raw(port, b"hello") == b"echohello"
        assert await raw(dead, b"hello") == b""
        found = await bench.lines(2)
        (good,), (bad,) = (map(json.loads, found[c]) for c in (LogClass.FULL, LogClass.SIGNIFICANT))
        assert (good["vs"], good["pool"], good["bytes_in"], good["bytes_out"]) == ("v", "tcp", 5, 9)
        assert good["server"] == f"127.0.0.1:{echo.port}"
        assert 250_000 < good["duration_us"] < 5_000_000
        assert (bad["_vs"], bad["pool"], bad["status"]) == ("virtualservice-b", "dead", 0)
        assert "UF" in bad["flags"]


@pytest_twisted.ensureDeferred
async def test_a_handshake_that_fails_is_logged_with_its_reason_and_others_are_not_logged_twice():
    async with Logged() as bench:
        port, tcp = free_port(), free_port()
        known = (certificate("a"),)
        state = service(
            tls=(port,), pools=(pool("one", bench.started(Origin, "one")),), certificates=known, name=UUID
        )
        state |= service(
            tls=(tcp,),
            pools=(pool("tcp", bench.started(Echo, "echo")),),
            certificates=known,
            name="tcp",
            application_profile_ref=ApplicationProfile.TCP,
        )
        await bench.serving(state)
        for one in (port, tcp):
            assert await raw(one, request("/not-tls")) == b""
            await handshake(one, "a.test")
        assert (await curl(f"https://127.0.0.1:{port}/good", host="a.test")).status == 200
        found = await bench.lines(4)
        failed, good = (list(map(json.loads, found[c])) for c in (LogClass.SIGNIFICANT, LogClass.FULL))
        assert {line["listener"] for line in failed} == {f"127.0.0.1:{one}" for one in (port, tcp)}
        for line in failed:
            assert "HTTP_REQUEST" in line["reason"]
            assert (line["status"], line["flags"], line["client"]) == (0, "-", "127.0.0.1")
        assert {(line.get("host"), line.get("path"), line["reason"]) for line in good} == {
            (f"a.test:{port}", "/good", "via_upstream"),
            (None, None, None),
        }


@pytest_twisted.ensureDeferred
async def test_each_request_is_in_one_file_and_errors_and_slow_ones_are_significant():
    async with Logged() as bench:
        port, unserved = free_port(), free_port()
        origin = bench.started(Origin, "one")
        dead = service(plain=(unserved,), pools=(pool("dead", free_port()),), name="dead")
        await bench.serving(
            bench.http(port, origin, significant_client_errors=(404, 429), slow_ms=300) | dead
        )
        for path, status in (("/ok", 200), ("/404", 404), ("/403", 403), ("/429", 429), ("/500", 500)):
            origin.status = status
            await raw(port, request(path), wait_s=0.1)
        origin.status, origin.delay_s = 200, 0.4
        await raw(port, request("/slow-header"), wait_s=0.6)
        await raw(port, request("/gone"), wait_s=0.1)  # the client does not wait for the answer
        origin.delay_s = 0
        await raw(port, request("/null%00"), wait_s=0.1)
        await raw(unserved, request("/no-server"), wait_s=0.1)
        refused = (b"NONSENSE\r\n\r\n", request("/big", x="y" * 70_000), request("/", host='"'))
        for what in refused:
            await raw(port, what, wait_s=0.1)
        classes, found = await bench.by_path(9 + len(refused))
        full, significant = [LogClass.FULL], [LogClass.SIGNIFICANT]
        assert classes == {
            "/ok": full,
            "/404": significant,
            "/403": full,
            "/429": significant,
            "/500": significant,
            "/slow-header": significant,
            "/gone": significant,
            "/null%00": full,
            "/no-server": significant,
            None: significant * len(refused),
        }
        assert (found["/gone"]["flags"], found["/gone"]["status"]) == ("DC", 0)
        assert "UF" in found["/no-server"]["flags"]
        reasons = {
            (line["status"], line["reason"])
            for line in map(json.loads, (await bench.lines(12))[LogClass.SIGNIFICANT])
        }
        assert reasons >= {
            (400, "http1.codec_error"),
            (431, "http1.headers_too_large"),
            (400, "http.invalid_authority"),
        }


@pytest_twisted.ensureDeferred
async def test_a_websocket_is_not_slow_and_nothing_is_where_nothing_is_wanted():
    async with Logged() as bench:
        port = free_port()
        echo = bench.started(WebSocketEcho)
        await bench.serving(bench.http(port, echo, slow_ms=50))
        connection, said = await deferToThread(upgraded, port)
        assert "101" in said
        await deferLater(reactor, 0.2)
        connection.close()
        classes, found = await bench.by_path(1)
        assert (classes, found["/"]["flags"]) == ({"/": [LogClass.FULL]}, "DC")
        quiet = FullClientLogs(enabled=False)
        await bench.data_plane.apply(bench.http(port, echo, full_client_logs=quiet))
        await raw(port, request("/quiet"), wait_s=0.1)
        await raw(port, b"NONSENSE\r\n\r\n", wait_s=0.1)
        classes, _ = await bench.by_path(2)
        assert classes == {"/": [LogClass.FULL], None: [LogClass.SIGNIFICANT]}


HOSTILE = (
    "/quote'\"",
    "/sql');DROP%20TABLE%20logs;--",
    "/per%25cent%0Anewline",
    "/%F0%9F%92%A9",
    "/a/../../etc/passwd",
    "/<script>alert(1)</script>",
    "/back\\slash^`{|}",
    "/%1b[31m%41%2e",
    '/a?b=c&d=%7B%22e%22%3A1%7D"<>',
    "/twice//",
    "/%START_TIME%",
    "/" + "x" * 8_000,
)


@pytest_twisted.ensureDeferred
async def test_whatever_is_accepted_comes_back_as_it_was_sent():
    async with Logged() as bench:
        port = free_port()
        origin = bench.started(Origin, "one")
        await bench.serving(bench.http(port, origin))
        for path in HOSTILE:
            assert b" 200 OK" in await raw(port, request(path), wait_s=0.05), path
        agents = ('"\\/\t%00 <b>;--', "\xc3\xa9\xe2\x80\xa8\xf0\x9f\x92\xa9", '\x80\xff"')
        for number, agent in enumerate(agents):
            await raw(port, request(f"/agent{number}", user_agent=agent), wait_s=0.05)
        _, found = await bench.by_path(len(HOSTILE) + len(agents))
        assert set(HOSTILE) <= set(found)
        assert found["/agent0"]["user_agent"] == agents[0]
        assert found["/agent1"]["user_agent"] == agents[1].encode("latin-1").decode()
        # Not UTF-8: each byte as the character of its number.
        assert found["/agent2"]["user_agent"] == agents[2]
        assert {path for path, _ in origin.asked} == set(found)  # and the server got it so


@pytest_twisted.ensureDeferred
async def test_over_http2_names_and_agents_come_back_too_and_what_is_refused_has_its_reason():
    async with Logged() as bench:
        port = free_port()
        await bench.serving(bench.http(port, bench.started(Origin, "one")))

        async def ask(path, *options):
            url = f"http://127.0.0.1:{port}{path}"
            with contextlib.suppress(CalledProcessError):
                await curl(url, "--http2-prior-knowledge", "--path-as-is", *options)

        agent = 'é"\\ \t<b>%00'
        await ask('/a"<>/../b', "-A", agent)
        await ask("/refused", "-H", "host: b/ad")
        await ask("/large", "-H", f"x: {'y' * 62_000}")
        found = await bench.lines(3)
        (good,), bad = (list(map(json.loads, found[c])) for c in (LogClass.FULL, LogClass.SIGNIFICANT))
        assert (good["path"], good["user_agent"], good["protocol"]) == ('/a"<>/../b', agent, "HTTP/2")
        assert [line["reason"] for line in bad] == [
            "http2.invalid.header.field",
            "http2.header_list_size_too_large",
        ]


@pytest_twisted.ensureDeferred
async def test_names_are_logged_as_they_are_whatever_is_in_them():
    async with Logged() as bench:
        port = free_port()
        origin = bench.started(Origin, "one")
        name = 'p"\\100% %PROTOCOL% é <b>'
        state = service(plain=(port,), pools=(pool("1", origin),), name=UUID)
        odd = service(
            plain=(port,), pools=(msgspec.structs.replace(pool("1", origin), name=name),), name=UUID
        )
        assert set(odd) == set(state)
        await bench.serving(odd)
        await raw(port, request("/"), wait_s=0.1)
        _, found = await bench.by_path(1)
        assert found["/"]["pool"] == name


@pytest_twisted.ensureDeferred
async def test_no_line_is_lost_or_doubled_when_files_are_taken_away_under_load():
    async with Logged() as bench:
        port = free_port()
        await bench.serving(bench.http(port, bench.started(Origin, "one")))
        files = bench.data_plane.log_files()
        assert files.folder.stat().st_mode & 0o777 == 0o700
        load = Load(port)
        load.start()
        taken = []
        for _ in range(8):
            aside = [piece for log_class in LogClass if (piece := files.set_aside(log_class))]
            await bench.data_plane.reopen_logs()
            sizes = [piece.stat().st_size for piece in aside]
            await deferLater(reactor, 0.3)
            assert sizes == [piece.stat().st_size for piece in aside]  # they are final
            taken += aside
        load.stopping = True
        await deferToThread(load.join)
        for _ in range(2):  # what is in memory goes to the new file
            files.set_aside(LogClass.FULL)
            await bench.data_plane.reopen_logs()
        assert taken
        assert set(taken) <= set(pieces(files))
        whole = b"".join(piece.read_bytes() for piece in pieces(files)).splitlines()
        ids = [json.loads(line)["request_id"] for line in whole]
        assert len(ids) == len(set(ids)) == load.answers
        assert load.bad == []


@pytest_twisted.ensureDeferred
async def test_files_that_nobody_logs_to_are_final_soon_and_those_of_a_dead_envoy_at_once():
    async with Logged() as bench:
        port = free_port()
        plane = await bench.serving(bench.http(port, bench.started(Origin, "one")))
        await raw(port, request("/one"), wait_s=0.1)
        await bench.lines(1)
        piece = plane.log_files().set_aside(LogClass.FULL)
        began = reactor.seconds()
        await plane.reopen_logs()
        assert reactor.seconds() - began < 1.0
        assert plane.log_files().set_aside(LogClass.SIGNIFICANT) is None
        await raw(port, request("/two"), wait_s=0.1)
        (line,) = (await bench.lines(1))[LogClass.FULL]
        assert json.loads(line)["path"] == "/two"
        assert piece.read_bytes().count(b"\n") == 1
        os.kill(plane.pid, signal.SIGKILL)
        await deferLater(reactor, 0.1)
        assert plane.pid is None
        assert plane.log_files().set_aside(LogClass.FULL)
        await plane.reopen_logs()


@pytest_twisted.ensureDeferred
async def test_a_new_envoy_does_not_go_on_behind_a_torn_line():
    async with Logged() as bench:
        port = free_port()
        plane = await bench.serving(bench.http(port, bench.started(Origin, "one")))
        await raw(port, request("/one"), wait_s=0.1)
        await bench.lines(1)
        await plane.stop()
        with plane.log_files().current(LogClass.FULL).open("ab") as file:
            file.write(b'{"_time":"2026-')
        await plane.start()
        await raw(port, request("/two"), wait_s=0.1)
        (line,) = (await bench.lines(1))[LogClass.FULL]
        assert json.loads(line)["path"] == "/two"
        (piece,) = pieces(plane.log_files())
        assert piece.name.startswith("full.")
        assert piece.read_bytes().endswith(b'\n{"_time":"2026-')


@pytest_twisted.ensureDeferred
async def test_writes_that_fail_are_counted_and_traffic_goes_on():
    async with Logged() as bench:
        port = free_port()
        plane = await bench.serving(bench.http(port, bench.started(Origin, "one")))
        assert (await plane.status()).log_writes == LogWrites()
        full = plane.log_files().current(LogClass.FULL)
        full.unlink()
        full.symlink_to("/dev/full")
        await plane.reopen_logs()
        for _ in range(2):
            assert b" 200 OK" in await raw(port, request("/lost"), wait_s=0.1)
            await deferLater(reactor, 1.2)
        assert (await plane.status()).log_writes == LogWrites(logged=2, written=0, failed=2)
        full.unlink()
        await plane.reopen_logs()
        await raw(port, request("/kept"), wait_s=0.1)
        classes, _ = await bench.by_path(1)
        assert classes == {"/kept": [LogClass.FULL]}


@pytest_twisted.ensureDeferred
async def test_an_agent_that_comes_back_finds_what_its_envoy_logs():
    async with Logged() as bench:
        port = free_port()
        plane = await bench.serving(bench.http(port, bench.started(Origin, "one")))
        await raw(port, request("/one"), wait_s=0.1)
        await bench.lines(1)
        # It died between the rename and the order to open the file anew.
        piece = plane.log_files().set_aside(LogClass.FULL)
        await plane.detach()
        bench.data_plane = again = bench.plane()
        await again.start()
        await raw(port, request("/two"), wait_s=0.1)
        await deferLater(reactor, 1.2)
        assert piece.read_bytes().count(b"\n") == 2
        assert pieces(again.log_files()) == [piece]
        await again.reopen_logs()
        await raw(port, request("/three"), wait_s=0.1)
        classes, _ = await bench.by_path(1)
        assert classes == {"/three": [LogClass.FULL]}
        assert piece.read_bytes().count(b"\n") == 2
