"""Changes of configuration: one version each, whole or not at all, whatever happens on the way."""

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller import config_entries, config_store
from avinet.controller.config_entries import (
    CHANGE,
    CHECKPOINT,
    HEAD,
    VERSION,
    ConfigDamagedError,
    VersionRecord,
    decoded,
)
from avinet.controller.config_errors import (
    ConfigBusyError,
    ObjectExistsError,
    ObjectInUseError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StaleError,
    VersionRequiredError,
)
from avinet.controller.config_store import HistoryLimits
from avinet.controller.configuration import Terms
from avinet.errors import AvinetError
from avinet.model.problems import InvalidConfigError
from avinet.store.interface import Delete, Put, StoreFullError, StoreUnavailableError
from avinet.units import KIB
from tests.unit.config_kit import World, pool, run, service


def big_pool(number, port=80):
    """About 4 KiB as stored."""
    servers = [{"ip": f"10.0.{number % 250}.{n}", "port": port, "hostname": "h" * 40} for n in range(30)]
    return {"kind": "Pool", "name": f"pool-{number:04d}", "servers": servers}


class Case(SynchronousTestCase):
    def setUp(self):
        self.world = World()

    def names(self, config=None, kind="pool"):
        now = (config or self.world.config).current
        return sorted(s.thing.name for s in now.objects.values() if s.thing.uuid.startswith(kind))

    def staged(self):
        """Pieces that no version names."""
        changes = {key.split("/")[2] for key in self.world.stored_keys(CHANGE)}
        entries = run(self.world.store.list(VERSION)).entries
        named = {decoded(e.value, VersionRecord, e.key).change for e in entries}
        return changes - named


class Changing(Case):
    def test_a_new_cluster_begins_with_version_1_once(self):
        self.assertEqual(self.world.config.current.version, 1)
        self.assertEqual(self.world.config.group("Default-Group").name, "Default-Group")
        self.assertIsNone(self.world.config.group("other"))
        self.world.restart()
        self.assertEqual(self.world.config.current.version, 1)

    def test_a_change_is_one_version_and_outlives_a_restart(self):
        applied = self.world.apply(pool(), service())
        self.assertEqual((applied.version, applied.plan.created), (2, ("pool/web", "virtualservice/www")))
        before = self.world.config.current
        self.world.restart()
        self.assertEqual(self.world.config.current.objects, before.objects)
        self.assertEqual(self.world.config.current.version, 2)
        self.assertEqual(self.world.config.fence.version, 2)

    def test_what_changes_nothing_makes_no_version_and_no_write(self):
        self.world.apply(pool())
        before = run(self.world.store.list(""))
        self.assertEqual(self.world.apply(pool()).version, 2)
        self.assertEqual(run(self.world.store.list("")), before)

    def test_a_small_change_is_one_transaction(self):
        writes = self.world.store.writes
        self.world.apply(pool(), service())
        self.assertEqual(self.world.store.writes, writes + 1)

    def test_a_dry_run_tells_and_writes_nothing(self):
        writes, keys = self.world.store.writes, self.world.stored_keys()
        told = []
        self.world.config.listen(told.append)
        applied = self.world.apply(pool(), terms=Terms(dry_run=True))
        self.assertEqual((applied.version, applied.plan.created), (1, ("pool/web",)))
        self.assertEqual((self.world.store.writes, self.world.stored_keys(), told), (writes, keys, []))
        self.assertEqual(self.names(), [])

    def test_five_hundred_objects_are_one_version(self):
        applied = self.world.apply(*(big_pool(n) for n in range(500)))
        self.assertEqual((applied.version, len(applied.plan.created)), (2, 500))
        self.world.restart()
        self.assertEqual((self.world.config.current.version, len(self.names())), (2, 500))
        again = self.world.apply(*(big_pool(n, 81 if n == 7 else 80) for n in range(500)))
        self.assertEqual((again.version, again.plan.updated), (3, ("pool/pool-0007",)))

    def test_thousands_of_long_names_are_not_too_much_for_one_version(self):
        documents = [{"kind": "Pool", "name": f"{n:05d}" + "\u00e9" * 120} for n in range(6000)]
        self.assertEqual(self.world.apply(*documents).version, 2)
        self.world.restart()
        self.assertEqual(len(self.names()), 6000)

    def test_listeners_hear_of_a_version_once_the_store_has_it(self):
        told = []
        self.world.config.listen(lambda now: told.append((now.version, len(self.world.stored_keys(VERSION)))))
        self.world.apply(pool())
        self.assertEqual(told, [(2, 2)])

    def test_an_invalid_change_writes_nothing(self):
        writes = self.world.store.writes
        self.assertRaises(InvalidConfigError, self.world.apply, pool(), service(port=0))
        self.assertEqual(self.world.store.writes, writes)

    def test_an_object_that_is_too_large_is_refused(self):
        self.patch(config_entries, "MAX_OBJECT_BYTES", 10)
        import avinet.controller.configuration as configuration

        self.patch(configuration, "MAX_OBJECT_BYTES", 10)
        why = self.assertRaises(ObjectTooLargeError, self.world.apply, pool())
        self.assertIn("pool/web", str(why))

    def test_a_full_store_changes_nothing(self):
        transact = self.world.store.transact
        self.world.store.transact = lambda *args: fail(StoreFullError(where="here", detail="full"))
        self.assertRaises(StoreFullError, self.world.apply, pool())
        self.assertEqual((self.names(), self.world.config.current.version), ([], 1))
        self.world.store.transact = transact
        self.assertEqual(self.world.apply(pool()).version, 2)

    def test_a_stored_configuration_that_does_not_read_is_told_by_its_key(self):
        run(self.world.store.transact([], [Put(HEAD, b"\xc1")]))
        why = self.assertRaises(ConfigDamagedError, self.world.restart)
        self.assertEqual(why.key, HEAD)

    def test_a_missing_piece_is_damage_and_not_a_smaller_configuration(self):
        self.world.apply(pool())
        piece = next(e.key for e in run(self.world.store.list(CHANGE)).entries if b"web" in e.value)
        run(self.world.store.transact([], [Delete(piece)]))
        self.assertRaises(ConfigDamagedError, self.world.restart)


class Objects(Case):
    def setUp(self):
        super().setUp()
        self.world.apply(pool(), service())

    def modified(self, name="web", kind="pool"):
        return str(self.world.config.find(kind, name).modified_us)

    def replace(self, document, expected):
        return run(self.world.config.replace("pool", "web", document, "tester", expected))

    def test_one_is_created_unless_it_exists(self):
        made = run(self.world.config.create("pool", pool("b"), "tester"))
        self.assertEqual(made, self.world.config.find("pool", "b"))
        self.assertRaises(ObjectExistsError, run, self.world.config.create("pool", pool("b"), "tester"))

    def test_a_replacement_needs_the_version_it_is_based_on(self):
        self.assertRaises(VersionRequiredError, self.replace, pool(), None)
        self.assertRaises(StaleError, self.replace, pool(), "1")
        before = self.modified()
        made = self.replace(pool("web", 81), before)
        self.assertGreater(made.modified_us, int(before))
        self.assertRaises(StaleError, self.replace, pool("web", 82), before)

    def test_a_clock_that_stands_still_or_goes_back_still_tells_changes_apart(self):
        seen = [self.modified()]
        self.world.clock.rightNow -= 1000
        for port in (81, 82, 83):
            self.replace(pool("web", port), seen[-1])
            seen.append(self.modified())
        self.assertEqual(sorted(set(seen), key=int), seen)

    def test_what_is_not_there_is_not_found(self):
        self.assertRaises(ObjectNotFoundError, self.world.config.find, "pool", "none")
        self.assertRaises(ObjectNotFoundError, run, self.world.config.delete("pool", "none", "tester"))

    def test_a_delete_is_a_version_and_outlives_a_restart(self):
        run(self.world.config.delete("virtualservice", "www", "tester"))
        applied = run(self.world.config.delete("pool", "web", "tester", self.modified()))
        self.assertEqual((applied.version, applied.plan.deleted), (4, ("pool/web",)))
        self.world.restart()
        self.assertEqual(self.names(), [])

    def test_an_object_that_something_else_needs_stays(self):
        run(self.world.config.delete("virtualservice", "www", "tester"))
        config = self.world.config
        config.in_use = lambda thing: "2 service engines belong to it" if thing.name == "web" else ""
        failure = self.failureResultOf(Deferred.fromCoroutine(config.delete("pool", "web", "me")))
        self.assertIn("2 service engines", str(failure.check(ObjectInUseError) and failure.value))
        self.assertEqual(self.names(), ["web"])

    def test_a_stale_delete_is_refused(self):
        self.assertRaises(StaleError, run, self.world.config.delete("virtualservice", "www", "tester", "1"))


class Unchanged(Case):
    def test_that_nothing_changes_is_the_stores_to_say(self):
        self.world.apply(pool("web"))
        self.world.store.fail_call(0, committed=False)
        with self.assertRaises(StoreUnavailableError):
            self.world.apply(pool("web"))
        self.assertTrue(self.world.apply(pool("web")).plan.empty)

    def test_what_another_changed_meanwhile_is_changed_back(self):
        self.world.apply(pool("web"))
        other = self.world.other()
        run(other.apply([pool("web", 81)], "tester"))
        self.assertFalse(self.world.apply(pool("web")).plan.empty)
        self.assertEqual(self.world.config.current.version, 4)


class Crashes(Case):
    """The store fails at each call in turn, before or after its effect; then the controller starts again."""

    DOCUMENTS = tuple(big_pool(n) for n in range(50))
    """Four pieces, as the store has them here: 200 of usual ones, at a quarter of the time."""

    def setUp(self):
        super().setUp()
        self.patch(config_entries, "PIECE_BYTES", 64 * KIB)

    def test_whatever_step_fails_a_change_is_there_whole_or_not_at_all(self):
        outcomes = set()
        for committed in (False, True):
            step = 0
            while True:
                self.world = World()
                self.world.apply(pool("old"))
                self.world.store.fail_call(step, committed=committed)
                try:
                    self.world.apply(*self.DOCUMENTS)
                except StoreUnavailableError:
                    done = False
                else:
                    done = True
                finished = done and self.world.store.calls <= self.world.store._fail_call
                self.world.store.heal()
                self.world.restart()
                names = self.names()
                self.assertIn(len(names), (1, 51), f"step {step}")
                self.assertEqual(self.world.config.current.version, 2 if len(names) == 1 else 3)
                if done:
                    self.assertEqual(len(names), 51)
                self.assertEqual(self.staged(), set())
                self.assertEqual(len(self.world.apply(*self.DOCUMENTS).plan.unchanged), len(names) - 1)
                outcomes.add((done, len(names)))
                if finished:
                    break
                step += 1
            self.assertGreater(step, 2, "the change should take several steps")
        self.assertLessEqual({(True, 51), (False, 1), (False, 51)}, outcomes)

    def test_a_failed_change_can_be_repeated_without_a_restart(self):
        for committed in (False, True):
            for step in range(4):
                self.world = World()
                self.world.store.fail_call(step, committed=committed)
                try:
                    self.world.apply(*self.DOCUMENTS)
                except StoreUnavailableError:
                    self.world.store.heal()
                    self.world.apply(*self.DOCUMENTS)
                self.world.store.heal()
                self.assertEqual(len(self.names()), 50)
                before = self.world.config.current
                self.world.restart()
                self.assertEqual(self.world.config.current.objects, before.objects)

    def test_leftovers_of_a_writer_that_died_are_removed_at_the_next_start(self):
        run(
            self.world.store.transact(
                [], [Put(f"{CHANGE}dead/00000", b"x"), Put(f"{CHECKPOINT}dead/0", b"x")]
            )
        )
        self.world.restart()
        self.assertEqual([k for k in self.world.stored_keys() if "dead" in k], [])

    def test_a_failed_checkpoint_does_not_fail_the_change(self):
        self.patch(config_store, "CHECKPOINT_EVERY", 2)
        step = 0
        while True:
            self.world = World(HistoryLimits(versions=1))
            self.world.store.fail_call(1 + step, committed=step % 2 == 0)
            self.assertEqual(self.world.apply(pool("a")).version, 2)
            reached = self.world.store.calls > self.world.store._fail_call
            self.world.store.heal()
            self.world.restart()
            self.assertEqual(self.names(), ["a"])
            self.world.apply(pool("b"))
            self.world.apply(pool("c"))
            self.world.restart()
            self.assertEqual(self.names(), ["a", "b", "c"])
            if not reached:
                break
            step += 1
        self.assertGreater(step, 3)


class Checkpoints(Case):
    def test_the_store_stays_bounded_however_many_versions_come(self):
        self.patch(config_store, "CHECKPOINT_EVERY", 5)
        self.world = World(HistoryLimits(versions=10))
        sizes = []
        for n in range(60):
            self.world.apply(pool("web", 1 + n))
            sizes.append(len(self.world.stored_keys()))
        self.assertLess(max(sizes), 40)
        before = self.world.config.current
        self.world.restart()
        self.assertEqual((self.world.config.current.version, before.version), (61, 61))
        self.assertEqual(self.world.config.current.objects, before.objects)

    def test_a_start_right_after_a_checkpoint_and_later_reads_the_same(self):
        self.patch(config_store, "CHECKPOINT_EVERY", 3)
        for n in range(10):
            self.world.apply(pool(f"p{n}"))
            before = self.world.config.current
            self.world.restart()
            self.assertEqual(self.world.config.current.objects, before.objects)
            self.assertEqual(self.world.config.current.version, before.version)


class Racing(Case):
    def test_the_slower_writer_plans_again_on_what_the_other_made(self):
        other = self.world.other()
        run(other.apply([pool("theirs")], "other"))
        told = []
        self.world.config.listen(lambda now: told.append(now.version))
        self.assertEqual(self.world.apply(pool("ours")).version, 3)
        self.assertEqual(self.names(), ["ours", "theirs"])
        self.assertEqual(told[-1], 3)
        self.assertEqual(self.staged(), set())
        run(other.load())
        self.assertEqual(self.names(other), ["ours", "theirs"])

    def test_what_became_wrong_meanwhile_is_refused(self):
        self.world.apply(pool())
        other = self.world.other()
        run(other.delete("pool", "web", "other"))
        self.assertRaises(InvalidConfigError, self.world.apply, service())

    def test_a_stale_replacement_loses_against_another_writer(self):
        self.world.apply(pool())
        expected = str(self.world.config.find("pool", "web").modified_us)
        other = self.world.other()
        self.world.clock.advance(1)
        run(other.apply([pool("web", 81)], "other"))
        replacing = self.world.config.replace("pool", "web", pool("web", 82), "tester", expected)
        self.assertRaises(StaleError, run, replacing)

    def test_pieces_that_another_writer_swept_are_noticed(self):
        """The other starts while this one has staged its pieces: it takes them for leftovers."""
        transact, swept = self.world.store.transact, []

        def race(compares, operations):
            if compares and not swept:
                swept.append(self.world.other())
            return transact(compares, operations)

        self.world.store.transact = race
        self.world.apply(*(big_pool(n) for n in range(200)))
        self.world.store.transact = transact
        self.assertTrue(swept)
        self.world.restart()
        self.assertEqual(len(self.names()), 200)

    def test_endless_rivals_end_in_an_error_that_says_so(self):
        transact = self.world.store.transact
        count = []

        def race(compares, operations):
            if compares and len(count) < 100 and not getattr(self, "inside", False):
                self.inside = True
                count.append(1)
                other = self.world.other()
                run(other.apply([pool("web", len(count))], "other"))
                self.inside = False
            return transact(compares, operations)

        self.world.store.transact = race
        self.assertRaises(ConfigBusyError, self.world.apply, pool("ours"))

    def test_changes_at_one_controller_take_turns(self):
        transact, held = self.world.store.transact, []

        def slow(compares, operations):
            gate = Deferred()
            held.append(gate)
            return gate.addCallback(lambda _: transact(compares, operations))

        self.world.store.transact = slow
        done = []
        for name in ("a", "b", "c"):
            change = Deferred.fromCoroutine(self.world.config.apply([pool(name)], "tester"))
            change.addCallback(lambda applied: done.append(applied.version))
        while held:
            self.assertEqual(len(held), 1)
            held.pop().callback(None)
        self.assertEqual(done, [2, 3, 4])

    def test_a_large_change_is_computed_aside_and_its_rivals_wait_their_turn(self):
        waiting = []

        def aside(compute):
            waiting.append(compute)
            return Deferred().addCallback(lambda _: compute())

        held = []
        self.world.config.aside = lambda compute: held.append(aside(compute)) or held[-1]
        many = [pool(f"p-{n}") for n in range(100)]
        changes = [
            Deferred.fromCoroutine(self.world.config.apply(documents, "tester"))
            for documents in (many, [pool("small")])
        ]
        self.assertEqual([change.called for change in changes], [False, False])
        held[0].callback(None)
        self.assertEqual([self.successResultOf(change).version for change in changes], [2, 3])
        self.assertEqual(len(waiting), 1)

    def test_one_document_with_very_much_in_it_is_looked_at_aside(self):
        aside = []

        async def run_aside(compute):
            aside.append(compute)
            return compute()

        self.world.config.aside = run_aside
        self.world.apply(pool("small", *range(1, 40)))
        self.assertEqual(aside, [])
        config = self.world.config
        run(config.apply([pool("large", *range(1, 1000))], "tester"))
        run(config.create("pool", pool("created", *range(1, 1000)), "tester"))
        stored = run(
            config.replace(
                "pool", "created", pool("created", *range(1, 1100)), "tester", self.modified("created")
            )
        )
        self.assertEqual(len(stored.thing.servers), 1099)
        self.assertRaises(AvinetError, self.world.apply, pool("text", description="x" * 200_000))
        self.assertEqual(len(aside), 4)

    def modified(self, name):
        return str(self.world.config.find("pool", name).modified_us)

    def test_what_only_looks_keeps_no_change_waiting(self):
        looking = Deferred()
        self.world.config.aside = lambda compute: looking.addCallback(lambda _: compute())
        many = [pool(f"p-{n}") for n in range(100)]
        look = Deferred.fromCoroutine(self.world.config.apply(many, "tester", Terms(dry_run=True)))
        self.assertEqual(self.world.apply(pool("small")).version, 2)
        self.assertNoResult(look)
        looking.callback(None)
        self.assertEqual(len(self.successResultOf(look).plan.created), 100)

    def test_a_failed_change_lets_the_next_one_have_its_turn(self):
        self.assertRaises(AvinetError, self.world.apply, service())
        self.assertEqual(self.world.apply(pool()).version, 2)
