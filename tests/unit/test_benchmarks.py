"""What benchmarks claim: targets are judged as their text says, and the link keeps its promises."""

import io
import json
import tempfile
from pathlib import Path
from unittest import TestCase

import zstandard
from twisted.internet.testing import StringTransport

from avinet.model.logs import LINE_HEAD, LINE_SERVICE, TIME_BYTES, LineField
from benchmarks.channel_ends import Requests
from benchmarks.harness import at_least, at_most, quantile, times_peer
from benchmarks.link import Direction
from benchmarks.load import length_of
from benchmarks.log_moves import write_records
from benchmarks.log_records import BLOCK_LINES, blocks, services
from benchmarks.log_store import Filling

MIB = 1024 * 1024


class RequestTests(TestCase):
    def asked(self, step):
        """What a worker's step is answered with."""
        transport = StringTransport()
        requests = Requests({"step": step}, lambda: None)
        requests.makeConnection(transport)
        requests.dataReceived(b'{"do": "step"}\n')
        self.assertTrue(transport.value().endswith(b"\n"))
        return json.loads(transport.value())

    def test_an_answer_goes_by_the_transport_for_a_pipe_takes_no_more_than_64_kib_at_once(self):
        async def step():
            return {"rtt_s": [0.5] * 100_000}

        self.assertEqual(len(self.asked(step)["rtt_s"]), 100_000)

    def test_what_fails_says_why(self):
        async def step():
            raise ValueError("no")

        self.assertEqual(self.asked(step), {"failed": "no"})


class TargetTests(TestCase):
    def test_a_bound_is_met_up_to_the_bound_itself(self):
        self.assertTrue(at_most(105).met(105, None))
        self.assertFalse(at_most(105).met(105.1, 1000))
        self.assertTrue(at_least(400).met(400, None))
        self.assertFalse(at_least(400).met(399, 1))

    def test_a_multiple_of_the_peer_is_judged_by_the_peer(self):
        self.assertTrue(times_peer(2).met(1400, 700))
        self.assertFalse(times_peer(2).met(1399, 700))

    def test_a_multiple_of_a_peer_that_is_not_there_is_not_met(self):
        self.assertFalse(times_peer(2).met(1e9, None))

    def test_its_text_is_for_machines(self):
        self.assertEqual([str(at_most(40)), str(times_peer(2.5))], ["<= 40", ">= 2.5 x peer"])


class QuantileTests(TestCase):
    def test_it_is_a_value_that_was_measured(self):
        self.assertEqual(quantile([3, 1, 2], 0.5), 2)
        self.assertEqual(quantile(range(100), 0.99), 99)
        self.assertEqual(quantile([7], 1.0), 7)


class LoadTests(TestCase):
    ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello"

    def test_an_answer_is_whole_when_its_last_byte_is_there(self):
        for cut in range(self.ANSWER.index(b"hello")):
            self.assertIsNone(length_of(self.ANSWER[:cut]))
        for cut in range(self.ANSWER.index(b"hello"), len(self.ANSWER) + 1):
            self.assertEqual(length_of(self.ANSWER[:cut]), (200, len(self.ANSWER), False))

    def test_an_answer_may_end_its_connection(self):
        answer = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\nConnection: close\r\n\r\n"
        self.assertEqual(length_of(answer), (503, len(answer), True))


class LinkTests(TestCase):
    def test_without_a_rate_everything_takes_half_the_rtt(self):
        link = Direction(0.035, 0, 64 * MIB)
        self.assertEqual([link.accept(100_000, 5.0) for _ in range(2)], [5.035, 5.035])

    def test_bytes_wait_for_those_before_them_and_take_their_time(self):
        link = Direction(0.035, 1_000_000, MIB)
        first, second = link.accept(10_000, 5.0), link.accept(10_000, 5.0)
        self.assertAlmostEqual(first, 5.045)
        self.assertAlmostEqual(second, 5.055)

    def test_a_link_that_was_idle_owes_nothing(self):
        link = Direction(0.035, 1_000_000, MIB)
        link.accept(10_000, 5.0)
        self.assertAlmostEqual(link.accept(10_000, 9.0), 9.045)

    def test_a_full_link_takes_no_more(self):
        link = Direction(0.035, 1_000_000, 10_000)
        link.accept(link.room, 5.0)
        while link.room > 0:
            link.accept(link.room, 5.0)
        self.assertEqual(link.held, 10_000)

    def test_a_rated_link_is_read_a_millisecond_at_a_time(self):
        self.assertEqual(Direction(0.035, 12_500_000, MIB).room, 12_500)


class LogRecordTests(TestCase):
    def lines(self, count, among=3, **options):
        return b"".join(blocks(count, services(among), **options)).splitlines()

    def test_a_line_is_what_a_data_plane_writes(self):
        for line in self.lines(100):
            service = line.index(LINE_SERVICE)
            self.assertEqual((line.index(LINE_HEAD), service), (0, len(LINE_HEAD) + TIME_BYTES))
            record = json.loads(line)
            self.assertEqual(list(record), ["_time", "_vs", *sorted(LineField)])
            self.assertIn(record["vs"], {"shop-0", "shop-1", "shop-2"})

    def test_there_are_as_many_as_asked_for_and_each_is_another_request(self):
        lines = self.lines(BLOCK_LINES + 1)
        self.assertEqual(len(lines), BLOCK_LINES + 1)
        self.assertEqual(len({json.loads(line)["request_id"] for line in lines}), len(lines))

    def test_times_go_on_at_the_rate_asked_for(self):
        first, *_, last = (json.loads(line)["_time"] for line in self.lines(101, start_s=0, per_s=10))
        self.assertEqual((first[:20], last[:20]), ("1970-01-01T00:00:00.", "1970-01-01T00:00:10."))

    def test_weights_say_who_is_called_how_often(self):
        called = [json.loads(line)["vs"] for line in self.lines(1_000, among=2, weights=[1, 9])]
        self.assertTrue(50 < called.count("shop-0") < 200)

    def test_a_client_keeps_its_connection_and_its_user_agent(self):
        agents = {}
        connections = set()
        for line in self.lines(4_000):
            record = json.loads(line)
            connections.add((record["client"], record["client_port"]))
            agents.setdefault(record["client"], set()).add(record["user_agent"])
        self.assertTrue(500 < len(connections) <= 1_000)
        self.assertEqual(max(map(len, agents.values())), 1)

    def test_as_many_bytes_are_written_as_asked_for(self):
        out = io.BytesIO()
        written = write_records(out, 30 * MIB)
        self.assertEqual((written.size, written.records), (len(out.getvalue()), out.getvalue().count(b"\n")))
        self.assertTrue(29 * MIB < written.size < 50 * MIB)


class FillingTests(TestCase):
    def test_an_hour_of_the_store_has_a_segment_of_each_service(self):
        filling = Filling(services=3, hours=2, each=10)
        with tempfile.TemporaryDirectory() as name:
            made = filling.segments(Path(name), hour=1)
            raw = [zstandard.ZstdDecompressor().decompress(Path(one.path).read_bytes()) for one in made]
        self.assertEqual([text.count(b"\n") for text in raw], [10, 10, 10])
        for segment, text in zip(made, raw, strict=True):
            for line in text.splitlines():
                self.assertEqual(json.loads(line)["_vs"], segment.head.service)
        self.assertEqual(len({segment.head.name for segment in made}), 3)
