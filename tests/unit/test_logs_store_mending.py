"""A catalogue that does not fit the files: the answers are what they were, and nothing that is here comes in twice."""

import os
import random
import shutil

from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.entries import Arrival, StoreFile
from avinet.logs.ledger import Ledger
from avinet.logs.ledger_damage import open_ledger
from avinet.logs.query.shapes import Query, Top
from avinet.logs.runs import Names
from avinet.logs.store import contents, engine, parquet
from avinet.logs.store.errors import LogWorkerDiedError
from avinet.logs.store.jobs import Describe
from avinet.logs.store.mending import Found, decide
from avinet.logs.store.upkeep import CLOSED_FILES
from avinet.model.ids import SeId
from tests.unit.log_store_kit import T0_US, line
from tests.unit.test_logs_store_embedded import KEEPING, CrashError, StoreCase

HOUR_US = 3_600_000_000
SPOOL = (SeId("se-1"), "a" * 32)


def found(name, *counters, whole=True):
    names = Names.of((*SPOOL, counter) for counter in counters) if counters else None
    return Found(StoreFile(name, 1, 2, len(counters), 100), names, whole)


class DecideTest(SynchronousTestCase):
    def decided(self, listed, unlisted, waiting=(), *, anew=False):
        made = decide(listed, unlisted, Names.of((*SPOOL, one) for one in waiting), anew=anew)
        return (
            {one.file.name: instead for one, instead in made.count},
            {one.file.name for one in made.remove},
            {one.file.name for one in made.aside},
        )

    def test_what_is_here_twice_goes_and_what_is_here_once_counts(self):
        a, b, merged = found("a", 1, 2), found("b", 3), found("m", 1, 2, 3)
        for listed, unlisted, waiting, expected in (
            # What a crash leaves: of an ingestion, of a merge before it is listed, and of one after.
            ((), (a,), (1, 2), ({}, {"a"}, set())),
            ((a, b), (merged,), (), ({}, {"m"}, set())),
            ((merged,), (a, b), (), ({}, {"a", "b"}, set())),
            # The ledger was lost.
            ((), (a, b), (), ({"a": (), "b": ()}, set(), set())),
            ((), (a, merged, b), (), ({"m": ()}, {"a", "b"}, set())),
            # It was set back, to before an ingestion or to before a merge.
            ((a,), (b,), (), ({"b": ()}, set(), set())),
            ((a,), (merged,), (), ({"m": ("a",)}, set(), set())),
            ((), (b,), (2,), ({"b": ()}, set(), set())),
            ((), (merged,), (3,), ({"m": ()}, set(), set())),
            # What cannot be: some of its own and some of another's.
            ((found("x", 2, 9),), (a,), (), ({}, set(), {"a"})),
        ):
            self.assertEqual(expected, self.decided(listed, unlisted, waiting))

    def test_files_that_say_nothing_count_only_where_there_is_no_list_at_all(self):
        self.assertEqual(({"o": ()}, set(), set()), self.decided((), (found("o"),), anew=True))
        self.assertEqual(({}, set(), {"o"}), self.decided((found("a", 1),), (found("o"),)))

    def test_a_listed_file_that_does_not_say_all_is_not_given_up_for_another(self):
        listed = (found("a", 1, whole=False),)
        self.assertEqual(({}, set(), {"m"}), self.decided(listed, (found("m", 1, 2),)))


class MendingTest(StoreCase):
    """Whole stores."""

    def setUp(self):
        self.sent = []
        super().setUp()

    def opened_ledger(self):
        return open_ledger(self.folder / "ledger.db")

    def start(self):
        """As after a crash; what was mended."""
        self.open()
        return self.mended

    def fill(self):
        """Merged files, small ones of several hours, and segments that wait; each record says which it is."""
        for n in range(CLOSED_FILES):
            self.receive(line(T0_US, path=f"/merged/{n}"))
            self.take()
        self.now_us += 2 * HOUR_US
        self.successResultOf(self.store.keep_up(KEEPING))
        for n in range(3):
            at = T0_US + n * HOUR_US
            self.receive(line(at, path=f"/small/{n}"), first_us=at, last_us=at)
            self.take()

    def answers(self):
        top = self.successResultOf(self.store.query(Query(shape=Top(("path",), 1_000))))
        return {row["path"]: row["count"] for row in top.results}

    def test_the_answers_are_the_same_wherever_the_ledger_was_damaged(self):
        self.fill()
        before, files = self.answers(), self.on_disk()
        self.assertEqual(CLOSED_FILES + 3, len(before))
        self.ledger.close()
        path = self.folder / "ledger.db"
        good, chance = path.read_bytes(), random.Random(1)
        pages = range(0, len(good), 4_096)
        ways = {
            "gone": None,
            "empty": b"",
            "cut": good[: len(good) // 2],
            "first page zeros": bytes(4_096) + good[4_096:],
            "first page random": chance.randbytes(4_096) + good[4_096:],
            "all zeros": bytes(len(good)),
            **{f"page {at}": good[:at] + bytes(4_096) + good[at + 4_096 :] for at in pages[1::7]},
        }
        for way, data in ways.items():
            for suffix in ("", "-wal"):
                path.with_name(f"ledger.db{suffix}").unlink(missing_ok=True)
            if data is not None:
                path.write_bytes(data)
            mended = self.start()
            self.assertEqual(
                (len(files), len(before), 0), (mended.files, mended.records, mended.unnamed), way
            )
            self.assertEqual(bool(data), bool(mended.why), way)
            self.assertEqual(before, self.answers(), way)
            self.assertEqual(files, self.on_disk(), way)
            self.assertEqual(mended, self.ledger.mended()[1])
            self.sent_again()
            self.assertFalse(self.start().noteworthy)
            self.ledger.close()

    def receive(self, *args, **facts):
        """Remember it."""
        kept = super().receive(*args, **facts)
        self.sent.append(kept)
        return kept

    def sent_again(self):
        """An SE whose acknowledgements were lost sends all of its segments again."""
        arrivals = [Arrival(one) for one in self.sent]
        self.assertEqual([False] * len(arrivals), self.ledger.receive(arrivals))

    def test_a_ledger_that_was_set_back_by_the_loss_of_its_log_knows_all_again(self):
        self.fill()
        old = self.folder / "old"
        shutil.copyfile(self.folder / "ledger.db", old)
        for n in range(CLOSED_FILES):
            self.receive(line(T0_US + 2 * HOUR_US, path=f"/new/{n}"), last_us=T0_US + 2 * HOUR_US)
            self.take()
        self.now_us += 2 * HOUR_US
        self.successResultOf(self.store.keep_up(KEEPING))
        before, files = self.answers(), self.on_disk()
        self.ledger.close()
        (self.folder / "ledger.db-wal").unlink(missing_ok=True)
        old.replace(self.folder / "ledger.db")
        self.assertTrue(self.start().noteworthy)
        self.assertEqual(self.mended, self.successResultOf(self.store.status()).mended[1])
        self.assertEqual((before, files), (self.answers(), self.on_disk()))
        self.sent_again()

    def test_a_crash_in_the_middle_of_it_costs_nothing(self):
        self.fill()
        before, files = self.answers(), self.on_disk()
        self.ledger.close()
        (self.folder / "ledger.db").unlink()
        adopt, left = Ledger.adopt, [2]

        def crash(ledger, *args):
            left[0] -= 1
            if left[0] < 0:
                raise CrashError
            adopt(ledger, *args)

        self.patch(Ledger, "adopt", crash)
        self.assertRaises(self.failureException, self.start)
        self.patch(Ledger, "adopt", adopt)
        self.assertTrue(0 < self.start().files < len(files))
        self.assertEqual((before, files), (self.answers(), self.on_disk()))
        self.sent_again()

    def test_files_of_an_earlier_version_count_and_it_is_said_what_is_not_known(self):
        for module in (engine, parquet):
            self.patch(module, "KEY", "other")
        self.fill()
        before = self.answers()
        self.ledger.close()
        (self.folder / "ledger.db").unlink()
        mended = self.start()
        self.assertEqual((mended.files, before), (mended.unnamed, self.answers()))
        self.assertIn("is there twice", mended.text)

    def test_listed_files_that_are_gone_and_files_that_cannot_be_read_are_counted(self):
        self.fill()
        first, second, *_ = self.on_disk()
        (self.folders.store / first).unlink()
        os.truncate(self.folders.store / second, 100)
        self.ledger.delist(second)
        mended = self.start()
        self.assertEqual((1, 1, 1), (mended.missing, mended.missing_records and 1, mended.set_aside))
        self.assertEqual([second.rpartition("/")[2]], [path.name for path in self.folders.bad.iterdir()])
        self.assertFalse(self.start().noteworthy)

    def test_a_worker_that_looks_at_nothing_keeps_nobody_from_starting(self):
        self.fill()
        before, files = self.answers(), self.on_disk()
        self.ledger.close()
        (self.folder / "ledger.db").unlink()
        died = LogWorkerDiedError(role="query", how="killed")
        self.worker.fails = lambda job: died if isinstance(job, Describe) else None
        self.assertEqual((0, len(files)), (self.start().files, self.mended.left))
        self.assertEqual(({}, files), (self.answers(), self.on_disk()))
        poison = files[1]
        self.worker.fails = lambda job: (
            died if isinstance(job, Describe) and any(poison in file for file in job.files) else None
        )
        self.assertEqual((len(files) - 1, 1), (self.start().files, self.mended.left))
        self.worker.fails = lambda job: None
        self.assertEqual((1, before), (self.start().files, self.answers()))


class SaidTest(SynchronousTestCase):
    def test_who_has_too_many_runs_loses_names_of_its_own(self):
        gathered = contents.Gathered()
        self.patch(contents, "MAX_RUNS", 10)
        self.patch(contents, "LEAST_RUNS", 3)
        for n in range(1, 100):
            gathered.add("se-1", ("a" * 32, 2 * n), 10, full=1)
            gathered.add("se-2", ("b" * 32, n), 30, significant=1)
        made = gathered.contents()
        self.assertFalse(made.whole)
        runs = {se: len(held.runs) for se, held in made.held.items()}
        self.assertEqual({"se-1": 5, "se-2": 1}, runs)
        self.assertIn(("se-1", "a" * 32, 198), made.names)
        parts = contents.parts_of(made, 400)
        self.assertEqual((contents.Part("se-2", 300, 99, 0), contents.Part("se-1", 100, 0, 99)), parts)
