"""The state engine's decisions: what etcd is told, which etcd will do, how long leaders are waited for, why it ended."""

import json
import shutil
from pathlib import Path

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.store_settings import StoreSection, wrong_in
from avinet.controller.state_engine_binary import (
    EtcdMissingError,
    EtcdUnusableError,
    EtcdVersionError,
    checked_version,
    find_etcd,
)
from avinet.controller.state_engine_config import EnginePlan, Timing, rendered, timing_after, timing_for
from avinet.controller.state_engine_failure import (
    EngineDataDamagedError,
    EngineDiskFullError,
    EngineEndedError,
    EnginePortError,
    EngineRemovedError,
    last_words,
    reason_of,
)
from avinet.controller.state_engine_files import (
    EngineFiles,
    Progress,
)
from avinet.controller.state_engine_timing import TimingFollower
from tests.unit.etcd_double import NAME, PLAN
from tests.unit.quick_folder import quick_folder as folder
from tests.unit.trust_kit import CLUSTER


class Timings(SynchronousTestCase):
    def test_elections_wait_for_ten_round_trips_in_steps_that_double(self):
        for rtt_ms, heartbeat_ms in (
            (0, 100),
            (0.2, 100),
            (70, 100),
            (100, 100),
            (101, 200),
            (350, 400),
            (900, 1600),
            (4999, 5000),
            (60_000, 5000),
        ):
            timing = timing_for(rtt_ms / 1000)
            self.assertEqual((timing.heartbeat_ms, timing.election_ms), (heartbeat_ms, heartbeat_ms * 10))

    def test_a_timing_goes_up_at_once_and_down_late(self):
        for heartbeat_ms, rtt_ms, after_ms in (
            (100, 90, 100),
            (100, 150, 200),
            (200, 120, 200),
            (200, 60, 200),
            (200, 49, 100),
            (1600, 10, 100),
        ):
            self.assertEqual(timing_after(Timing(heartbeat_ms), rtt_ms / 1000), Timing(after_ms))

    def test_a_change_comes_some_time_after_it_is_seen_and_only_if_it_still_should(self):
        engine, clock, rtts = Timed(), Clock(), [0.05]
        follower = TimingFollower(engine, lambda: rtts[-1], clock, lambda: 0.5)
        follower.start()
        clock.advance(60)
        self.assertEqual(engine.changes, [])
        rtts.append(0.15)
        clock.pump([60, 29])
        self.assertEqual(engine.changes, [])
        clock.advance(1)
        self.assertEqual(engine.changes, [Timing(200)])
        rtts.append(0.5)
        clock.advance(60)
        rtts.append(None)
        clock.advance(30)
        self.assertEqual(engine.changes, [Timing(200)])
        follower.stop()
        self.assertEqual(clock.getDelayedCalls(), [])


class Timed:
    def __init__(self):
        self.plan, self.changes = PLAN, []

    async def retime(self, timing):
        self.changes.append(timing)
        self.plan = attrs.evolve(self.plan, timing=timing)


class Configuration(SynchronousTestCase):
    def setUp(self):
        self.files = EngineFiles(Path("/state/etcd"))
        self.made = rendered(PLAN, self.files, Progress(phase="starting", initial_cluster="c1=https://x"))

    def test_it_listens_on_loopback_alone_and_demands_certificates(self):
        urls = [value for name, value in self.made.items() if name.endswith("-urls")]
        self.assertEqual(sorted(set(urls)), ["https://127.0.0.1:12379", "https://127.0.0.1:12380"])
        for side in ("client", "peer"):
            transport = self.made[f"{side}-transport-security"]
            self.assertTrue(transport["client-cert-auth"])
            self.assertEqual(transport["trusted-ca-file"], "/state/etcd/ca.pem")

    def test_a_first_member_makes_a_cluster_and_a_later_one_finds_it(self):
        self.assertEqual(self.made["initial-cluster-state"], "new")
        joining = Progress(phase="starting", initial_cluster="c1=a,c2=b", joining=True)
        made = rendered(PLAN, self.files, joining)
        self.assertEqual((made["initial-cluster-state"], made["initial-cluster"]), ("existing", "c1=a,c2=b"))

    def test_it_holds_no_password(self):
        self.assertNotIn("password", json.dumps(self.made))

    def test_the_timing_is_told(self):
        plan = EnginePlan(cluster=CLUSTER, name=NAME, client_port=1, peer_port=2, timing=Timing(400))
        made = rendered(plan, self.files, Progress(phase="starting", initial_cluster=""))
        self.assertEqual((made["heartbeat-interval"], made["election-timeout"]), (400, 4000))


class Binaries(SynchronousTestCase):
    def test_versions_that_lose_data_are_refused(self):
        for version, good in (
            ("3.3.27", False),
            ("3.4.21", False),
            ("3.4.22", True),
            ("3.4.23", True),
            ("3.5.0", False),
            ("3.5.2", False),
            ("3.5.5", False),
            ("3.5.6", True),
            ("3.6.1", True),
            ("4.0.0", True),
        ):
            said = f"etcd Version: {version}\nGit SHA: x\n"
            if good:
                self.assertEqual(checked_version(Path("/etcd"), said), version)
            else:
                self.assertRaises(EtcdVersionError, checked_version, Path("/etcd"), said)

    def test_what_is_no_etcd_is_refused(self):
        self.assertRaises(EtcdMissingError, find_etcd, Path("/nowhere/etcd"))
        self.assertRaises(EtcdUnusableError, find_etcd, Path(shutil.which("true") or "/bin/true"))
        self.assertRaises(EtcdUnusableError, checked_version, Path("/etcd"), "")


class Ends(SynchronousTestCase):
    CASES = (
        ("discovery failed: listen tcp 127.0.0.1:2380: bind: address already in use", EnginePortError),
        ("failed to commit tx: write /s/db: no space left on device", EngineDiskFullError),
        ("server error: the member has been permanently removed from the cluster", EngineRemovedError),
        ("failed to open database: invalid database", EngineDataDamagedError),
        ("cannot use none as id", EngineDataDamagedError),
        ("failed to read WAL, cannot be repaired: crc mismatch", EngineDataDamagedError),
        ("something new", EngineEndedError),
    )

    def test_last_words_say_what_to_do(self):
        for said, kind in self.CASES:
            why = reason_of(said, "it ended", Path("/s/log"), Path("/s/etcd/data"))
            self.assertIsInstance(why, kind, said)

    def test_without_words_the_process_says_how_it_ended(self):
        why = reason_of("", "process ended by signal 9.", Path("/s/log"), Path("/s/etcd/data"))
        self.assertIsInstance(why, EngineEndedError)
        self.assertIn("ended: process ended by signal 9. Its log", str(why))

    def test_only_what_ended_it_counts(self):
        log = folder(self) / "log"
        warned = '{"level":"warn","msg":"failed to preallocate","error":"no space left on device"}\n'
        log.write_text(warned)
        self.assertEqual(last_words(log), "")
        log.write_text(warned + '{"level":"fatal","msg":"discovery failed","error":"why"}\n')
        self.assertEqual(last_words(log), "discovery failed: why")
        log.write_text(warned + "panic: cannot use none as id\n\ngoroutine 1 [running]:\nraft.newRaft(0x0)\n")
        self.assertEqual(last_words(log), "cannot use none as id")
        self.assertEqual(last_words(log.with_name("none")), "")

    def test_an_earlier_life_does_not_count(self):
        log = folder(self) / "log"
        log.write_text(
            '{"level":"fatal","msg":"discovery failed","error":"why"}\n'
            '{"level":"info","msg":"configuring peer listeners"}\n'
        )
        self.assertEqual(last_words(log), "")


class Settings(SynchronousTestCase):
    TLS = {"ca": "a", "certificate": "b", "key": "c"}

    def test_what_contradicts_is_named(self):
        self.assertIsNone(wrong_in(StoreSection()))
        self.assertIsNone(wrong_in(StoreSection(engine="etcd")))
        for facts, name in (
            ({"client_port": 5, "peer_port": 5}, "peer_port"),
            ({"engine": "etcd", "ca": "a"}, "ca"),
            ({"engine": "etcd", "namespace": "a"}, "namespace"),
            ({"endpoints": ("https://e:2379",), **self.TLS}, "endpoints"),
            ({"engine": "etcd", "endpoints": ("https://e:2379",)}, "ca"),
            ({"engine": "etcd", "endpoints": ("https://e",), **self.TLS}, "endpoints[0]"),
            ({"engine": "etcd", "endpoints": ("https://e:x",), **self.TLS}, "endpoints[0]"),
            ({"engine": "etcd", "endpoints": ("https://e:1/v3",), **self.TLS}, "endpoints[0]"),
            ({"engine": "etcd", "endpoints": ("http://e:2379",)}, "endpoints[0]"),
            ({"engine": "etcd", "endpoints": ("ftp://127.0.0.1:1",)}, "endpoints[0]"),
            ({"engine": "etcd", "endpoints": ("https://e:1",), **self.TLS, "user": "u"}, "password_file"),
        ):
            wrong = wrong_in(StoreSection(**facts))
            self.assertIsNotNone(wrong, facts)
            self.assertEqual(wrong[0], name)

    def test_an_etcd_of_others_is_taken(self):
        for facts in (
            {"endpoints": ("https://e:2379", "https://[::1]:2379"), **self.TLS},
            {"endpoints": ("http://127.0.0.1:2379",)},
            {"endpoints": ("https://e:1",), **self.TLS, "user": "u", "password_file": "p"},
        ):
            self.assertIsNone(wrong_in(StoreSection(engine="etcd", **facts)), facts)
