"""The registry: records, tokens, addresses, commands, permits."""

import attrs
import msgspec
from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.engine_commands import EngineCommands, FingerprintMismatchError
from avinet.controller.engine_errors import (
    EngineDeletedError,
    EngineNameError,
    EngineNameTakenError,
    EngineNotFoundError,
    EngineStateError,
)
from avinet.controller.engine_index import (
    EngineIndex,
    LoopbackExhaustedError,
    LoopbackPrefixError,
    loopback_hosts,
)
from avinet.controller.permits import RETRY_S
from avinet.controller.token_errors import (
    TokenCountError,
    TokenExpiredError,
    TokenNotFoundError,
    TokenRevokedError,
    TokenUnknownError,
)
from avinet.model.config import EnrolmentPolicy
from avinet.model.engine import LOOPBACK_REST_S, Lifecycle, SeRecord, SeState
from avinet.model.ids import SeId
from avinet.store.interface import StoreUnavailableError
from avinet.trust.keys import fingerprint, parse_line
from tests.unit.enrolment_kit import Site, run


def record(number, loopback="", **more):
    return SeRecord(uuid=SeId(f"se-{number}"), name=f"se{number}", group="web", loopback=loopback, **more)


class Addresses(SynchronousTestCase):
    def test_the_default_prefix_gives_a_class_b_without_its_ends(self):
        index = EngineIndex()
        self.assertEqual("127.1.0.1", index.reserve(0.0))
        self.assertEqual("127.1.0.2", index.reserve(0.0))
        first, last = loopback_hosts("127.1")
        self.assertEqual(65_534, last - first + 1)

    def test_a_prefix_outside_the_loopback_or_malformed_is_refused(self):
        for prefix in ("10.1", "127", "127.256", "127.1.2.3", "127.x", ""):
            with self.assertRaises(LoopbackPrefixError):
                EngineIndex(prefix)

    def test_an_address_in_use_or_at_rest_is_not_given_again_and_a_rested_one_is(self):
        index = EngineIndex("127.9.9")
        taken = [index.reserve(0.0) for _ in range(254)]
        with self.assertRaises(LoopbackExhaustedError):
            index.reserve(0.0)
        for number, address in enumerate(taken):
            index.put(record(number, address), 1)
            index.hold_address(address, SeId(f"se-{number}"), 1)
            index.release(address)
        with self.assertRaises(LoopbackExhaustedError):
            index.reserve(1e12)
        index.put(record(5, taken[5], lifecycle=Lifecycle.DELETED, deleted_at=1000.0), 2)
        with self.assertRaises(LoopbackExhaustedError):
            index.reserve(999.0 + LOOPBACK_REST_S)
        self.assertEqual(taken[5], index.reserve(1000.0 + LOOPBACK_REST_S))

    def test_a_released_reservation_that_was_not_used_is_free(self):
        index = EngineIndex("127.9.9")
        addresses = [index.reserve(0.0) for _ in range(254)]
        index.release(addresses[3])
        self.assertEqual(addresses[3], index.reserve(0.0))

    def test_an_older_revision_never_replaces_a_newer_one(self):
        index = EngineIndex()
        index.put(record(1, "127.1.0.1", note="new"), 7)
        index.put(record(1, "127.1.0.1", note="old"), 6)
        self.assertEqual("new", index.get(SeId("se-1")).record.note)


class Creation(SynchronousTestCase):
    def setUp(self):
        self.site = Site()

    def test_a_new_engine_has_a_record_an_address_and_a_token_that_survive_a_restart(self):
        made, token = run(self.site.engines.create("se-1", "web"))
        self.assertEqual(Lifecycle.CREATING, made.lifecycle)
        self.assertEqual("127.1.0.1", made.loopback)
        self.site.restart()
        self.assertEqual(made, self.site.engines.named("se-1"))
        self.assertEqual(made, self.site.engines.named(made.uuid))
        self.assertEqual(made.uuid, self.site.tokens.identify(token.text).se)
        self.assertEqual(SeState.CREATING, self.site.engines.state(made.uuid, attached=False))

    def test_creation_takes_two_round_trips(self):
        before = self.site.store.calls
        run(self.site.engines.create("se-1", "web"))
        self.assertEqual(2, self.site.store.calls - before)

    def test_a_name_is_given_once(self):
        run(self.site.engines.create("se-1", "web"))
        with self.assertRaises(EngineNameTakenError):
            run(self.site.engines.create("se-1", "web"))

    def test_a_name_of_a_deleted_engine_is_free(self):
        made, _ = run(self.site.engines.create("se-1", "web"))
        run(self.site.engines.delete(made.uuid))
        again, _ = run(self.site.engines.create("se-1", "web"))
        self.assertNotEqual(made.uuid, again.uuid)
        self.assertNotEqual(made.loopback, again.loopback)

    def test_a_malformed_name_is_refused(self):
        for name in ("", "-x", "a b", "x" * 64, "../etc", "a\n"):
            with self.assertRaises(EngineNameError):
                run(self.site.engines.create(name, "web"))

    def test_a_store_that_fails_leaves_nothing_half_made_whatever_it_did(self):
        for committed in (False, True):
            for call in (0, 1):
                site = Site()
                site.store.fail_call(call, committed=committed)
                with self.assertRaises(StoreUnavailableError):
                    run(site.engines.create("se-1", "web"))
                site.store.heal()
                try:
                    run(site.engines.create("se-1", "web"))
                except EngineNameTakenError:
                    self.assertTrue(committed and call == 1)
                site.restart()
                self.assertEqual(["se-1"], [r.name for r in site.engines.all()])
                made, _ = run(site.engines.create("se-2", "web"))
                self.assertNotEqual(site.engines.named("se-1").loopback, made.loopback)

    def test_a_record_written_by_another_controller_is_found_by_the_compare(self):
        other = Site()
        other.store = self.site.store
        other.restart()
        first, _ = run(other.engines.create("se-1", "web"))
        second, _ = run(self.site.engines.create("se-2", "web"))
        self.assertNotEqual(first.loopback, second.loopback)
        with self.assertRaises(EngineNameTakenError):
            run(self.site.engines.create("se-1", "web"))


class TokensOfGroups(SynchronousTestCase):
    def setUp(self):
        self.site = Site()

    def test_a_token_expires_by_the_stores_lease(self):
        token = run(self.site.tokens.issue("web"))
        self.site.clock.advance(3599)
        self.assertEqual(["active"], [view.state for view in run(self.site.tokens.list())])
        self.site.clock.advance(2)
        self.assertEqual(["expired"], [view.state for view in run(self.site.tokens.list())])
        self.site.restart()
        with self.assertRaises(TokenExpiredError):
            self.site.tokens.claim(token.record.id)

    def test_a_revoked_token_is_refused_as_revoked_also_after_a_restart(self):
        token = run(self.site.tokens.issue("web", 5))
        run(self.site.tokens.revoke(token.record.id))
        for _ in range(2):
            with self.assertRaises(TokenRevokedError):
                self.site.tokens.claim(token.record.id)
            self.assertEqual(["revoked"], [view.state for view in run(self.site.tokens.list())])
            self.site.restart()

    def test_a_token_of_another_cluster_or_altered_is_unknown(self):
        token = run(self.site.tokens.issue("web"))
        for text in (
            token.text[:-1] + ("A" if token.text[-1] != "A" else "B"),
            "avt1.x.y",
            "",
            "avt1.." + "x" * 9,
        ):
            with self.assertRaises(TokenUnknownError):
                self.site.tokens.identify(text)

    def test_a_count_out_of_range_is_refused(self):
        for count in (0, -1, 10_001):
            with self.assertRaises(TokenCountError):
                run(self.site.tokens.issue("web", count))

    def test_revoking_an_unknown_token_is_not_found(self):
        with self.assertRaises(TokenNotFoundError):
            run(self.site.tokens.revoke("nope"))

    def test_ended_tokens_are_forgotten_after_a_week(self):
        run(self.site.tokens.issue("web"))
        self.site.clock.advance(8 * 86400)
        self.site.restart()
        self.assertEqual([], run(self.site.tokens.list()))
        self.assertEqual((), run(self.site.store.list("token")).entries)

    def test_no_token_text_is_stored_or_shown_in_a_repr(self):
        token = run(self.site.tokens.issue("web"))
        stored = b"".join(entry.value for entry in run(self.site.store.list("token")).entries)
        secret = token.text.rpartition(".")[2]
        self.assertNotIn(secret.encode(), stored)
        self.assertNotIn(secret, repr(token))


class Commands(SynchronousTestCase):
    def setUp(self):
        self.site = Site()
        self.commands = EngineCommands(self.site.engines)
        self.changes = []
        self.site.engines.listen(lambda before, after: self.changes.append((before, after)))

    def enrolled(self, policy="token"):
        self.site.set_group(enrolment_policy=EnrolmentPolicy(policy))
        _made, token = run(self.site.engines.create("se-1", "web"))
        return self.site.enrol(self.site.machine().request(token.text))

    def test_a_pending_engine_is_approved_by_its_fingerprint_and_may_then_log_in(self):
        record = self.enrolled("approve")
        self.assertIsNone(self.site.permits.keys.by_se(record.uuid))
        with self.assertRaises(FingerprintMismatchError):
            run(self.commands.approve(record.uuid, "SHA256:other"))
        run(self.commands.approve(record.uuid, fingerprint(parse_line(record.se_key))))
        self.assertEqual(record.loopback, self.site.permits.keys.by_se(record.uuid).loopback)
        self.assertEqual("SE_APPROVED", self.site.events.codes()[-1])

    def test_a_disabled_engine_may_log_in_and_a_quarantined_one_may_not(self):
        record = self.enrolled()
        run(self.commands.disable(record.uuid, "maintenance"))
        self.assertIsNotNone(self.site.permits.keys.by_se(record.uuid))
        run(self.commands.quarantine(record.uuid, "two machines"))
        self.assertIsNone(self.site.permits.keys.by_se(record.uuid))
        self.assertEqual("two machines", self.site.engines.named("se-1").note)
        run(self.commands.enable(record.uuid))
        self.assertIsNotNone(self.site.permits.keys.by_se(record.uuid))
        self.assertEqual("", self.site.engines.named("se-1").note)

    def test_commands_that_make_no_sense_in_a_state_are_refused(self):
        made, _ = run(self.site.engines.create("se-1", "web"))
        for command in ("approve", "disable", "enable", "quarantine"):
            with self.assertRaises(EngineStateError):
                run(getattr(self.commands, command)(made.uuid))

    def test_unknown_and_deleted_engines_are_told_apart(self):
        with self.assertRaises(EngineNotFoundError):
            run(self.commands.enable("se-none"))
        record = self.enrolled()
        run(self.site.engines.delete(record.uuid))
        with self.assertRaises(EngineDeletedError):
            run(self.commands.enable(record.uuid))
        with self.assertRaises(EngineNotFoundError):
            self.site.engines.named("se-1")

    def test_an_engine_that_connected_once_is_down_when_it_is_not_attached(self):
        record = self.enrolled()
        self.assertEqual(SeState.ENROLLED, self.site.engines.state(record.uuid, attached=False))
        run(self.commands.connected(record.uuid))
        self.assertEqual(SeState.DOWN, self.site.engines.state(record.uuid, attached=False))
        self.assertEqual(SeState.UP, self.site.engines.state(record.uuid, attached=True))

    def test_noting_a_connection_again_asks_nothing_of_the_store(self):
        record = self.enrolled()
        run(self.commands.connected(record.uuid))
        calls = self.site.store.calls
        run(self.commands.connected(record.uuid))
        self.assertEqual(calls, self.site.store.calls)

    def test_listeners_hear_of_a_deletion_after_the_store_has_it(self):
        record = self.enrolled()
        run(self.site.engines.delete(record.uuid))
        before, after = self.changes[-1]
        self.assertEqual((Lifecycle.ENROLLED, Lifecycle.DELETED), (before.lifecycle, after.lifecycle))
        self.assertIsNone(self.site.permits.keys.by_se(record.uuid))

    def test_a_failed_store_changes_nothing_and_tells_nobody(self):
        record = self.enrolled()
        told = len(self.changes)
        self.site.store.fail_call(0, committed=False)
        with self.assertRaises(StoreUnavailableError):
            run(self.commands.quarantine(record.uuid))
        self.assertEqual(record, self.site.engines.named("se-1"))
        self.assertEqual(told, len(self.changes))

    def test_a_command_whose_answer_was_lost_is_done_once_when_repeated(self):
        record = self.enrolled()
        self.site.store.fail_call(0, committed=True)
        with self.assertRaises(StoreUnavailableError):
            run(self.commands.disable(record.uuid, "x"))
        run(self.commands.disable(record.uuid, "x"))
        self.assertEqual(Lifecycle.DISABLED, self.site.engines.named("se-1").lifecycle)

    def test_a_decision_of_another_controller_is_respected(self):
        record = self.enrolled("approve")
        other = Site()
        other.store = self.site.store
        other.restart()
        run(other.engines.delete(record.uuid))
        with self.assertRaises(EngineDeletedError):
            run(self.commands.approve(record.uuid))

    def test_a_deleted_engines_token_ends(self):
        made, token = run(self.site.engines.create("se-1", "web"))
        run(self.site.engines.delete(made.uuid))
        with self.assertRaises(TokenRevokedError):
            self.site.tokens.claim(token.record.id)

    def test_a_token_made_anew_replaces_the_old_one(self):
        made, old = run(self.site.engines.create("se-1", "web"))
        new = run(self.site.engines.reissue(made.uuid))
        with self.assertRaises(TokenRevokedError):
            self.site.tokens.claim(old.record.id)
        record = self.site.enrol(self.site.machine().request(new.text))
        self.assertEqual(made.uuid, record.uuid)
        with self.assertRaises(EngineStateError):
            run(self.site.engines.reissue(made.uuid))


class PermitFilesWritten(SynchronousTestCase):
    def setUp(self):
        self.site = Site()
        self.path = self.site.folder / "authorized_keys"

    def enrol(self, name):
        """The answer, which waits for the files."""
        _, token = run(self.site.engines.create(name, "web"))
        body = self.site.machine().request(token.text)
        return Deferred.fromCoroutine(self.site.enrolment.enrol(body, "10.0.0.7"))

    def slow_disk(self):
        """The end of each write, to be fired by hand."""
        waiting = []
        self.site.permits.in_thread = lambda call: (call(), waiting.append(Deferred()))[1] or waiting[-1]
        return waiting

    def test_changes_are_gathered_into_one_write_that_names_every_engine(self):
        writes = []
        self.site.permits.in_thread = lambda call: (writes.append(1), execute(call))[1]
        self.site.permits.start()
        answers = [self.enrol(f"se-{n}") for n in range(5)]
        self.assertFalse(self.path.exists())
        self.site.clock.advance(0)
        made = [self.successResultOf(answer) for answer in answers]
        self.assertEqual(1, len(writes))
        lines = self.path.read_text().splitlines()
        self.assertEqual(5, len(lines))
        for record in made:
            mine = [line for line in lines if line.endswith(record.uuid)]
            self.assertIn(f'permitlisten="{record.loopback}:5097"', mine[0])
            self.assertIn(record.se_key, mine[0])
        known = (self.site.folder / "known_hosts").read_text()
        self.assertIn(f"[{made[0].loopback}]:5097 {made[0].host_key}", known)

    def test_a_change_during_a_write_is_written_after_it_and_a_rest_as_long(self):
        waiting = self.slow_disk()
        self.site.permits.start()
        self.enrol("se-1")
        self.site.clock.advance(0)
        second = self.enrol("se-2")
        self.site.clock.advance(1.0)
        self.assertEqual(1, len(self.path.read_text().splitlines()))
        waiting[0].callback(None)
        self.site.clock.advance(0.9)
        self.assertEqual(1, len(self.path.read_text().splitlines()))
        self.site.clock.advance(0.2)
        self.assertEqual(2, len(self.path.read_text().splitlines()))
        self.assertNoResult(second)
        waiting[1].callback(None)
        self.successResultOf(second)

    def test_an_engine_is_answered_only_once_openssh_knows_its_host_key(self):
        waiting = self.slow_disk()
        self.site.permits.start()
        self.site.clock.advance(0)
        waiting[0].callback(None)
        answer = self.enrol("se-1")
        self.assertNoResult(answer)
        self.site.clock.advance(0)
        self.assertNoResult(answer)
        waiting[1].callback(None)
        record = self.successResultOf(answer)
        self.assertIn(record.host_key, (self.site.folder / "known_hosts").read_text())

    def test_an_engine_that_asks_again_during_the_write_waits_for_it_too(self):
        waiting = self.slow_disk()
        self.site.permits.start()
        _, token = run(self.site.engines.create("se-1", "web"))
        body = self.site.machine().request(token.text)
        for _ in range(2):
            answer = Deferred.fromCoroutine(self.site.enrolment.enrol(body, "10.0.0.7"))
            self.site.clock.advance(0)
            self.assertNoResult(answer)
        waiting[0].callback(None)
        self.successResultOf(answer)

    def test_records_that_say_the_same_to_ssh_are_not_written_again(self):
        self.site.permits.start()
        self.enrol("se-1")
        self.site.clock.advance(0)
        writes = []
        self.site.permits.in_thread = lambda call: (writes.append(1), execute(call))[1]
        self.site.permits.update_all(self.site.engines.all())
        self.site.clock.advance(0)
        self.assertEqual([], writes)
        self.site.permits.rules = attrs.evolve(self.site.permits.rules, networks=lambda _: ("10.0.0.0/8",))
        self.site.permits.update_all(self.site.engines.all())
        self.site.clock.advance(0)
        self.assertEqual([1], writes)
        self.assertIn('from="10.0.0.0/8"', self.path.read_text())

    def test_a_failed_write_is_told_in_a_line_and_tried_again(self):
        self.site.permits.in_thread = lambda call: fail(OSError(28, "No space left on device"))
        self.site.permits.start()
        answer = self.enrol("se-1")
        with capturedLogs() as logs:
            self.site.clock.advance(0)
        (line,) = [formatEvent(one) for one in logs if one["log_level"] is LogLevel.error]
        self.assertEqual(f"could not write {self.path}: [Errno 28] No space left on device", line)
        self.successResultOf(answer)
        self.successResultOf(self.site.permits.written())
        self.site.permits.in_thread = execute
        self.site.clock.advance(RETRY_S)
        self.assertEqual(1, len(self.path.read_text().splitlines()))

    def test_stopping_writes_what_is_outstanding(self):
        self.site.permits.start()
        self.enrol("se-1")
        run(self.site.permits.stop())
        self.assertEqual(1, len(self.path.read_text().splitlines()))

    def test_stopping_during_a_write_writes_what_came_meanwhile_and_leaves_no_timer(self):
        waiting = self.slow_disk()
        self.site.permits.start()
        self.enrol("se-1")
        self.site.clock.advance(0)
        answer = self.enrol("se-2")
        stopped = Deferred.fromCoroutine(self.site.permits.stop())
        waiting[0].callback(None)
        waiting[1].callback(None)
        self.successResultOf(stopped)
        self.successResultOf(answer)
        self.assertEqual(2, len(self.path.read_text().splitlines()))
        pending = [
            call
            for call in self.site.clock.getDelayedCalls()
            if call.getTime() < self.site.clock.seconds() + 60
        ]
        self.assertEqual([], pending)

    def test_a_deleted_engine_leaves_the_files(self):
        self.site.permits.start()
        answer = self.enrol("se-1")
        self.site.clock.advance(0)
        run(self.site.engines.delete(self.successResultOf(answer).uuid))
        self.site.clock.advance(0)
        self.assertEqual("", self.path.read_text())

    def test_the_groups_networks_appear_as_from(self):
        self.site.set_group(allowed_networks=("10.0.0.0/8",))
        self.site.permits.start()
        self.enrol("se-1")
        self.site.clock.advance(0)
        self.assertIn('from="10.0.0.0/8"', self.path.read_text())


class Restart(SynchronousTestCase):
    def test_everything_known_is_known_again(self):
        site = Site()
        _made, token = run(site.engines.create("se-1", "web"))
        record = site.enrol(site.machine().request(token.text))
        gone, _ = run(site.engines.create("se-2", "web"))
        run(site.engines.delete(gone.uuid))
        site.restart()
        self.assertEqual((record,), site.engines.all())
        self.assertEqual(record.se_key, site.permits.keys.by_se(record.uuid).key)
        self.assertEqual(Lifecycle.DELETED, site.engines.find(gone.uuid).lifecycle)
        third, _ = run(site.engines.create("se-3", "web"))
        self.assertNotIn(third.loopback, {record.loopback, gone.loopback})

    def test_records_of_a_newer_version_are_read_with_what_is_known(self):
        site = Site()
        made, _ = run(site.engines.create("se-1", "web"))
        entry = run(site.store.get(f"se/{made.uuid}"))
        newer = msgspec.json.decode(entry.value) | {"colour": "blue"}
        from avinet.store.interface import Put

        run(site.store.transact([], [Put(entry.key, msgspec.json.encode(newer))]))
        site.restart()
        self.assertEqual("se-1", site.engines.find(made.uuid).name)


class Scaffolding(SynchronousTestCase):
    def test_run_refuses_what_waits(self):
        self.assertEqual(1, run(succeed(1)))
        with self.assertRaises(AssertionError):
            run(Deferred())
        self.assertIsNotNone(Clock())
