"""The embedded store keeps the contract, and what it says is done is on the disk."""

import sqlite3
import stat
from importlib.resources import files
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet import sqlite_file as schema
from avinet.sqlite_file import SchemaNewerError, StoreDamagedError
from avinet.store.database import Database
from avinet.store.interface import Delete, Put, StoreFullError, StoreUnavailableError
from avinet.store.sqlite import MAX_WAITING, open_sqlite_store
from avinet.store.storetime import Reading
from avinet.store.threads import InPlace
from tests.unit.store_contract import StoreContract


class Machine:
    """The clocks of a machine that boots and whose wall clock is set, all driven by one test clock."""

    def __init__(self, clock):
        self.clock = clock
        self.boot_id = "boot-1"
        self.booted_at = 0.0
        self.wall_offset = 1_800_000_000.0

    def read(self):
        now = self.clock.seconds()
        return Reading(self.boot_id, now - self.booted_at, now + self.wall_offset)

    def reboot(self):
        self.boot_id += "x"
        self.booted_at = self.clock.seconds()


class Held:
    """A runner whose calls wait until they are let go, as a busy thread's do."""

    def __init__(self):
        self.calls = []
        self.hold = False

    def run(self, call):
        if not self.hold:
            return InPlace().run(call)
        done = Deferred()
        self.calls.append((call, done))
        return done

    def let_one_go(self):
        call, done = self.calls.pop(0)
        InPlace().run(call).chainDeferred(done)

    def stop(self):
        pass


class SqliteCase(SynchronousTestCase):
    """A store in a folder of the test's own."""

    path = None

    def make_store(self, clock, max_history=10_000, runner=None):
        if self.path is None:
            self.path = Path(self.mktemp())
            self.path.mkdir(parents=True)
            self.machine = Machine(clock)
        return self.successResultOf(
            open_sqlite_store(
                self.path / "store.db",
                clock,
                runner=runner or InPlace(),
                clocks=self.machine.read,
                max_history=max_history,
            )
        )


class SqliteContractTests(StoreContract, SqliteCase):
    """The contract in SQLite."""


class SqliteStoreTests(SqliteCase):
    """What only a store on a disk can do."""

    def setUp(self):
        self.clock = Clock()
        self.runner = Held()
        self.store = self.make_store(self.clock, runner=self.runner)

    def tearDown(self):
        self.runner.hold = False
        self.successResultOf(self.store.close())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def do(self, *operations):
        return self.successResultOf(self.store.transact((), operations))

    def get(self, key):
        return self.successResultOf(self.store.get(key))

    def reopen(self):
        self.successResultOf(self.store.close())
        self.store = self.make_store(self.clock, runner=self.runner)

    def test_what_was_written_is_there_after_reopening_with_its_revision(self):
        self.do(Put("a", b"1"))
        self.do(Put("b", b"2"), Delete("a"))
        self.reopen()
        self.assertEqual(self.get("b").value, b"2")
        self.assertIsNone(self.get("a"))
        self.assertEqual(self.do(Put("c", b"")).revision, 3)

    def test_what_was_acknowledged_survives_a_process_that_never_closes(self):
        self.do(Put("a", b"1"))
        copy = self.path / "copy"
        copy.mkdir()
        for name in ("store.db", "store.db-wal"):
            (copy / name).write_bytes((self.path / name).read_bytes())
        database = Database(copy / "store.db", self.machine.read)
        self.addCleanup(database.close)
        self.assertEqual(database.get(b"a").value, b"1")

    def test_the_file_is_private(self):
        self.do(Put("a", b"1"))
        for name in ("store.db", "store.db-wal"):
            self.assertEqual(stat.S_IMODE((self.path / name).stat().st_mode), 0o600)

    def test_it_is_as_durable_as_it_says(self):
        connection = self.store._database._connection
        pragmas = [
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]
        self.assertEqual(pragmas, ["wal", 2])

    def test_a_second_process_on_the_same_file_is_refused(self):
        self.patch(schema, "LOCK_TIMEOUT_S", 0.01)
        opening = open_sqlite_store(self.path / "store.db", self.clock, runner=InPlace())
        self.assertIn("another process", str(self.failureResultOf(opening, StoreUnavailableError).value))

    # group commit

    def count_commits(self):
        commits = []
        self.store._database._connection.set_trace_callback(
            lambda statement: commits.append(1) if statement == "COMMIT" else None
        )
        return commits

    def test_transactions_that_wait_share_one_commit_each_with_its_own_outcome(self):
        commits = self.count_commits()
        self.runner.hold = True
        first = self.store.transact((), [Put("a", b"1")])
        waiting = [self.store.transact((), [Put(f"k{n}", b"")]) for n in range(50)]
        lost = self.store.transact((), [Put("l", b"", 77)])
        read = self.store.get("k49")
        self.runner.let_one_go()
        self.assertEqual(self.successResultOf(first).revision, 1)
        self.assertNoResult(waiting[0])
        self.runner.let_one_go()
        self.assertEqual([self.successResultOf(d).revision for d in waiting], list(range(2, 52)))
        self.failureResultOf(lost)
        self.assertEqual(self.successResultOf(read).revision, 51)
        self.assertEqual(len(commits), 2)

    def test_nothing_is_answered_before_it_is_committed(self):
        self.runner.hold = True
        write = self.store.transact((), [Put("a", b"1")])
        read = self.store.get("a")
        self.assertNoResult(write)
        self.assertNoResult(read)
        self.runner.let_one_go()
        self.runner.let_one_go()
        self.assertEqual(self.successResultOf(read).value, b"1")

    def test_work_over_the_bound_is_refused_and_the_rest_done(self):
        self.runner.hold = True
        accepted = [self.store.get("a") for _ in range(MAX_WAITING + 1)]
        refused = self.store.get("a")
        self.assertIn("waiting", str(self.failureResultOf(refused, StoreUnavailableError).value))
        while self.runner.calls:
            self.runner.let_one_go()
        self.assertEqual({self.successResultOf(d) for d in accepted}, {None})

    def test_closing_finishes_what_waits(self):
        self.runner.hold = True
        write = self.store.transact((), [Put("a", b"1")])
        second = self.store.transact((), [Put("b", b"1")])
        closing = self.store.close()
        self.failureResultOf(self.store.get("a"), StoreUnavailableError)
        for _ in range(3):
            self.assertNoResult(closing)
            self.runner.let_one_go()
        self.successResultOf(closing)
        self.assertEqual([self.successResultOf(d).revision for d in (write, second)], [1, 2])

    # a full disk

    def fill(self, pages=0):
        connection = self.store._database._connection
        used = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {used + pages}")

    def test_a_full_disk_refuses_writes_and_the_store_stays_up(self):
        self.do(Put("a", b"1"))
        self.fill()
        error = self.failureResultOf(
            self.store.transact((), [Put("big", bytes(100_000))]), StoreFullError
        ).value
        self.assertIn("store.db", str(error))
        self.assertEqual(self.get("a").value, b"1")
        self.assertIsNone(self.get("big"))
        self.fill(1000)
        self.assertEqual(self.do(Put("big", bytes(100_000))).revision, 2)

    def test_one_transaction_too_many_does_not_fail_those_beside_it(self):
        self.fill(8)
        watched = []
        self.store.watch("", 0, watched.extend, lambda why: None)
        self.runner.hold = True
        first = self.store.transact((), [Put("a", b"1")])
        big = self.store.transact((), [Put("big", bytes(100_000))])
        small = self.store.transact((), [Put("c", b"3")])
        self.runner.let_one_go()
        self.runner.let_one_go()
        self.failureResultOf(big, StoreFullError)
        self.assertEqual([self.successResultOf(d).revision for d in (first, small)], [1, 2])
        self.clock.advance(0)
        self.assertEqual([(c.key, c.revision) for c in watched], [("a", 1), ("c", 2)])

    # leases

    def leased(self, ttl_s=3600.0):
        lease = self.successResultOf(self.store.grant_lease(ttl_s))
        self.do(Put("token", b"", lease))

    def test_leases_go_on_counting_while_closed(self):
        self.leased()
        self.successResultOf(self.store.close())
        self.clock.advance(3500)
        self.reopen()
        self.assertIsNotNone(self.get("token"))
        self.successResultOf(self.store.close())
        self.clock.advance(200)
        self.reopen()
        self.assertIsNone(self.get("token"))

    def test_a_wall_clock_that_jumps_ends_no_lease_and_prolongs_none(self):
        for jump in (20 * 365 * 86400, -40 * 365 * 86400):
            self.leased()
            self.machine.wall_offset += jump
            self.clock.advance(3500)
            self.reopen()
            self.assertIsNotNone(self.get("token"))
            self.clock.advance(200)
            self.assertIsNone(self.get("token"))

    def test_a_reboot_counts_by_the_wall_clock(self):
        self.leased()
        self.clock.advance(1000)
        self.machine.reboot()
        self.reopen()
        self.clock.advance(2500)
        self.assertIsNotNone(self.get("token"))
        self.clock.advance(200)
        self.assertIsNone(self.get("token"))

    def test_a_reboot_into_the_past_does_not_give_a_lease_more_than_its_time(self):
        self.leased()
        self.machine.reboot()
        self.machine.wall_offset = 0
        self.reopen()
        self.clock.advance(3601)
        self.assertIsNone(self.get("token"))

    def test_a_lease_that_ended_while_closed_is_reported_by_the_revision_it_costs(self):
        self.leased(10)
        self.successResultOf(self.store.close())
        self.clock.advance(11)
        self.reopen()
        self.assertEqual(self.successResultOf(self.store.list("")).revision, 2)

    # the file

    def test_a_newer_schema_is_refused_and_left_alone(self):
        self.successResultOf(self.store.close())
        path = self.path / "store.db"
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        before = path.read_bytes()
        error = self.failureResultOf(
            open_sqlite_store(path, self.clock, runner=InPlace()), SchemaNewerError
        ).value
        self.assertEqual((error.found, error.known), (99, 1))
        self.assertEqual(path.read_bytes(), before)

    def test_an_upgrade_makes_a_backup_first_and_is_whole_or_not_at_all(self):
        self.do(Put("a", b"1"))
        self.successResultOf(self.store.close())
        path = self.path / "store.db"
        first = schema._scripts(files("avinet.store") / "migrations")
        self.patch(
            schema, "_scripts", lambda folder: [*first, "CREATE TABLE extra (x); CREATE TABLE entry (y)"]
        )
        self.failureResultOf(open_sqlite_store(path, self.clock, runner=InPlace()), StoreUnavailableError)
        with sqlite3.connect(path) as connection:
            self.assertEqual(connection.execute("PRAGMA user_version").fetchone(), (1,))
            self.assertEqual(
                connection.execute("SELECT name FROM sqlite_master WHERE name = 'extra'").fetchall(), []
            )
        connection.close()
        self.patch(schema, "_scripts", lambda folder: [*first, "CREATE TABLE extra (x)"])
        self.store = self.make_store(self.clock, runner=self.runner)
        self.assertEqual(self.get("a").value, b"1")
        backup = self.path / "store.db.v1.backup"
        self.assertEqual(stat.S_IMODE(backup.stat().st_mode), 0o600)
        copy = Database.__new__(Database)
        copy._connection = sqlite3.connect(backup)
        self.addCleanup(copy._connection.close)
        self.assertEqual(copy.get(b"a").value, b"1")

    def test_a_file_that_is_no_database_is_named_as_damaged(self):
        path = self.path / "other.db"
        path.write_bytes(b"this is not a database" * 100)
        error = self.failureResultOf(
            open_sqlite_store(path, self.clock, runner=InPlace()), StoreDamagedError
        ).value
        self.assertIn(str(path), str(error))

    def test_a_folder_that_is_missing_is_a_clear_error(self):
        path = self.path / "no" / "store.db"
        opening = open_sqlite_store(path, self.clock, runner=InPlace())
        self.assertIn("No such file", str(self.failureResultOf(opening, StoreUnavailableError).value))
