"""The versions that were: shown, compared, gone back to, also after restarts, and bounded."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller import config_store
from avinet.controller.config_entries import CHANGE, CHECKPOINT, VERSION
from avinet.controller.config_errors import ConfigMovedError, NoteError
from avinet.controller.config_store import HistoryLimits
from avinet.controller.configuration import Terms
from avinet.controller.history import NoSuchVersionError, VersionGoneError
from avinet.model.configuration import Configuration
from avinet.model.diff import diff
from avinet.model.problems import InvalidConfigError
from avinet.model.rollback import RollbackRefusedError
from avinet.units import KIB
from tests.unit.config_kit import World, pool, run, service


class Case(SynchronousTestCase):
    def setUp(self):
        self.world = World()

    @property
    def config(self):
        return self.world.config

    def past(self, version):
        return run(self.config.history.past(self.config.current, version))

    def things(self, configuration):
        return {uuid: stored.thing for uuid, stored in configuration.objects.items()}

    def roll_back(self, version, **terms):
        return run(self.config.roll_back(version, "olga", Terms(**terms)))


class Showing(Case):
    def test_every_version_can_be_had_again_after_restarts_and_checkpoints(self):
        self.patch(config_store, "CHECKPOINT_EVERY", 4)
        states = {1: self.config.current}
        for n in range(15):
            if n % 3 == 2:
                run(self.config.delete("pool", f"p{n - 1}", "tester"))
            else:
                self.world.apply(pool(f"p{n}"), pool("web", 8000 + n))
            states[self.config.current.version] = self.config.current
            if n % 5 == 0:
                self.world.restart()
        for version, state in states.items():
            past = self.past(version)
            self.assertEqual(past.after.objects, state.objects, version)
            self.assertEqual(past.before.objects, states.get(version - 1, Configuration()).objects)

    def test_a_version_says_who_and_what_and_why(self):
        self.world.apply(pool(), terms=Terms(note="CHG-1: new web"))
        self.world.clock.advance(5)
        self.world.apply(pool("web", 81))
        newest, older, first = run(self.config.history.records())
        self.assertEqual((newest.version, newest.updated, newest.objects), (3, ("pool/web",), 1))
        self.assertEqual(
            (older.note, older.author, older.created), ("CHG-1: new web", "tester", ("pool/web",))
        )
        self.assertEqual((first.version, first.author), (1, "system"))
        self.assertEqual(newest.at - older.at, 5)
        past = self.past(3)
        (change,) = diff(past.before, past.after)
        self.assertEqual(
            [field.path for field in change.fields], ["servers[10.0.0.1:8080]", "servers[10.0.0.1:81]"]
        )

    def test_a_version_that_has_not_been_made_is_told_from_one_that_is_gone(self):
        self.assertRaises(NoSuchVersionError, self.past, 2)
        self.assertRaises(VersionGoneError, self.past, 0)

    def test_notes_that_do_not_fit_a_line_are_refused(self):
        for note in ("two\nlines", "n" * 501, "\x1b[31m"):
            self.assertRaises(NoteError, self.world.apply, pool(), terms=Terms(note=note))
        self.assertEqual(self.config.current.version, 1)


class Bounds(Case):
    def test_so_many_versions_are_kept_and_the_pieces_of_others_are_gone(self):
        self.patch(config_store, "CHECKPOINT_EVERY", 5)
        self.world = World(HistoryLimits(versions=7))
        for n in range(40):
            self.world.apply(pool("web", 1 + n))
            records = run(self.config.history.records())
            self.assertLessEqual(len(records), 7 + 5)
        self.assertEqual(len(self.world.stored_keys(VERSION)), len(self.world.stored_keys(CHANGE)))
        self.assertEqual(len(self.world.stored_keys(CHECKPOINT)), 1)
        oldest = records[-1].version
        self.assertEqual(self.past(oldest).after.find("pool", "web").thing.servers[0].port, oldest - 1)
        why = self.assertRaises(VersionGoneError, self.roll_back, oldest - 1)
        self.assertIn(f"is gone; oldest is {oldest}", str(why))

    def test_large_versions_are_fewer(self):
        self.patch(config_store, "CHECKPOINT_EVERY", 4)
        self.world = World(HistoryLimits(size=200 * KIB))
        for n in range(16):
            self.world.apply(pool("web", *range(1 + n, 1001 + n)))
        sizes = [record.size for record in run(self.config.history.records())]
        self.assertLessEqual(sum(sizes[4:]), 200 * KIB)
        self.assertGreater(len(sizes), 1)

    def test_a_few_large_changes_bring_a_checkpoint_too(self):
        self.patch(config_store, "CHECKPOINT_BYTES", 100 * KIB)
        self.world.apply(pool("web", *range(1, 1000)))
        self.world.apply(pool("web", *range(2, 1001)))
        self.assertGreater(self.config.stored.head.checkpoint_version, 0)

    def test_a_crash_while_old_versions_are_removed_leaves_what_can_be_read(self):
        self.patch(config_store, "CHECKPOINT_EVERY", 6)
        for step in range(1, 12):
            self.world = World(HistoryLimits(versions=1))
            for n in range(4):
                self.world.apply(pool("web", 1 + n))
            self.world.store.fail_call(step, committed=step % 2 == 0)
            self.world.apply(pool("web", 70))
            self.world.store.heal()
            self.world.restart()
            records = run(self.config.history.records())
            for record in records:
                self.past(record.version)
            self.assertEqual(records[0].version, 6)


class GoingBack(Case):
    def test_a_rollback_is_a_new_version_with_the_objects_of_the_old_one(self):
        self.world.apply(pool(), service())
        before = self.things(self.config.current)
        self.world.apply(pool("web", 81), pool("new"), service(enabled=False))
        run(self.config.delete("virtualservice", "www", "tester"))
        applied = self.roll_back(2, note="oops")
        self.assertEqual((applied.version, self.things(self.config.current)), (5, before))
        self.assertEqual(applied.plan.created, ("virtualservice/www",))
        self.assertEqual((applied.plan.updated, applied.plan.deleted), (("pool/web",), ("pool/new",)))
        record = run(self.config.history.records())[0]
        self.assertEqual((record.rolled_back_to, record.note, record.author), (2, "oops", "olga"))
        self.world.restart()
        self.assertEqual(self.things(self.config.current), before)
        self.roll_back(4)
        self.assertIsNone(self.config.current.find("virtualservice", "www"))

    def test_what_it_brings_back_counts_as_changed_now(self):
        self.world.apply(pool())
        first = self.config.find("pool", "web").modified_us
        self.world.apply(pool("web", 81))
        second = self.config.find("pool", "web").modified_us
        self.roll_back(2)
        self.assertGreater(self.config.find("pool", "web").modified_us, second)
        self.assertGreater(second, first)

    def test_to_where_one_is_makes_no_version(self):
        self.world.apply(pool())
        self.assertEqual(self.roll_back(2).version, 2)
        self.assertEqual(self.config.current.version, 2)

    def test_a_dry_run_names_what_changes_and_changes_nothing(self):
        self.world.apply(pool())
        writes = self.world.store.writes
        applied = self.roll_back(1, dry_run=True)
        self.assertEqual((applied.version, applied.plan.deleted), (2, ("pool/web",)))
        self.assertEqual((self.world.store.writes, self.config.current.version), (writes, 2))
        self.assertIsNone(applied.after.find("pool", "web"))

    def test_what_something_else_needs_keeps_it_from_being_done(self):
        self.world.apply({"kind": "ServiceEngineGroup", "name": "edge"}, pool())
        self.config.in_use = lambda thing: "2 service engines belong to it" if thing.name == "edge" else ""
        why = self.assertRaises(RollbackRefusedError, self.roll_back, 1)
        self.assertIn("serviceenginegroup edge", str(why))
        self.assertIn("2 service engines", str(why))
        self.assertEqual(self.config.current.version, 2)

    def test_what_is_against_the_rules_of_today_is_refused(self):
        self.world.apply(pool())
        self.world.apply(pool("web", 81))
        from avinet.model import rollback

        self.patch(rollback, "check_object", lambda thing: [("servers", "no server may be there any more")])
        why = self.assertRaises(RollbackRefusedError, self.roll_back, 2)
        self.assertEqual((why.problems[0].name, why.problems[0].path), ("web", "servers"))

    def test_while_another_writer_is_faster_it_goes_back_all_the_same(self):
        self.world.apply(pool())
        other = self.world.other()
        run(other.apply([pool("theirs")], "other"))
        self.assertEqual(self.roll_back(1).version, 4)
        self.assertEqual(self.config.current.all_of(object), self.past(1).after.all_of(object))

    def test_a_full_or_broken_store_leaves_what_there_was(self):
        self.world.apply(pool())
        before = self.config.current
        for step in range(4):
            self.world.store.fail_call(step, committed=False)
            done = Deferred.fromCoroutine(self.config.roll_back(1, "olga"))
            done.addErrback(lambda failure: None)
            self.world.store.heal()
            if self.config.current is not before:
                break
            self.world.restart()
            self.assertEqual(self.config.current.objects, before.objects)
        self.assertGreater(step, 0)


class TwoOperators(Case):
    def test_a_change_based_on_an_older_version_is_told_who_did_what_since(self):
        self.world.apply(pool())
        run(self.config.apply([pool("web", 81)], "anna"))
        why = self.assertRaises(ConfigMovedError, self.world.apply, pool("web", 82), terms=Terms(expected=2))
        self.assertEqual((why.now, why.expected), (3, 2))
        self.assertEqual(str(why).splitlines()[1:], ["  version 3 by anna (updated pool/web)"])
        self.assertIn("avinet config diff 2", str(why).splitlines()[0])
        self.assertEqual(self.world.apply(pool("web", 82), terms=Terms(expected=3)).version, 4)

    def test_a_rival_that_commits_in_between_is_noticed(self):
        other = self.world.other()
        run(other.apply([pool("theirs")], "otto"))
        why = self.assertRaises(ConfigMovedError, self.world.apply, pool("ours"), terms=Terms(expected=1))
        self.assertIn("otto", str(why))
        self.assertIsNone(self.config.current.find("pool", "ours"))

    def test_a_version_that_never_was_is_no_base(self):
        why = self.assertRaises(ConfigMovedError, self.world.apply, pool(), terms=Terms(expected=9))
        self.assertIn("never was", str(why))

    def test_a_wrong_change_is_wrong_whatever_it_expects(self):
        self.assertRaises(InvalidConfigError, self.world.apply, service(), terms=Terms(expected=1))
