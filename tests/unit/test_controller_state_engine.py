"""The state engine's decisions: what etcd is told, which etcd will do, how it is, why it ended, who may use it."""

import json
import shutil
from pathlib import Path

import attrs
import msgspec
from cryptography import x509
from twisted.internet.defer import Deferred
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
    ROOT_USER,
    USER,
    EngineDataLostError,
    EngineFiles,
    EngineFilesDamagedError,
    Progress,
)
from avinet.controller.state_engine_health import EngineWatch, Status, judged, make_room
from avinet.controller.state_engine_members import LearnerFirstError, Members
from avinet.controller.state_engine_timing import TimingFollower
from avinet.controller.state_engine_users import enable_passwords
from avinet.model.ids import ControllerName
from avinet.store.etcd_gateway import RefusedError, Reply
from avinet.store.interface import StoreUnavailableError
from avinet.trust.ca import RootDamagedError
from avinet.trust.files import FileExposedError, FileUnreadableError
from avinet.trust.keys import generate
from avinet.trust.state_ca import StateCa, belongs
from avinet.wire.joining import StateAdmission
from tests.unit.quick_folder import quick_folder as folder
from tests.unit.trust_kit import CLUSTER, OTHER_CLUSTER, mode

NAME = ControllerName("c1")
PLAN = EnginePlan(cluster=CLUSTER, name=NAME, client_port=12379, peer_port=12380)
MEMBER = 7


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


class Files(SynchronousTestCase):
    def setUp(self):
        self.files = EngineFiles(folder(self) / "etcd")

    def make(self):
        return self.files.make_first(CLUSTER, NAME, PLAN.peer_url)

    def wal(self):
        wal = self.files.data / "member" / "wal"
        wal.mkdir(parents=True, exist_ok=True)
        (wal / "0-0.wal").write_bytes(b"")
        return wal

    def test_a_first_member_has_all_that_it_needs_and_nobody_else_can_read_it(self):
        self.assertEqual(
            self.make(), Progress(phase="starting", initial_cluster="c1=https://127.0.0.1:12380")
        )
        self.assertEqual(self.files.check().phase, "starting")
        for path in self.files.secrets:
            if path.exists():
                self.assertEqual(mode(path) & 0o077, 0, path)
        certificate = x509.load_pem_x509_certificate(self.files.certificate.read_bytes())
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        self.assertEqual(names, [])  # etcd's gateway answers 401 to who has one
        self.assertNotEqual(self.files.password(ROOT_USER).read_text(), self.files.password(USER).read_text())

    def test_a_crash_after_any_file_is_gone_on_from(self):
        self.make()
        whole = {path.name: path.read_bytes() for path in self.files.folder.iterdir()}
        order = (
            "ca.key",
            "ca.pem",
            "node.key",
            "node.pem",
            "root.password",
            "avinet.password",
            "engine.json",
        )
        self.assertEqual(set(order), set(whole))
        for count in range(len(order)):
            for name in order[count:]:
                (self.files.folder / name).unlink(missing_ok=True)
            self.make()
            self.files.check()
            for name in order[:count]:
                self.assertEqual((self.files.folder / name).read_bytes(), whole[name])
            for name, data in whole.items():
                (self.files.folder / name).write_bytes(data)

    def test_data_that_is_gone_is_not_made_anew(self):
        self.make()
        self.files.reached(Progress(phase="serving", initial_cluster=""))
        self.assertRaises(EngineDataLostError, self.files.check)
        wal = self.wal()
        self.files.check()
        (wal / "0-0.wal").unlink()  # etcd would begin anew with what is left
        self.assertRaises(EngineDataLostError, self.files.check)

    def test_what_is_damaged_or_exposed_is_named(self):
        self.make()
        self.files.password(USER).chmod(0o644)
        self.assertRaises(FileExposedError, self.files.check)
        self.files.password(USER).unlink()
        self.assertRaises(FileUnreadableError, self.files.check)
        self.make()
        self.files.key_file.write_bytes(b"no key")
        self.assertRaises(RootDamagedError, self.files.check)
        self.files.key_file.unlink()
        self.make()
        self.files.check()
        self.files.progress_file.write_bytes(b"{")
        self.assertRaises(EngineFilesDamagedError, self.files.check)
        self.files.progress_file.unlink()
        self.assertRaises(EngineFilesDamagedError, self.files.check)
        self.wal()
        self.assertRaises(EngineFilesDamagedError, self.make)  # a copy into it would begin by clearing it

    def test_a_member_that_another_let_in_begins_with_no_data(self):
        self.make()
        self.wal()
        other = EngineFiles(folder(self) / "etcd")
        other.make_first(CLUSTER, ControllerName("c0"), "https://127.0.0.1:1")
        ca = StateCa.load(other.ca_key, other.ca_pem)
        admission = StateAdmission(
            ca=other.ca_pem.read_text(),
            certificate=ca.issue(self.files.key(), NAME).decode(),
            passwords={ROOT_USER: "r", USER: "u"},
            members={"c0": "https://127.0.0.1:1", "c1": PLAN.peer_url},
        )
        self.files.admitted(admission)
        progress = self.files.check()
        self.assertTrue(progress.joining)
        self.assertEqual(progress.initial_cluster, "c0=https://127.0.0.1:1,c1=https://127.0.0.1:12380")
        self.assertFalse(self.files.data.exists())
        self.assertEqual(len(list(self.files.folder.glob("data.before-*"))), 1)


class Authorities(SynchronousTestCase):
    def test_a_certificate_is_its_own_cas_alone(self):
        base = folder(self)
        one = StateCa.load_or_create(base / "a.key", base / "a.pem", CLUSTER)
        two = StateCa.load_or_create(base / "b.key", base / "b.pem", OTHER_CLUSTER)
        key = generate().public_key()
        pem = one.issue(key, NAME)
        self.assertTrue(belongs(pem, one.certificate, key))
        self.assertFalse(belongs(pem, two.certificate, key))
        self.assertFalse(belongs(pem, one.certificate, generate().public_key()))
        self.assertFalse(belongs(b"", one.certificate, key))
        shutil.copy(base / "b.key", base / "a.key")
        self.assertRaises(RootDamagedError, StateCa.load, base / "a.key", base / "a.pem")


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


class FakeEtcd:
    """Answers as etcd's gateway does, and can be cut after any change."""

    def __init__(self):
        self.clock = Clock()
        self.users, self.roles, self.granted, self.enabled = {}, set(), set(), False
        self.members, self.caught_up = [{"ID": "1", "name": "c1", "peerURLs": ["u1"]}], True
        self.status = {"header": {"member_id": "1", "revision": "9"}, "leader": "1"}
        self.asked, self.answered, self.cut_after, self.down = [], 0, None, False

    async def ask(self, path, request, answer, *, deadline=None):
        if self.down:
            raise StoreUnavailableError(where="etcd", detail=str(self.down))
        self.asked.append(path)
        said = getattr(self, path.replace("/", "_"))(**request)
        self.answered += 1
        if self.cut_after == self.answered:
            raise ZeroDivisionError
        return Reply(msgspec.json.decode(json.dumps(said or {}).encode(), type=answer, strict=False), False)

    def refuse(self, detail):
        raise RefusedError(where="etcd", code=9, detail=f"etcdserver: {detail}", lost=False)

    def auth_authenticate(self, name, password):
        if not self.enabled:
            self.refuse("authentication is not enabled")
        if self.users.get(name) != password:
            self.refuse("authentication failed, invalid user ID or password")

    def auth_user_add(self, name, password):
        if name in self.users:
            self.refuse("user name already exists")
        self.users[name] = password

    def auth_user_changepw(self, name, password):
        self.users[name] = password

    def auth_role_add(self, name):
        if name in self.roles:
            self.refuse("role name already exists")
        self.roles.add(name)

    def auth_user_grant(self, user, role):
        assert user in self.users
        assert role in self.roles
        self.granted.add((user, role))

    def auth_role_grant(self, name, perm):
        assert name in self.roles
        self.granted.add((name, perm["permType"], perm["key"], perm["range_end"]))

    def auth_enable(self):
        assert ("root", "root") in self.granted
        self.enabled = True

    def cluster_member_list(self):
        return {"members": self.members}

    def cluster_member_add(self, peerURLs, isLearner):
        self.members.append({"ID": str(len(self.members) + 1), "peerURLs": peerURLs, "isLearner": isLearner})

    def cluster_member_promote(self, ID):
        if not self.caught_up:
            self.refuse("can only promote a learner member which is in sync with leader")
        next(one for one in self.members if one["ID"] == ID)["isLearner"] = False

    def cluster_member_remove(self, ID):
        self.members = [one for one in self.members if one["ID"] != ID]

    def maintenance_status(self):
        return self.status

    def kv_compaction(self, revision, physical):
        pass

    def maintenance_defragment(self):
        self.status["dbSize"] = self.status["after"]

    def maintenance_alarm(self, action, alarm, memberID=None):
        if action == "GET":
            return {"alarms": [{"memberID": "1", "alarm": alarm} for _ in self.status["errors"]]}
        assert memberID == "1"
        self.status["errors"] = []
        return None


class WithEtcd(SynchronousTestCase):
    def setUp(self):
        self.etcd = FakeEtcd()

    def done(self, work):
        return self.successResultOf(Deferred.fromCoroutine(work))


class Passwords(WithEtcd):
    def enable(self):
        return enable_passwords(self.etcd, lambda user: f"secret of {user}")

    def check(self):
        self.assertEqual(self.etcd.users, {"root": "secret of root", "avinet": "secret of avinet"})
        everything = ("avinet", "READWRITE", "AA==", "AA==")
        self.assertEqual(self.etcd.granted, {("root", "root"), ("avinet", "avinet"), everything})
        self.assertTrue(self.etcd.enabled)

    def test_two_users_are_made_and_asked_for(self):
        self.done(self.enable())
        self.check()
        asked = len(self.etcd.asked)
        self.done(self.enable())
        self.assertEqual(len(self.etcd.asked), asked + 1)

    def test_a_crash_after_any_step_is_gone_on_from(self):
        for cut_after in range(1, 30):
            self.etcd = FakeEtcd()
            self.etcd.cut_after = cut_after
            outcome = []
            Deferred.fromCoroutine(self.enable()).addBoth(outcome.append)
            self.etcd.cut_after = None
            self.done(self.enable())
            self.check()
            if outcome == [None]:
                self.assertGreater(cut_after, 7)
                return
            self.assertTrue(outcome[0].check(ZeroDivisionError))
        self.fail("it never came to its end")

    def test_passwords_of_a_start_before_are_replaced(self):
        self.etcd.users = {"root": "another", "avinet": "another"}
        self.done(self.enable())
        self.check()

    def test_another_password_than_etcds_is_refused(self):
        self.etcd.enabled, self.etcd.users = True, {"root": "another"}
        self.failureResultOf(Deferred.fromCoroutine(self.enable()), RefusedError)


class Growing(WithEtcd):
    def setUp(self):
        super().setUp()
        self.members = Members(self.etcd)

    def test_a_member_is_added_once_as_a_learner(self):
        for _ in range(2):
            after = self.done(self.members.add("u2"))
            self.assertEqual(
                [(one.peer_urls, one.learner) for one in after], [(("u1",), False), (("u2",), True)]
            )

    def test_a_learner_is_promoted_when_it_has_everything(self):
        self.etcd.caught_up = False
        learner = self.done(self.members.add("u2"))[1]
        self.assertFalse(self.done(self.members.promote(learner)))
        self.etcd.caught_up = True
        self.assertTrue(self.done(self.members.promote(learner)))
        self.assertFalse(any(one.learner for one in self.done(self.members.all())))

    def test_the_learner_before_is_waited_for_and_named(self):
        learner = self.done(self.members.add("u2"))[1]
        waiting = Deferred.fromCoroutine(self.members.add("u3"))
        self.etcd.clock.advance(0.5)
        self.assertNoResult(waiting)
        self.done(self.members.promote(learner))
        self.etcd.clock.advance(0.5)
        self.assertEqual(len(self.successResultOf(waiting)), 3)
        waiting = Deferred.fromCoroutine(self.members.add("u4"))
        self.etcd.clock.pump([0.5] * 41)
        self.assertIn("u3", str(self.failureResultOf(waiting, LearnerFirstError).value))

    def test_a_member_is_removed_once(self):
        self.done(self.members.add("u2"))
        for _ in range(2):
            self.done(self.members.remove("u2"))
            self.assertEqual(len(self.done(self.members.all())), 1)


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

    def test_without_a_leader_it_says_what_is_missing(self):
        self.etcd.down = "etcdserver: no leader"
        self.watch.start()
        self.assertFalse(self.watch.health.has_leader)
        self.assertIn("majority", self.watch.health.why)

    def test_an_end_is_told_at_once_with_its_reason(self):
        self.watch.start()
        self.etcd.down = True
        self.watch.ended(EngineDiskFullError(folder=Path("/s")))
        self.assertEqual(self.told, ["STATE_ENGINE_DOWN"])
        self.look()
        self.assertIn("disk is full", self.watch.health.why)

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
