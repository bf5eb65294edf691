"""Events over HTTP: lists, streams, resume, slow clients; through the real Site."""

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.api_events import event_routes
from avinet.controller.events import Events, MemoryLog
from avinet.model.events import Level
from avinet.rest.access import Principal, Role
from avinet.rest.router import STREAM_LIFE_S, Router
from avinet.rest.site import STALL_TIMEOUT_S
from avinet.rest.stream import HEARTBEAT_S
from tests.unit.rest_client import Client, Known, request_bytes


class EventApiTests(SynchronousTestCase):
    """One controller's events, one client."""

    def setUp(self):
        self.clock = Clock()
        self.log = MemoryLog()
        self.events = Events(self.log, self.clock, wall=lambda: 1.0)

        self.guard = Known("admin")
        self.router = Router(event_routes(self.events, self.clock), self.clock, self.guard)
        self.client = Client(self.router, self.clock)

    def emit(self, *numbers):
        for n in numbers:
            self.events.emit("SE_UP", Level.INFO, f"se-{n}", "It is up.")

    def stream(self, path="/api/events", **headers):
        connection = self.client.connect()
        headers = {"Accept": "text/event-stream", **{n.replace("_", "-"): v for n, v in headers.items()}}
        connection.send(request_bytes("GET", path, headers=headers))
        self.addCleanup(connection.lose)
        return connection

    def ids(self, connection):
        raw = connection.transport.value()
        connection.transport.clear()
        return [int(line[4:]) for line in raw.split(b"\n") if line.startswith(b"id: ")]

    def test_a_list_gives_the_newest_oldest_first(self):
        self.emit(*range(5))
        answer = self.client("GET", "/api/events?limit=2").json
        self.assertEqual(
            ([e["id"] for e in answer["results"]], answer["count"], answer["last_id"]), ([4, 5], 2, 5)
        )

    def test_a_list_goes_on_after_an_id(self):
        self.emit(*range(5))
        answer = self.client("GET", "/api/events?since=1&limit=2").json
        self.assertEqual([e["id"] for e in answer["results"]], [2, 3])

    def test_an_id_that_no_event_can_have_is_refused(self):
        for since in ("-1", str(2**63), "9" * 30):
            self.assertEqual(self.client("GET", f"/api/events?since={since}").status, 400, since)
        self.assertEqual(self.client("GET", f"/api/events?since={2**63 - 1}").json["results"], [])

    def test_a_limit_out_of_range_is_refused(self):
        for limit in ("0", "1001", "x"):
            self.assertEqual(self.client("GET", f"/api/events?limit={limit}").status, 400)

    def ended(self, connection):
        return connection.transport.value().endswith(b"0\r\n\r\n")

    def test_a_stream_ends_when_its_reader_has_no_right_to_it_any_more(self):
        mine = self.stream()
        self.guard.principal = Principal(user="olga", role=Role.READ_ONLY)
        hers = self.stream()
        self.router.end_streams(lambda who: who.user == "olga")
        self.assertEqual((self.ended(mine), self.ended(hers)), (False, True))
        self.emit(1)
        self.assertEqual((self.ids(mine), self.ids(hers)), ([1], []))

    def test_a_stream_lives_no_longer_than_a_session(self):
        connection = self.stream()
        self.clock.pump([HEARTBEAT_S] * int(STREAM_LIFE_S / HEARTBEAT_S))
        self.assertTrue(self.ended(connection))
        self.assertEqual(self.client("GET", "/api/events").status, 200)

    def test_a_stream_tells_what_comes(self):
        self.emit(1)
        connection = self.stream()
        head = connection.transport.value()
        self.assertIn(b"Content-Type: text/event-stream\r\n", head)
        self.assertIn(b"retry: ", head)
        self.assertEqual(self.ids(connection), [])
        self.emit(2, 3)
        raw = connection.transport.value()
        self.assertIn(b"event: SE_UP\ndata: {", raw)
        self.assertEqual(self.ids(connection), [2, 3])

    def test_a_stream_resumes_after_the_last_id_seen(self):
        self.emit(*range(250))
        connection = self.stream(Last_Event_ID="3")
        self.assertEqual(self.ids(connection), list(range(4, 251)))
        self.emit("new")
        self.assertEqual(self.ids(connection), [251])

    def test_a_stream_may_start_at_an_id(self):
        self.emit(*range(5))
        self.assertEqual(self.ids(self.stream("/api/events?since=0")), [1, 2, 3, 4, 5])

    def test_an_id_from_the_future_means_from_now_on(self):
        self.emit(1)
        connection = self.stream(Last_Event_ID="900")
        self.emit(2)
        self.assertEqual(self.ids(connection), [2])

    def test_an_id_that_is_no_number_is_refused(self):
        for bad in ("-1", "x", "1" * 30, "\u0661"):
            connection = self.client.connect()
            headers = {"Accept": "text/event-stream", "Last-Event-ID": bad}
            connection.send(request_bytes("GET", "/api/events", headers=headers))
            self.assertEqual(connection.answer().status, 400)
            connection.lose()

    def test_a_quiet_stream_is_kept_open_by_comments(self):
        connection = self.stream()
        connection.transport.clear()
        for _ in range(20):
            self.clock.advance(HEARTBEAT_S)
        self.assertEqual(connection.transport.value().count(b":\n\n"), 20)
        self.assertFalse(connection.transport.disconnecting)

    def test_a_client_that_reads_slowly_costs_no_memory_and_misses_nothing(self):
        connection = self.stream()
        connection.transport.clear()
        connection.channel.pauseProducing()
        self.emit(*range(300))
        self.clock.advance(HEARTBEAT_S)
        self.assertEqual(connection.transport.value(), b"")
        connection.channel.resumeProducing()
        self.assertEqual(self.ids(connection), list(range(1, 301)))

    def test_a_client_that_stops_reading_is_cut(self):
        connection = self.stream()
        connection.channel.pauseProducing()
        self.clock.pump([1] * int(STALL_TIMEOUT_S))
        self.assertTrue(connection.transport.aborted)

    def test_a_client_that_leaves_is_forgotten(self):
        connection = self.stream()
        connection.lose()
        self.assertEqual(self.events._followers, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.emit(1)

    def test_a_log_that_cannot_be_read_cuts_the_stream(self):
        connection = self.stream()
        self.log.since = lambda after, limit: fail(ZeroDivisionError())
        self.emit(1)
        self.assertTrue(connection.transport.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def tearDown(self):
        self.successResultOf(Deferred.fromCoroutine(self.events.stop()))
