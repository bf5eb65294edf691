"""A whole store, copied: out of a file, into another kind of store, and back into a file."""

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.state_copy import TwoStoresError, move_in
from avinet.controller.state_engine_files import EngineFiles, Progress
from avinet.store.copying import Content, CopyDiffersError, check_same, fill, read_file, write_file
from avinet.store.interface import MAX_TXN_OPS, NO_LEASE, Entry, LeaseId, Put
from avinet.store.memory import MemoryStore
from avinet.store.storetime import Reading
from avinet.trust.files import private_dir
from tests.unit.quick_folder import quick_folder
from tests.unit.trust_kit import mode


def content(count=150, size=10):
    leased = Entry("token/1", b"se", 1, 1, LeaseId(7))
    plain = tuple(Entry(f"a/{n:04}", b"x" * size, n + 2, n + 2) for n in range(count))
    return Content((*plain, leased), {LeaseId(7): 1200.0}, 300)


def same(one, other):
    strip = lambda c: [(e.key, e.value, e.lease != NO_LEASE) for e in c.entries]
    return strip(one) == strip(other)


class Kit(SynchronousTestCase):
    def setUp(self):
        self.folder = quick_folder(self)
        self.now = Reading("boot", 1000.0, 5000.0)
        self.store = MemoryStore(Clock())

    def clocks(self):
        return self.now

    def done(self, work):
        return self.successResultOf(Deferred.fromCoroutine(work))

    def failed(self, work, kind):
        return self.failureResultOf(Deferred.fromCoroutine(work), kind).value


class Files(Kit):
    def test_a_file_gives_back_what_was_written_and_what_is_left_of_leases(self):
        path = self.folder / "store.db"
        write_file(path, content(), self.clocks)
        self.now = Reading("boot", 1100.0, 5100.0)
        found = read_file(path, self.clocks)
        self.assertTrue(same(found, content()))
        self.assertEqual(list(found.rests.values()), [1100.0])
        self.assertEqual(mode(path), 0o600)
        self.assertEqual([one.name for one in self.folder.iterdir()], ["store.db"])

    def test_what_a_cut_writing_left_is_no_obstacle(self):
        path = self.folder / "store.db"
        (self.folder / ".store.db.new").write_bytes(b"half")
        write_file(path, content(3), self.clocks)
        self.assertTrue(same(read_file(path, self.clocks), content(3)))

    def test_large_values_are_more_transactions(self):
        path = self.folder / "store.db"
        large = content(5, size=900_000)
        write_file(path, large, self.clocks)
        self.assertTrue(same(read_file(path, self.clocks), large))


class Filling(Kit):
    def test_a_store_has_it_all_and_nothing_else(self):
        self.successResultOf(self.store.transact((), [Put(f"left/{n}", b"") for n in range(MAX_TXN_OPS)]))
        self.done(fill(self.store, content()))
        self.done(check_same(self.store, content(), "here"))

    def test_what_differs_is_named(self):
        self.done(fill(self.store, content()))
        for operation, what in (
            (Put("a/0001", b"y"), "a/0001 differs"),
            (Put("more", b""), "more was not there"),
        ):
            self.successResultOf(self.store.transact((), [operation]))
            self.assertIn(what, str(self.failed(check_same(self.store, content(), "here"), CopyDiffersError)))
            self.done(fill(self.store, content()))
        fewer = content(149)
        self.assertIn(
            "a/0149 was not there", str(self.failed(check_same(self.store, fewer, "x"), CopyDiffersError))
        )
        more = content(151)
        self.assertIn(
            "a/0150 is missing", str(self.failed(check_same(self.store, more, "x"), CopyDiffersError))
        )

    def test_a_lease_that_ended_meanwhile_is_no_difference(self):
        self.done(fill(self.store, content(1)))
        lease = self.successResultOf(self.store.get("token/1")).lease
        self.successResultOf(self.store.revoke_lease(lease))
        self.done(check_same(self.store, content(1), "here"))


class Cut(Exception):  # noqa: N818 - what is cut is no error
    pass


class MovingIn(Kit):
    def setUp(self):
        super().setUp()
        self.files = EngineFiles(private_dir(self.folder / "etcd"))
        self.old = self.folder / "store.db"
        self.steps, self.cut_after = 0, None

    def in_thread(self, call, *arguments):
        return succeed(self.step(call, *arguments))

    def step(self, call, *arguments):
        """One thing that lasts; a crash can follow each."""
        result = call(*arguments)
        self.steps += 1
        if self.steps == self.cut_after:
            raise Cut
        return result

    def move(self, phase="copying", *, joining=False):
        progress = self.files.progress() or Progress(phase=phase, initial_cluster="c1=x", joining=joining)
        return move_in(self.files, progress, self.store, self.old, self.in_thread)

    def kept(self):
        return sorted(one.name[:18] for one in self.old.parent.iterdir() if one.name != "etcd")

    def test_a_store_moves_in_and_is_kept(self):
        write_file(self.old, content())
        self.assertEqual(self.done(self.move()).phase, "serving")
        self.done(check_same(self.store, content(), "here"))
        self.assertEqual(self.kept(), ["store.db.migrated-"])
        self.assertEqual(self.done(self.move()).phase, "serving")

    def test_a_controller_without_one_begins_empty(self):
        self.assertEqual(self.done(self.move()).phase, "serving")
        self.assertEqual(self.successResultOf(self.store.list("")).entries, ())

    def test_a_crash_after_any_step_is_gone_on_from(self):
        reached = EngineFiles.reached
        self.patch(EngineFiles, "reached", lambda files, progress: self.step(reached, files, progress))
        for cut_after in range(1, 20):
            self.files = EngineFiles(private_dir(self.folder / str(cut_after) / "etcd"))
            self.old = self.files.folder.parent / "store.db"
            store = self.store = MemoryStore(Clock())
            write_file(self.old, content())
            whole = store.transact
            store.transact = lambda *a, whole=whole: self.step(whole, *a)
            self.steps, self.cut_after = 0, cut_after
            outcome = []
            Deferred.fromCoroutine(self.move()).addBoth(outcome.append)
            self.cut_after = None
            self.assertEqual(self.done(self.move()).phase, "serving")
            self.done(check_same(store, content(), f"cut after {cut_after}"))
            self.assertEqual(self.kept(), ["store.db.migrated-"])
            if isinstance(outcome[0], Progress):
                self.assertGreater(cut_after, 5)
                return
            self.assertTrue(outcome[0].check(Cut), outcome)
        self.fail("it never came to its end")

    def test_two_stores_are_the_operators_to_choose_from(self):
        write_file(self.old, content(1))
        self.failed(self.move(joining=True), TwoStoresError)
        self.done(self.move())
        write_file(self.old, content(2))
        self.failed(self.move(), TwoStoresError)
        self.assertTrue(self.old.exists())
        self.done(check_same(self.store, content(1), "here"))
