"""How the state engine is, by what it says of itself, and what is told and done about it."""

import json
from pathlib import Path

import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.state_engine_failure import (
    EngineDiskFullError,
)
from avinet.controller.state_engine_health import FIRST_LOOKS, EngineWatch, Status, judged, make_room
from avinet.store.interface import StoreUnavailableError
from tests.unit.etcd_double import WithEtcd

MEMBER = 7


class Judgement(SynchronousTestCase):
    def status(self, **facts):
        raw = {"header": {"member_id": str(MEMBER)}, "version": "3.4.23", "leader": str(MEMBER), **facts}
        return msgspec.json.decode(json.dumps(raw).encode(), type=Status, strict=False)

    def test_a_leader_is_well(self):
        health = judged(self.status(dbSize="20480", dbSizeInUse="16384"), 100)
        self.assertTrue(health.well and health.has_leader and health.is_leader)
        self.assertEqual((health.db_bytes, health.used_bytes, health.quota_bytes), (20480, 16384, 100))

    def test_a_follower_is_well_and_without_a_leader_nobody_is(self):
        health = judged(self.status(leader="8"), 0)
        self.assertEqual((health.well, health.has_leader, health.is_leader), (True, True, False))
        health = judged(self.status(leader="0"), 0)
        self.assertEqual((health.well, health.has_leader, health.is_leader), (False, False, False))
        self.assertIn("majority", health.why)

    def test_alarms_say_what_to_do(self):
        full = judged(self.status(errors=["memberID:7 alarm:NOSPACE "]), 0)
        self.assertEqual((full.well, full.has_leader, full.alarms), (False, True, ("NOSPACE",)))
        self.assertIn("quota_mib", full.why)
        corrupt = judged(self.status(errors=["memberID:7 alarm:CORRUPT "]), 0)
        self.assertIn("replace", corrupt.why)


class Watching(WithEtcd):
    def setUp(self):
        super().setUp()
        self.told = []
        emit = lambda code, *rest, **facts: self.told.append(code)
        self.watch = EngineWatch(self.etcd, self.etcd.clock, emit, 100, lambda: make_room(self.etcd, 100))

    def look(self, times=1):
        for _ in range(times):
            self.etcd.clock.advance(2.0)

    def test_a_moment_without_an_answer_is_no_news(self):
        self.watch.start()
        self.assertTrue(self.watch.health.well)
        self.etcd.down = True
        self.look()
        self.assertFalse(self.watch.health.well)
        self.assertEqual(self.told, [])
        self.look(3)
        self.assertEqual(self.told, ["STATE_ENGINE_DOWN"])
        self.etcd.down = False
        self.look(2)
        self.assertEqual(self.told, ["STATE_ENGINE_DOWN", "STATE_ENGINE_UP"])

    def test_one_that_starts_is_given_time(self):
        self.etcd.down = True
        self.watch.start()
        self.look(FIRST_LOOKS - 2)
        self.etcd.down = False
        self.look()
        self.assertEqual(self.told, [])

    def test_one_that_never_comes_up_is_told(self):
        self.etcd.down = True
        self.watch.start()
        self.look(FIRST_LOOKS - 2)
        self.assertEqual(self.told, [])
        self.look()
        self.assertEqual(self.told, ["STATE_ENGINE_DOWN"])

    def test_without_a_leader_it_says_what_is_missing(self):
        self.etcd.down = "etcdserver: no leader"
        self.watch.start()
        self.assertFalse(self.watch.health.has_leader)
        self.assertIn("majority", self.watch.health.why)

    def test_one_of_ours_that_never_answered_waits_for_its_quorum(self):
        self.etcd.down = "it is down"
        self.watch.start()
        self.assertIn("it is down", self.watch.health.why)

        async def looked(status):
            pass

        self.watch.looked = looked
        self.look(2)
        self.assertIn("majority", self.watch.health.why)

    def test_an_end_is_told_at_once_with_its_reason(self):
        self.watch.start()
        self.etcd.down = True
        self.watch.ended(EngineDiskFullError(folder=Path("/s")))
        self.assertEqual(self.told, ["STATE_ENGINE_DOWN"])
        self.look()
        self.assertIn("disk is full", self.watch.health.why)

    def test_what_is_asked_of_it_without_end_keeps_nobody_from_looking(self):
        asked = []

        async def looked(status):
            asked.append(Deferred())
            await asked[-1]

        self.watch.looked = looked
        self.watch.start()
        self.etcd.down = True
        self.look(3)
        self.assertEqual((len(asked), self.told), (1, ["STATE_ENGINE_DOWN"]))
        self.done(self.watch.stop())

    def test_a_stopped_watch_looks_no_more(self):
        self.watch.start()
        self.done(self.watch.stop())
        self.assertEqual(self.etcd.clock.getDelayedCalls(), [])

    def test_each_answer_is_handed_on(self):
        led = []

        async def looked(status):
            led.append(status.leads)
            if len(led) == 3:
                raise StoreUnavailableError(where="etcd", detail="it is the next one's turn")

        self.watch.looked = looked
        self.watch.start()
        self.etcd.status["leader"] = "2"
        self.look(3)
        self.assertEqual(led, [True, False, False, False])

    def full(self, after):
        self.etcd.status |= {
            "errors": ["memberID:1 alarm:NOSPACE"],
            "after": after,
            "dbSize": "100",
        }

    def test_room_is_made_when_there_is_some(self):
        self.full("50")
        self.watch.start()
        self.assertFalse(self.watch.health.well)
        self.look()
        self.assertTrue(self.watch.health.well)

    def test_a_full_one_stays_so_and_is_not_troubled_each_time(self):
        self.full("90")
        self.assertFalse(self.done(make_room(self.etcd, 100)))
        self.watch.start()
        self.look(10)
        self.assertEqual(self.etcd.asked.count("kv/compaction"), 2)
        self.assertEqual(self.etcd.asked.count("maintenance/alarm"), 0)
        self.assertEqual(self.told, ["STATE_ENGINE_DOWN"])

    def test_something_deleted_is_a_reason_to_try_again(self):
        self.full("90")
        self.watch.start()
        self.look(10)
        self.etcd.status |= {"after": "50"}
        self.etcd.status["header"] = {"member_id": "1", "revision": "10"}
        self.look(2)
        self.assertTrue(self.watch.health.well)
