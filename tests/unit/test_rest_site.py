"""Hostile and unlucky HTTP clients against the real Site: every wait and every buffer ends."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.rest import site as module
from avinet.rest.router import Auth, Response, Route, Router
from avinet.rest.site import (
    BODY_TIMEOUT_S,
    HEADER_TIMEOUT_S,
    IDLE_TIMEOUT_S,
    LINGER_BYTES,
    LINGER_S,
    LONG_LINGER_S,
    STALL_TIMEOUT_S,
)
from tests.unit.rest_client import Client, request_bytes


class SiteTests(SynchronousTestCase):
    """One connection at a time."""

    def setUp(self):
        self.clock = Clock()
        self.bodies = []
        self.wait = None

        async def take(request):
            self.bodies.append(request.body)
            if self.wait is not None:
                await self.wait
            return Response(body="ok")

        routes = [
            Route(
                method="POST",
                path="/take",
                handler=take,
                summary="",
                request=bytes,
                body_bytes=100,
                auth=Auth.ANYONE,
                consumes=("x/y",),
                timeout_s=1000,
            ),
            Route(method="GET", path="/get", handler=take, summary="", auth=Auth.ANYONE),
        ]
        self.client = Client(Router(routes, self.clock), self.clock)
        self.connection = self.client.connect()
        self.send = self.connection.send
        self.transport = self.connection.transport

    def post(self, body, headers=""):
        return f"POST /take HTTP/1.1\r\nHost: x\r\nContent-Type: x/y\r\n{headers}\r\n".encode() + body

    def refused(self, status, reason):
        answer = self.connection.answer()
        self.assertEqual((answer.status, answer.json["reason"]), (status, reason))
        self.assertEqual(answer.headers["connection"], "close")
        self.clock.advance(LINGER_S)
        self.assertTrue(self.transport.disconnecting)

    def test_a_client_that_says_nothing_is_cut(self):
        self.clock.advance(HEADER_TIMEOUT_S - 0.1)
        self.assertFalse(self.transport.aborted)
        self.clock.advance(0.1)
        self.assertTrue(self.transport.aborted)

    def test_a_header_that_trickles_is_cut(self):
        for byte in b"GET /get HTTP/":
            self.send(bytes([byte]))
            self.clock.advance(1)
        self.clock.advance(1)
        self.assertTrue(self.transport.aborted)

    def test_a_body_that_trickles_is_refused(self):
        self.send(self.post(b"", "Content-Length: 100\r\n"))
        for _ in range(int(BODY_TIMEOUT_S) - 1):
            self.send(b"a")
            self.clock.advance(1)
        self.assertEqual(self.transport.value(), b"")
        self.clock.advance(1)
        self.refused(408, "slow-request")

    def test_headers_without_an_end_are_refused(self):
        self.send(b"GET /get HTTP/1.1\r\n")
        for n in range(2000):
            self.send(f"X-{n}: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".encode())
        self.refused(400, "malformed-request")

    def test_a_first_line_that_is_too_long_is_answered(self):
        self.send(b"GET /" + b"a" * 20_000)
        self.refused(414, "target-too-long")

    def test_a_first_line_that_is_too_long_is_answered_also_when_it_is_whole(self):
        self.send(b"\r\nGET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        self.refused(414, "target-too-long")

    def test_a_first_line_that_is_too_long_is_answered_also_after_another_request(self):
        self.send(request_bytes("GET", "/get"))
        self.assertEqual(self.connection.answer().status, 200)
        self.transport.clear()
        for _ in range(5):
            self.send(b"GET /" + b"a" * 4_000 if not self.transport.value() else b"a" * 4_000)
        self.refused(414, "target-too-long")

    def test_a_header_line_without_an_end_is_answered(self):
        self.send(b"GET /get HTTP/1.1\r\nX: " + b"a" * 20_000)
        self.refused(400, "malformed-request")

    def test_a_body_declared_too_long_is_refused_before_it_is_read(self):
        self.send(self.post(b"", "Content-Length: 101\r\n"))
        self.assertEqual(self.connection.answer().json["limit"], 100)
        self.assertEqual(self.bodies, [])

    def test_a_client_that_asks_first_is_not_told_to_go_on_with_too_much(self):
        self.send(self.post(b"", "Content-Length: 101\r\nExpect: 100-continue\r\n"))
        self.refused(413, "body-too-large")

    def test_a_client_that_asks_first_is_told_to_go_on(self):
        self.send(self.post(b"", "Content-Length: 3\r\nExpect: 100-continue\r\n"))
        self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 100"))

    def test_a_chunked_body_too_long_is_refused_when_it_is(self):
        self.send(self.post(b"40\r\n" + b"a" * 64 + b"\r\n", "Transfer-Encoding: chunked\r\n"))
        self.assertEqual(self.transport.value(), b"")
        self.send(b"40\r\n" + b"a" * 64 + b"\r\n0\r\n\r\n")
        self.refused(413, "body-too-large")
        self.assertEqual(self.bodies, [])

    def test_a_chunked_body_of_one_read_that_is_too_long_is_answered_once(self):
        self.send(self.post(b"80\r\n" + b"a" * 128 + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n"))
        self.assertEqual(self.transport.value().count(b"HTTP/1.1"), 1)
        self.refused(413, "body-too-large")

    def test_a_body_for_a_path_that_takes_none_is_refused_before_it_is_read(self):
        self.send(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        self.refused(413, "body-too-large")

    def follow(self, connection, size, step=65536):
        """What the client sends after it was refused."""
        for _ in range(size // step):
            if connection.transport.aborted:
                return
            connection.send(bytes(step))

    def refused_connection(self):
        connection = self.client.connect()
        connection.send(self.post(b"", "Content-Length: 100000000000\r\n"))
        return connection

    def test_what_follows_a_refusal_is_discarded_and_bounded(self):
        self.patch(module, "LONG_LINGER_BYTES", 4 * LINGER_BYTES)
        one = self.refused_connection()
        self.follow(one, 4 * LINGER_BYTES)
        self.assertFalse(one.transport.aborted)
        self.assertEqual(one.answer().status, 413)
        self.follow(one, LINGER_BYTES)
        self.assertTrue(one.transport.aborted)
        self.assertEqual(self.bodies, [])

    def test_few_linger_long_and_make_room_when_they_end(self):
        self.patch(module, "LONG_LINGERS", 2)
        held = [self.refused_connection() for _ in range(2)]
        for one in held:
            self.follow(one, 2 * LINGER_BYTES)
        more = self.refused_connection()
        self.follow(more, LINGER_BYTES)
        self.assertEqual([one.transport.aborted for one in (*held, more)], [False] * 3)
        self.follow(more, LINGER_BYTES)
        self.assertTrue(more.transport.aborted)
        for one in (*held, more):
            one.lose()
        self.assertEqual(self.client.site.long_lingers, 0)
        again = self.refused_connection()
        self.follow(again, 2 * LINGER_BYTES)
        self.assertFalse(again.transport.aborted)
        again.lose()

    def test_who_goes_on_sending_after_a_refusal_is_heard_out_for_a_bounded_time(self):
        one = self.refused_connection()
        for _ in range(int(LONG_LINGER_S) - 1):
            self.clock.advance(1.0)
            one.send(b"x")
        self.assertFalse(one.transport.disconnecting or one.transport.aborted)
        self.clock.advance(1.0)
        self.assertTrue(one.transport.disconnecting)

    def test_who_is_silent_after_a_refusal_is_let_go(self):
        one = self.refused_connection()
        one.send(b"x")
        self.clock.advance(LINGER_S)
        self.assertTrue(one.transport.disconnecting)
        self.clock.advance(STALL_TIMEOUT_S)
        self.assertTrue(one.transport.aborted)

    def test_large_bodies_under_way_are_few_and_make_room_when_they_end(self):
        self.patch(module, "LARGE_BODY_BYTES", 50)
        self.patch(module, "LARGE_BODIES", 2)
        held = [self.client.connect() for _ in range(2)]
        for head, connection in zip(("Content-Length: 100", "Transfer-Encoding: chunked"), held, strict=True):
            connection.send(self.post(b"", head + "\r\n"))
            connection.send(b"3c\r\n" + b"a" * 60 + b"\r\n")
        self.send(self.post(b"", "Content-Length: 100\r\n"))
        self.refused(503, "too-many-bodies")
        for connection in held:
            connection.lose()
        self.assertEqual(self.client.site.large_bodies, 0)
        again = self.client.connect()
        again.send(self.post(b"a" * 100, "Content-Length: 100\r\n"))
        self.assertEqual(again.answer().status, 200)
        self.assertEqual(self.client.site.large_bodies, 0)
        again.lose()

    def test_the_longest_body_is_taken(self):
        self.send(self.post(b"a" * 100, "Content-Length: 100\r\n"))
        self.assertEqual((self.connection.answer().status, self.bodies), (200, [b"a" * 100]))

    def test_two_lengths_are_refused(self):
        self.send(self.post(b"aaa", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"))
        self.assertEqual(self.connection.answer().status, 400)
        self.assertEqual(self.bodies, [])

    def test_garbage_is_refused(self):
        for garbage in (
            b"\x16\x03\x01\x02\x00\r\n",
            b"\x00" * 100 + b"\r\n",
            b"SSH-2.0-x\r\n",
            b"GET\r\n\r\n",
        ):
            connection = self.client.connect()
            connection.send(garbage)
            self.assertEqual(connection.answer().json["reason"], "malformed-request")
            connection.lose()

    def test_requests_follow_one_another_on_a_connection(self):
        for _ in range(3):
            self.send(request_bytes("GET", "/get"))
            self.assertEqual(self.connection.answer().status, 200)
            self.clock.advance(IDLE_TIMEOUT_S - 1)
        self.assertFalse(self.transport.disconnecting)

    def test_pipelined_requests_are_each_answered(self):
        self.send(request_bytes("GET", "/get") * 3)
        self.assertEqual(self.transport.value().count(b"HTTP/1.1 200"), 3)

    def test_an_idle_connection_is_closed_and_then_cut(self):
        self.send(request_bytes("GET", "/get"))
        self.clock.advance(IDLE_TIMEOUT_S)
        self.assertTrue(self.transport.disconnecting)
        self.clock.advance(15)
        self.assertTrue(self.transport.aborted)

    def test_the_second_header_on_a_connection_has_a_deadline_too(self):
        self.send(request_bytes("GET", "/get"))
        for byte in b"GET /get HTTP/1.1":
            self.send(bytes([byte]))
            self.clock.advance(1)
        self.assertTrue(self.transport.aborted)

    def test_a_long_answer_is_not_a_slow_client(self):
        self.wait = Deferred()
        self.send(request_bytes("GET", "/get"))
        self.clock.advance(55)
        self.wait.callback(None)
        self.assertEqual(self.connection.answer().status, 200)

    def test_requests_behind_a_slow_one_wait_in_bounded_memory(self):
        self.wait = Deferred()
        self.send(request_bytes("GET", "/get"))
        self.assertEqual(self.transport.producerState, "producing")
        self.send(request_bytes("GET", "/get") * 1000)
        self.assertEqual(self.transport.producerState, "paused")

    def test_a_client_that_does_not_read_is_cut(self):
        self.wait = Deferred()
        self.send(request_bytes("GET", "/get"))
        self.connection.channel.pauseProducing()
        self.clock.advance(STALL_TIMEOUT_S - 1)
        self.connection.channel.resumeProducing()
        self.connection.channel.pauseProducing()
        self.clock.advance(STALL_TIMEOUT_S - 1)
        self.assertFalse(self.transport.aborted)
        self.clock.advance(1)
        self.assertTrue(self.transport.aborted)

    def test_a_last_answer_that_is_not_read_is_cut(self):
        self.send(b"GET /get HTTP/1.0\r\n\r\n")
        self.assertTrue(self.transport.disconnecting)
        self.clock.advance(STALL_TIMEOUT_S)
        self.assertTrue(self.transport.aborted)

    def test_a_lost_connection_leaves_nothing_behind(self):
        for sent in (
            b"",
            b"GET",
            self.post(b"a", "Content-Length: 50\r\n"),
            request_bytes("GET", "/get"),
            b"\0\r\n",
        ):
            connection = self.client.connect()
            connection.send(sent)
            connection.lose()
        self.connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])
