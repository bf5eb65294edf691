"""The applier: whole or not at all, acknowledged only when kept, and true to what the data plane itself reports."""

import shutil
import stat
import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.fake import RecordingDataPlane
from avinet.dataplane.interface import ServerStatus, ServiceCounters, Status
from avinet.model.fence import Fence
from avinet.model.ids import ConfigVersion
from avinet.model.resources import EMPTY_STATE_HASH, Resource, delta_between, hashes_of, state_hash
from avinet.se.applier import CHECK_INTERVAL_S, Applier
from avinet.se.config_files import ConfigFiles
from avinet.trust.files import DiskFullError
from avinet.wire.messages import Ack, ConfigEnd, ConfigPut, ConfigRemove, ConfigStart, InForce, Nack, Report


def hash_of(state):
    return state_hash(hashes_of(Resource(n, b) for n, b in state.items()))


def new_folder(case):
    """The path of a folder that is not there yet, removed after the test."""
    parent = tempfile.mkdtemp(prefix="avinet-")
    case.addCleanup(shutil.rmtree, parent)
    return Path(parent) / "folder"


class Base(SynchronousTestCase):
    def setUp(self):
        self.folder = new_folder(self)
        self.dataplane = RecordingDataPlane()
        self.replies = []
        self.announced, self.passed_on = [], []
        self.drifts = []
        self.settled = []
        self.applier = self.start_applier()

    def make_applier(self):
        self.clock = Clock()
        return Applier(
            dataplane=self.dataplane,
            files=ConfigFiles(self.folder),
            clock=self.clock,
            announce=self.announce,
            drifted=self.drifts.append,
            settled=lambda state: self.settled.append({name: r.body for name, r in state.items()}),
        )

    def announce(self, message, told):
        (self.announced if told is None else self.passed_on).append(message)

    def start_applier(self):
        applier = self.make_applier()
        self.successResultOf(applier.start())
        return applier

    def push(self, wanted, *, have=None, version=1, term=0, number=1, reply=None):
        """Send what turns ``have`` (None: a snapshot) into ``wanted``."""
        want = {n: Resource(n, b) for n, b in wanted.items()}
        delta = delta_between(hashes_of(Resource(n, b) for n, b in (have or {}).items()), want)
        messages = [
            ConfigStart(
                push=number,
                fence=Fence(0, term, ConfigVersion(version)),
                base=None if have is None else hash_of(have),
                hash=hash_of(wanted),
                puts=len(delta.put),
                removes=len(delta.remove),
                size=sum(len(r.body) for r in delta.put),
            ),
            *(ConfigPut(push=number, name=r.name, body=r.body) for r in delta.put),
            ConfigRemove(push=number, names=delta.remove),
            ConfigEnd(push=number),
        ]
        for message in messages:
            self.applier.received(message, reply or self.replies.append)


A = {"pool/a": b"one"}
AB = {"pool/a": b"one", "pool/b": b"two"}
B = {"pool/b": b"two"}


class Pushes(Base):
    def test_nothing_applied_yet_has_version_0_and_no_hash(self):
        self.assertEqual((self.applier.version, self.applier.hash), (0, ""))
        self.assertNotIn("apply", self.dataplane.calls)

    def test_a_push_in_force_is_acknowledged_with_its_version_and_hash(self):
        self.push(AB, version=7)
        self.assertEqual(self.replies, [Ack(push=1, version=ConfigVersion(7), hash=hash_of(AB))])
        self.assertEqual((self.applier.version, self.applier.hash), (7, hash_of(AB)))
        self.assertEqual(self.dataplane.force, hashes_of(Resource(n, b) for n, b in AB.items()))

    def test_what_is_in_force_is_told_to_those_who_did_not_push_it(self):
        self.push(A, version=7)
        self.assertEqual(self.passed_on, [InForce(version=ConfigVersion(7), hash=hash_of(A))])
        self.dataplane.rejects["pool/b"] = "no"
        self.push(AB, have=A, version=8, number=2)
        self.assertEqual(len(self.passed_on), 1)

    def test_whoever_needs_it_is_told_the_last_good_state_at_the_start_and_after_each(self):
        self.push(A)
        self.dataplane.rejects["pool/b"] = "no"
        self.push(AB, have=A, version=2, number=2)
        self.start_applier()
        self.assertEqual(self.settled, [{}, A, A])

    def test_a_delta_leads_from_what_is_there(self):
        self.push(AB, version=1)
        self.push(B, have=AB, version=2, number=2)
        self.assertEqual(self.replies[-1], Ack(push=2, version=ConfigVersion(2), hash=hash_of(B)))

    def test_a_delta_from_another_state_is_refused_and_nothing_changes(self):
        self.push(A)
        self.push(B, have=AB, version=2, number=2)
        self.assertEqual(self.replies[-1].reason, "base-mismatch")
        self.assertEqual(self.replies[-1].hash, hash_of(A))
        self.assertEqual(len(self.dataplane.applied), 1)

    def test_the_empty_state_can_be_applied(self):
        self.push(A)
        self.push({}, version=2)
        self.assertEqual(self.replies[-1].hash, EMPTY_STATE_HASH)

    def test_what_the_data_plane_rejects_is_refused_by_name_and_the_last_good_state_stays(self):
        self.push(A, version=1)
        self.dataplane.rejects["pool/b"] = "no such port"
        self.push(AB, version=2)
        nack = self.replies[-1]
        self.assertEqual(
            (nack.reason, nack.resource, nack.text, nack.hash, nack.version),
            ("rejected", "pool/b", "no such port", hash_of(A), 2),
        )
        self.assertEqual(self.start_applier().hash, hash_of(A))

    def test_a_data_plane_that_is_down_is_told_apart_from_one_that_refuses(self):
        self.dataplane.down = "it is gone"
        self.push(A)
        self.assertEqual(self.replies[-1].reason, "unavailable")

    def test_an_unexpected_failure_is_reported_and_the_next_push_works(self):
        working = self.dataplane.apply
        self.dataplane.apply = lambda state: 1 / 0
        self.push(A)
        self.assertEqual(self.replies[-1].reason, "internal")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.dataplane.apply = working
        self.push(A)
        self.assertIsInstance(self.replies[-1], Ack)

    def test_while_one_is_applied_only_the_newest_other_waits(self):
        self.dataplane.held = True
        self.push(A, version=1, number=1)
        self.push(B, version=2, number=2)
        self.push(AB, version=3, number=3)
        self.assertEqual([(r.push, r.reason) for r in self.replies], [(2, "superseded")])
        self.dataplane.release()
        self.assertEqual([r.push for r in self.replies if isinstance(r, Ack)], [1, 3])
        self.assertEqual(self.applier.hash, hash_of(AB))

    def test_two_sessions_may_push_interleaved_and_each_gets_its_own_answer(self):
        other = []
        first = ConfigStart(push=1, fence=Fence(), base=None, hash=hash_of(A), puts=1, removes=0, size=3)
        self.applier.received(first, self.replies.append)
        self.push(B, reply=other.append)
        self.assertIsInstance(other[-1], Ack)

    def test_a_session_that_is_gone_leaves_nothing_behind(self):
        first = ConfigStart(push=1, fence=Fence(), base=None, hash=hash_of(A), puts=1, removes=0, size=3)
        reply = self.replies.append
        self.applier.received(first, reply)
        self.applier.forget(reply)
        self.applier.received(ConfigEnd(push=1), reply)
        self.assertEqual([r.reason for r in self.replies], ["malformed"])


class Fencing(Base):
    def test_a_lower_fence_is_refused(self):
        self.push(A, version=5, term=2)
        self.push(B, version=9, term=1)
        self.assertEqual(self.replies[-1].reason, "fenced")
        self.assertEqual(self.applier.fence, Fence(0, 2, ConfigVersion(5)))

    def test_the_highest_fence_survives_a_restart_even_when_its_push_was_rejected(self):
        self.dataplane.rejects["pool/b"] = "no"
        self.push(B, version=5)
        self.applier = self.start_applier()
        self.push(A, version=4)
        self.assertEqual([r.reason for r in self.replies], ["rejected", "fenced"])

    def test_the_same_version_may_be_sent_again(self):
        self.push(A, version=5)
        self.push(A, version=5, number=2)
        self.assertIsInstance(self.replies[-1], Ack)


class Keeping(Base):
    def test_a_restart_serves_the_last_good_state_before_any_controller_is_there(self):
        self.push(AB, version=3)
        self.dataplane = RecordingDataPlane()
        applier = self.start_applier()
        self.assertEqual(set(self.dataplane.applied[0]), set(AB))
        self.assertEqual((applier.version, applier.hash), (3, hash_of(AB)))

    def test_a_start_has_the_data_plane_compare_its_files_too(self):
        self.push(AB)
        self.start_applier()
        first, second = self.dataplane.applied
        self.assertEqual(first, second)

    def test_files_are_for_their_owner_only(self):
        self.push(AB)
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in self.folder.iterdir()}
        self.assertEqual(modes, dict.fromkeys(("state.msgpack", "fence.msgpack", "at-rest.key"), 384))

    def test_a_crash_while_applying_leaves_the_last_acknowledged_state(self):
        self.push(A, version=1)
        self.dataplane.held = True
        self.push(B, version=2)
        self.assertTrue((self.folder / "candidate.msgpack").exists())
        self.dataplane = RecordingDataPlane()
        applier = self.start_applier()
        self.assertEqual((applier.version, applier.hash), (1, hash_of(A)))
        self.assertFalse((self.folder / "candidate.msgpack").exists())

    def test_a_damaged_file_is_set_aside_and_the_data_plane_left_as_it_is(self):
        for damage in (b"rubbish", b"", None):
            self.push(AB)
            path = self.folder / "state.msgpack"
            path.write_bytes(path.read_bytes()[:-1] + b"?" if damage is None else damage)
            calls = len(self.dataplane.applied)
            self.applier = self.start_applier()
            self.assertEqual((self.applier.version, self.applier.hash), (0, ""))
            self.assertEqual(len(self.dataplane.applied), calls)
            self.assertTrue((self.folder / "state.msgpack.bad").exists())

    def test_a_full_disk_refuses_the_push_before_it_is_applied(self):
        self.push(A)

        def full(function, *arguments):
            if function.__name__ == "save_candidate":
                raise DiskFullError(path=self.folder)
            return function(*arguments)

        self.applier.in_thread = lambda f, *a: Deferred.fromCoroutine(_run(full, f, *a))
        self.push(B, version=2)
        self.assertEqual((self.replies[-1].reason, self.replies[-1].hash), ("no-space", hash_of(A)))
        self.assertEqual(len(self.dataplane.applied), 1)

    def test_what_cannot_be_kept_is_taken_back_from_the_data_plane(self):
        self.push(A)

        def failing(function, *arguments):
            if function.__name__ == "keep_candidate":
                raise OSError(5, "Input/output error")
            return function(*arguments)

        self.applier.in_thread = lambda f, *a: Deferred.fromCoroutine(_run(failing, f, *a))
        self.push(B, version=2)
        self.assertIsInstance(self.replies[-1], Nack)
        self.assertEqual(set(self.dataplane.applied[-1]), set(A))


async def _run(function, *arguments):
    return function(*arguments)


class Loop(Base):
    def test_a_data_plane_that_drifted_is_put_right_and_both_are_reported(self):
        self.push(A, version=4)
        self.dataplane.force = {}
        self.clock.advance(CHECK_INTERVAL_S)
        self.assertEqual([m.hash for m in self.announced], [EMPTY_STATE_HASH, hash_of(A)])
        self.assertEqual(self.announced[0], InForce(version=ConfigVersion(4), hash=EMPTY_STATE_HASH))
        self.assertEqual(set(self.dataplane.applied[-1]), set(A))

    def test_what_differed_is_told_with_whether_it_is_mended(self):
        self.push(AB, version=4)
        first, second = sorted(AB)
        self.dataplane.force = {first: self.dataplane.force[first], "file/lds.json": "unknown"}
        self.clock.advance(CHECK_INTERVAL_S)
        self.dataplane.force = {}
        self.dataplane.rejects = {first: "no more"}
        self.clock.advance(CHECK_INTERVAL_S)
        one, two = self.drifts
        self.assertEqual((one.differed, one.mended), ((second, "file/lds.json"), True))
        self.assertEqual((two.differed, two.mended), ((first, second), False))
        self.assertIn(
            f"configuration 4 in force: {second}, file/lds.json differed. It was put right", one.text
        )

    def test_all_well_is_not_reported(self):
        self.push(A)
        self.clock.pump([CHECK_INTERVAL_S] * 3)
        self.assertEqual(self.announced, [])

    def test_a_restarted_data_plane_is_checked_at_once(self):
        self.push(A)
        self.dataplane.force = {}
        self.dataplane.restart()
        self.assertEqual(len(self.dataplane.applied), 2)

    def test_what_is_refused_again_is_tried_less_and_less_often(self):
        self.push(A)
        self.dataplane.force = {}
        self.dataplane.rejects["pool/a"] = "port taken"
        del self.dataplane.calls[:]
        self.clock.pump([CHECK_INTERVAL_S] * 15)
        self.assertEqual(self.dataplane.calls.count("apply"), 4)
        self.assertEqual(len(self.announced), 1)
        self.dataplane.rejects.clear()
        self.clock.pump([CHECK_INTERVAL_S] * 15)
        self.assertEqual(self.announced[-1].hash, hash_of(A))

    def test_a_last_good_state_refused_at_start_does_not_stop_the_start(self):
        self.push(A)
        self.dataplane.force = {}
        self.dataplane.rejects["pool/a"] = "port taken"
        applier = self.start_applier()
        self.assertEqual(applier.hash, hash_of(A))
        self.assertEqual(self.announced[-1].hash, EMPTY_STATE_HASH)

    def test_stop_leaves_the_data_plane_running_and_nothing_in_the_clock(self):
        self.push(A)
        self.successResultOf(self.applier.stop())
        self.assertEqual(self.dataplane.calls[-1], "detach")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_waits_for_the_push_under_way_and_refuses_the_one_that_waits(self):
        self.dataplane.held = True
        self.push(A, number=1)
        self.push(B, number=2)
        stopped = self.applier.stop()
        self.assertNoResult(stopped)
        self.dataplane.release()
        self.successResultOf(stopped)
        self.assertEqual([(type(r), r.push) for r in self.replies], [(Nack, 2), (Ack, 1)])


class Reporting(Base):
    def status(self, *, up=True):
        return Status(
            started_at=5.0,
            servers=(ServerStatus("pool/a", "127.0.0.1:1", up, "" if up else "failed its checks"),),
            services=(ServiceCounters("virtualservice/v", requests=3, errors_5xx=1, connections=2),),
        )

    def test_a_report_carries_health_and_counters(self):
        self.dataplane.status_now = self.status(up=False)
        report = self.successResultOf(self.applier.report())
        self.assertEqual(report.data_plane_started_at, 5.0)
        self.assertEqual((report.health[0].up, report.health[0].reason), (False, "failed its checks"))
        self.assertEqual((report.services[0].requests, report.services[0].errors_5xx), (3, 1))

    def test_a_dead_data_plane_is_reported_as_such(self):
        self.dataplane.down = "gone"
        self.assertEqual(self.successResultOf(self.applier.report()), Report(data_plane_up=False))

    def test_the_biggest_report_fits_a_frame_and_keeps_those_that_are_down(self):
        import msgspec

        pool = "pool/pool-" + "x" * 36
        servers = [ServerStatus(pool, f"2001:db8::{i:04x}:{i:04x}:65535", True, "") for i in range(9000)]
        servers.append(ServerStatus(pool, "z:1", False, "why" * 100))
        services = tuple(
            ServiceCounters(f"virtualservice/virtualservice-{i:036}", *([2**53] * 5)) for i in range(5000)
        )
        self.dataplane.status_now = Status(5.0, tuple(servers), services)
        report = self.successResultOf(self.applier.report())
        self.assertLess(len(msgspec.msgpack.encode(report)), 1024 * 1024)
        self.assertEqual(report.health[0].server, "z:1")
