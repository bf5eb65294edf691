"""What a controller is told of the traffic, look by look; put together again as a controller would."""

import attrs
import msgspec
from twisted.internet.defer import fail
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.fake import RecordingDataPlane
from avinet.dataplane.interface import (
    Failure,
    Latency,
    PoolCounters,
    Responses,
    ServerStatus,
    ServiceCounters,
    Status,
)
from avinet.se.feed import FRAME_ENTRIES, MAX_NAMES, Feed
from avinet.se.lookout import LOOK_INTERVAL_S, MAX_LOOK_INTERVAL_S, Lookout, Seen
from avinet.wire.codec import MAX_FRAME_BYTES, decode_body, encode
from avinet.wire.messages import Traffic, TrafficRow

VS, POOL = "virtualservice/v", "pool/p"


def service(requests, *, name=VS, bins=()):
    return ServiceCounters(
        name,
        requests=requests,
        errors_5xx=requests // 10,
        connections=1,
        bytes_in=10 * requests,
        connections_total=requests,
        responses=Responses(ok=requests - requests // 10, server_errors=requests // 10),
        latency=Latency(bins),
    )


def server(*, up=True, requests=0, name="10.0.0.1:80"):
    reason, failure = ("", Failure.NONE) if up else ("nothing listens", Failure.REFUSED)
    return ServerStatus(POOL, name, up, reason, failure=failure, requests=requests)


class FeedCase(SynchronousTestCase):
    def setUp(self):
        self.feed = Feed(60.0, 100.0)
        self.names, self.rows, self.health, self.messages = {}, {}, {}, []

    def look(self, at, *services, servers=(), pools=(), started_at=1.0, since=None):
        status = Status(started_at, tuple(servers), tuple(services), tuple(pools))
        return self.take(Seen(at, status, since or {}))

    def take(self, seen):
        said = list(self.feed.messages(seen))
        for message in said:
            self.assertLess(len(encode(message)), MAX_FRAME_BYTES)
            self.assertEqual(message.more, message is not said[-1])
            for name in message.names:
                self.assertNotIn(name.number, self.names)
                self.names[name.number] = (self.names[name.pool], name.text) if name.pool else name.text
            self.rows.update({self.names[row.number]: row for row in message.rows})
            self.health.update({self.names[row.number]: row for row in message.health})
            for number in message.gone:
                del self.names[number]
        self.messages = said
        return said


class WhatAControllerIsTold(FeedCase):
    def test_nothing_before_the_first_report_is_due_and_then_the_whole(self):
        self.assertEqual(self.look(99.0, service(10), servers=[server()]), [])
        (message,) = self.look(100.0, service(10), servers=[server()])
        self.assertEqual((message.scope, message.started_at, message.left_out), ("whole", 1.0, 0))
        self.assertEqual(self.rows[VS].counts, (10, 10, 100, 0, 0, 9, 0, 0, 1))
        self.assertEqual(self.health[POOL, "10.0.0.1:80"].state, "UP")

    def test_what_has_not_changed_is_not_told_again_and_an_idle_report_is_small(self):
        self.look(100.0, service(10), servers=[server()])
        self.assertEqual(self.look(102.0, service(10), servers=[server()]), [])
        (message,) = self.look(160.0, service(10), servers=[server()])
        self.assertEqual((message.scope, message.rows, message.names), ("all", (), ()))
        self.assertLess(len(encode(message)), 50)

    def test_what_changed_is_told_when_due_under_the_number_it_has(self):
        self.look(100.0, service(10))
        self.assertEqual(self.look(150.0, service(11)), [])
        (message,) = self.look(161.0, service(12))
        self.assertEqual((message.names, self.rows[VS].counts[0]), ((), 12))

    def test_a_server_that_fails_is_told_at_once_with_the_reason_and_since_when(self):
        self.look(100.0, servers=[server()])
        key = (POOL, "10.0.0.1:80")
        (message,) = self.look(104.0, service(3), servers=[server(up=False)], since={key: 101.0})
        row = self.health[key]
        self.assertEqual((row.state, row.failure, row.reason), ("DOWN", "REFUSED", "nothing listens"))
        self.assertEqual((row.for_s, message.scope, message.rows), (3.0, "some", ()))
        self.assertEqual(self.look(106.0, service(3), servers=[server(up=False)]), [])

    def test_only_the_watched_and_their_servers_are_told_in_between(self):
        others = [service(1, name=f"virtualservice/{n}") for n in range(3)]
        pool = PoolCounters(POOL, requests=2)
        self.look(100.0, *others)
        self.feed.watch((POOL,), 5.0)
        self.look(
            102.0,
            *[service(9, name=one.service) for one in others],
            pools=[pool],
            servers=[server(requests=2)],
        )
        self.assertEqual(self.rows[POOL].counts[0], 2)
        self.assertEqual(self.rows[POOL, "10.0.0.1:80"].counts, (2, 0, 0))
        self.assertEqual(self.rows["virtualservice/0"].counts[0], 1)

    def test_a_watch_is_answered_even_when_nothing_changed(self):
        self.look(100.0)
        self.feed.watch((VS,), 5.0)
        (message,) = self.look(102.0)
        self.assertEqual((message.scope, message.rows), ("some", ()))
        self.assertEqual(self.look(108.0), [])

    def test_the_watched_are_told_as_often_as_asked_though_looks_fall_between(self):
        self.look(100.0)
        self.feed.watch((VS,), 5.0)
        told = [at for at in range(102, 152, 2) if self.look(float(at), service(at))]
        self.assertEqual(len(told), 11)

    def test_a_histogram_that_lags_behind_its_counters_is_told_when_it_comes(self):
        self.look(100.0, service(10))
        self.look(160.0, service(20))
        self.look(220.0, service(20, bins=((1.0, 0.1, 15), (50.0, 1.0, 5))))
        self.assertEqual(self.rows[VS].latency, (1, 15, 46, 5))
        self.look(280.0, service(20, bins=((1.0, 0.1, 15), (50.0, 1.0, 6))))
        self.assertEqual(self.rows[VS].latency, (46, 6))

    def test_a_data_plane_that_began_anew_is_told_from_zero_on(self):
        bins = ((1.0, 0.1, 20),)
        self.look(100.0, service(20, bins=bins))
        (message,) = self.look(160.0, service(20, bins=bins), started_at=2.0)
        self.assertEqual(
            (message.started_at, self.rows[VS].counts[0], self.rows[VS].latency), (2.0, 20, (1, 20))
        )

    def test_what_is_gone_loses_its_number_and_gets_another_when_it_comes_again(self):
        self.look(100.0, service(10), servers=[server(requests=1)])
        (message,) = self.look(160.0)
        self.assertEqual(len(message.gone), 3)  # the virtual service, the server and its pool
        self.look(220.0, service(10), servers=[server(requests=1)])
        self.assertGreater(self.rows[VS].number, 3)
        self.assertEqual(set(self.names.values()), {VS, POOL, (POOL, "10.0.0.1:80")})

    def test_a_data_plane_that_is_down_is_told_at_once_and_its_coming_back_too(self):
        self.look(100.0)
        (message,) = self.take(Seen(102.0, None))
        self.assertFalse(message.up)
        self.assertEqual(self.take(Seen(104.0, None)), [])
        (message,) = self.look(106.0)
        self.assertTrue(message.up)

    def test_asked_anew_it_tells_the_whole_and_numbers_it_anew(self):
        self.look(100.0, service(10))
        self.names.clear()
        self.feed.begin_anew()
        (message,) = self.look(102.0, service(10))
        self.assertEqual((message.scope, self.names), ("whole", {1: VS}))

    def test_the_largest_report_comes_in_frames_that_a_peer_takes_and_says_what_it_leaves_out(self):
        bins = tuple((2.0 ** (n / 8), 0.001, 2**53) for n in range(200))
        full = [
            attrs.evolve(service(1, name=f"virtualservice/{n:036}", bins=bins), bytes_in=2**53 + n)
            for n in range(MAX_NAMES + 10)
        ]
        said = self.look(100.0, *full)
        self.assertEqual(len(self.names), MAX_NAMES - 1)
        self.assertEqual(said[-1].left_out, 11)
        self.assertEqual(len(said), -(-2 * (MAX_NAMES - 1) // FRAME_ENTRIES))


class Lookouts(SynchronousTestCase):
    def setUp(self):
        self.clock, self.plane, self.seen = Clock(), RecordingDataPlane(), []
        self.plane.status_now = Status(1.0, (server(),), ())
        self.lookout = Lookout(self.plane, self.clock)
        self.cancel = self.lookout.subscribe(self.seen.append)
        self.lookout.start()

    def test_one_look_serves_all_who_want_to_see(self):
        self.lookout.subscribe(self.seen.append)
        self.clock.advance(LOOK_INTERVAL_S)
        self.assertEqual(len(self.seen), 2)
        self.assertEqual(self.plane.calls, ["status"])
        self.cancel()
        self.clock.advance(LOOK_INTERVAL_S)
        self.assertEqual(len(self.seen), 3)

    def test_since_is_when_the_state_was_seen_first(self):
        self.clock.advance(LOOK_INTERVAL_S)
        self.plane.status_now = Status(1.0, (server(up=False),), ())
        self.clock.pump([LOOK_INTERVAL_S] * 3)
        self.assertEqual([seen.since[POOL, "10.0.0.1:80"] for seen in self.seen], [2.0, 4.0, 4.0, 4.0])

    def test_a_data_plane_that_is_down_is_seen_so_and_an_odd_answer_ends_nothing(self):
        self.plane.down = "gone"
        self.clock.advance(LOOK_INTERVAL_S)
        self.assertIsNone(self.seen[-1].status)
        self.plane.down = ""
        self.patch(self.plane, "status", lambda: fail(KeyError("socket_address")))
        self.clock.advance(LOOK_INTERVAL_S)
        del self.plane.status
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.clock.advance(LOOK_INTERVAL_S)
        self.assertEqual(len(self.seen), 2)

    def test_looks_that_take_long_come_seldom(self):

        real = self.plane.status
        self.patch(self.plane, "status", lambda: deferLater(self.clock, 0.5).addCallback(lambda _: real()))
        self.clock.pump([0.5] * 100)
        self.assertEqual(len(self.seen), 5)  # a look of half a second, then ten of rest
        self.assertLess(10, MAX_LOOK_INTERVAL_S)

    def test_who_waits_has_a_look_at_once_but_not_again_and_again(self):
        self.clock.advance(LOOK_INTERVAL_S)
        self.clock.advance(1.0)
        for _ in range(10):
            self.lookout.look_soon()
            self.clock.advance(0)
        self.assertEqual(len(self.seen), 2)

    def test_after_the_end_nobody_looks(self):
        self.lookout.stop()
        self.clock.advance(100)
        self.assertEqual((self.seen, self.clock.getDelayedCalls()), ([], []))


class Rows(SynchronousTestCase):
    def test_an_older_peers_row_is_shorter_and_a_newer_ones_longer(self):

        frame = {"t": "traffic", "names": [[1, "pool/p"]], "rows": [[1], [2, 3, [4], [], "new"]], "new": 1}

        self.assertEqual(
            decode_body(msgspec.msgpack.encode(frame)).rows, (TrafficRow(1), TrafficRow(2, 3, (4,)))
        )
        self.assertEqual(decode_body(msgspec.msgpack.encode({"t": "traffic"})), Traffic())
