"""With which store a segment was begun, as the spool knows it: through a kill, a lost index, an older copy."""

import contextlib
import shutil
import sqlite3

from avinet.logs.reach import LogStore, Reach
from avinet.logs.spool import SpoolLimits
from avinet.model.logs import ANY_STORE, DropReason, Selection
from tests.unit.log_lines import BASE_US, line, service
from tests.unit.test_logs_spool import FULL, SIGNIFICANT, Kit

A, B, C = (LogStore(name, digit * 32) for name, digit in (("a", "1"), ("b", "2"), ("c", "3")))
A_ANEW, A_BEFORE = LogStore("a", "9" * 32), LogStore("a", "")
ALL = frozenset("abc")


def reach(store, *, listed=ALL, said=(A, B, C), owners=None, sure=False):
    known = {one.controller: one.id for one in said if one.controller != store.controller}
    return Reach(store, listed, {**known, store.controller: store.id}, owners, sure)


class Pinning(Kit):
    def setUp(self):
        super().setUp()
        self.borrowers = {}

    def made(self, *services, log_class=FULL):
        """A segment each."""
        self.spooled(log_class, *[line(number, BASE_US) for number in services])
        return [head.name for head in self.heads()]

    def borrower(self, store):
        return self.borrowers.setdefault(store, self.spool.lending.borrower())

    def pin(self, store, *names, **said):
        """As a channel does; those that are lent."""
        borrower, to = self.borrower(store), reach(store, **said)
        borrower.pin(names, to)
        return list(borrower.lend(names, to))

    def sendable(self, store, **said):
        """Counters, and what is to be said of them where there is something."""
        found = self.spool.sendable(Selection(), None, 0, 1000, reach(store, **said))
        return {one.head.counter: one.was for one in found}

    def kill(self):
        """Nothing that was in memory is left."""
        self.borrowers.clear()
        self.open()


class Pinned(Pinning):
    def test_what_was_begun_with_one_store_goes_to_no_other_and_is_counted_nevertheless(self):
        one, two, _ = self.made(1, 2, 3)
        self.assertEqual(self.pin(A, one, two), [one, two])
        self.assertEqual(self.sendable(A), {1: "", 2: "", 3: ""})
        self.assertEqual(self.sendable(B), {3: ""})
        self.assertEqual(self.pin(B, one, two), [])
        self.assertEqual(self.sendable(A), {1: "", 2: "", 3: ""})
        self.assertEqual(self.spool.totals().full.segments, 3)
        self.assertEqual(self.spool.plan(Selection(), None).segments, 3)
        self.assertEqual(self.spool.plan(Selection(), None, reach(B)).segments, 1)
        elsewhere = self.spool.elsewhere(Selection(), None, reach(B))
        self.assertEqual({name: totals.records for name, totals in elsewhere.items()}, {"a": 2})
        self.assertEqual(
            self.spool.elsewhere(Selection(services=(service(2),)), None, reach(B))["a"].segments, 1
        )
        self.assertEqual(self.spool.elsewhere(Selection(services=(service(3),)), None, reach(B)), {})

    def test_what_is_not_pinned_is_not_lent(self):
        (one,) = self.made(1)
        self.assertEqual(self.borrower(A).lend([one], reach(A)), {})

    def test_an_agent_that_is_killed_between_the_pin_and_the_first_byte_sends_it_there(self):
        (one,) = self.made(1)
        self.pin(A, one)
        self.kill()
        self.borrower(A).lift([one], A)
        self.assertEqual(self.sendable(B), {})
        self.assertEqual(self.sendable(A), {1: ""})

    def test_that_is_not_begun_is_free_again_as_long_as_the_agent_lives(self):
        one, two, three = self.made(1, 2, 3)
        self.pin(A, three)
        self.borrower(A).begun([three])
        self.pin(A, one, two, three)
        self.borrower(A).begun([one])
        self.assertEqual(self.borrower(A).unbegun([one, two, three]), [two])
        self.borrower(B).lift([two], B)
        self.assertEqual(self.sendable(B), {})
        self.borrower(A).lift([one, two, three], A)
        self.assertEqual(self.sendable(B), {2: ""})
        self.assertEqual(self.borrower(A).lend([two], reach(A)), {})

    def test_a_pin_ends_with_its_controller_and_then_says_where_it_was(self):
        (one,) = self.made(1)
        self.pin(A, one)
        without = {"listed": frozenset("bc")}
        self.assertEqual(self.sendable(B), {})
        self.assertEqual(self.sendable(B, said=()), {}, "not as long as nobody says that it is gone")
        self.assertEqual(self.sendable(B, **without), {1: A.id})
        self.assertEqual(self.pin(B, one, **without), [one])
        self.kill()
        self.assertEqual(self.sendable(B, **without), {1: A.id})
        self.assertEqual(self.sendable(C, **without), {})
        self.assertEqual(self.borrower(B).unbegun([one]), [])

    def test_a_pin_ends_when_its_controller_says_another_store(self):
        (one,) = self.made(1)
        self.pin(A, one)
        self.assertEqual(self.sendable(B, said=(A_ANEW,)), {1: A.id})
        self.assertEqual(self.sendable(A_ANEW), {1: A.id})
        self.pin(A_ANEW, one)
        self.assertEqual(self.sendable(A_ANEW), {1: A.id})
        self.assertEqual(self.sendable(B, said=(A_ANEW,)), {})

    def test_one_that_moves_again_may_be_anywhere(self):
        (one,) = self.made(1)
        self.pin(A, one)
        self.pin(B, one, listed=frozenset("bc"))
        self.assertEqual(self.sendable(C, listed=frozenset("c")), {1: ANY_STORE})
        self.pin(C, one, listed=frozenset("c"))
        self.kill()
        self.assertEqual(self.sendable(C), {1: ANY_STORE})
        self.assertEqual(self.sendable(A, listed=frozenset("a")), {1: ANY_STORE})

    def test_where_nobody_knows_the_list_no_pin_ends_by_it(self):
        (one,) = self.made(1)
        self.pin(A, one)
        self.assertEqual(self.sendable(B, listed=None), {})

    def test_a_controller_of_the_version_before_is_pinned_nothing(self):
        one, two, _ = self.made(1, 2, 3)
        self.pin(A, one)
        self.pin(B, two)
        self.assertEqual(self.sendable(A_BEFORE), {1: "", 3: ""}, "its own, and what nobody has begun")
        self.assertEqual(self.sendable(A_BEFORE, listed=frozenset("a")), {1: "", 3: ""})
        names = [head.name for head in self.heads()]
        self.assertEqual(len(self.pin(A_BEFORE, *names)), 2)
        self.assertEqual(self.sendable(C), {3: ""})
        self.assertEqual(self.sendable(B, said=(A_BEFORE,)), {2: "", 3: ""}, "which may be upgraded again")

    def test_of_which_something_is_to_be_found_out_can_be_left_out(self):
        one, _ = self.made(1, 2)
        self.pin(A, one)
        self.assertEqual(self.sendable(B, listed=frozenset("b"), sure=True), {2: ""})
        self.pin(B, one, listed=frozenset("b"))
        self.assertEqual(self.sendable(B, listed=frozenset("b"), sure=True), {2: ""})
        self.assertEqual(self.sendable(A, sure=True), {2: ""})

    def test_they_are_shared_out_by_their_services_and_what_is_pinned_is_not(self):
        names = self.made(*range(1, 13), log_class=SIGNIFICANT)
        shares = [self.sendable(store, owners=("a", "b", "c")) for store in (A, B, C)]
        self.assertTrue(all(shares))
        self.assertEqual(sorted(counter for share in shares for counter in share), list(range(1, 13)))
        self.pin(A, *names)
        self.assertEqual(len(self.sendable(A, owners=("a", "b", "c"))), 12)
        self.assertEqual(self.sendable(B, owners=("b", "c")), {})
        moved = self.sendable(B, owners=("b", "c"), listed=frozenset("bc"))
        self.assertEqual(set(moved.values()), {A.id})
        self.assertLess(len(moved), 12)
        self.assertEqual(self.sendable(B, owners=()), {})
        self.assertEqual(len(self.sendable(A_BEFORE, owners=())), 12)
        self.assertEqual(self.sendable(LogStore("d", ""), owners=()), {})

    def test_a_batch_is_one_transaction(self):
        names = self.made(1, 2, 3)
        transactions = []
        index = self.spool._index
        index._connection.set_trace_callback(
            lambda statement: transactions.append(statement) if statement == "COMMIT" else None
        )
        self.pin(A, *names)
        self.assertEqual(len(transactions), 1)

    def test_stores_of_which_nothing_is_here_any_more_are_forgotten(self):
        for number in range(10):
            names = self.made(number)
            self.pin(LogStore("a", f"{number:032x}"), *names, said=())
            if number % 2:
                self.spool.acknowledge(names)
        count = self.spool._index._connection.execute("SELECT count(*) FROM store").fetchone()
        self.assertLessEqual(count[0], 3)

    def test_they_are_dropped_with_all_others_when_there_is_no_room_and_counted(self):
        names = self.made(1, 2, 3)
        self.pin(A, *names)
        self.spool.lending.give_back(names)
        self.spool.set_limits(SpoolLimits(max_segments=1))
        self.spool.enforce()
        self.assertEqual([head.counter for head in self.heads()], [3])
        self.assertEqual(self.drops(), [(DropReason.SPOOL_FULL, service(n), 1) for n in (1, 2)])
        self.assertEqual(self.pin(A, *names), names[2:])

    def test_a_lost_index_has_lost_them_and_says_so(self):
        names = self.made(1, 2)
        self.pin(A, names[0])
        (self.folder / "spool.db").unlink()
        for more in self.folder.glob("spool.db-*"):
            more.unlink()
        self.kill()
        self.made(3)
        self.assertEqual(self.sendable(B), {1: ANY_STORE, 2: ANY_STORE, 3: ""})
        self.pin(B, *names)
        self.borrower(B).lift(names[1:], B)
        self.assertEqual(self.sendable(B), {1: ANY_STORE, 2: ANY_STORE, 3: ""})
        self.assertEqual(self.sendable(A), {2: ANY_STORE, 3: ""})
        self.assertEqual(self.sendable(B, sure=True), {3: ""})

    def test_an_index_of_the_version_before_has_none_and_takes_them(self):
        names = self.made(1, 2)
        self.spool.close()
        with contextlib.closing(sqlite3.connect(self.folder / "spool.db")) as connection:
            connection.executescript(
                "DROP INDEX segment_begun; DROP TABLE store; ALTER TABLE segment DROP COLUMN store;"
                " ALTER TABLE segment DROP COLUMN was; PRAGMA user_version = 1;"
            )
        self.spool = None
        self.kill()
        self.assertEqual(self.sendable(B), {1: "", 2: ""})
        self.pin(A, names[0])
        self.assertEqual(self.sendable(B), {2: ""})


class SetBack(Pinning):
    """The spool is an older copy of itself."""

    def older_copy(self, before, since):
        """So many segments were there when it was copied, so many were made since; that is what is there again."""
        self.made(*range(1, before + 1))
        self.spool.close()
        shutil.copytree(self.folder, self.folder.with_name("copy"))
        self.spool = None
        self.open()
        self.made(*range(11, 11 + since))
        self.spool.close()
        shutil.rmtree(self.folder)
        self.folder.with_name("copy").rename(self.folder)
        self.spool = None
        self.kill()

    def test_what_it_has_may_be_anywhere_and_what_is_new_gets_other_names(self):
        self.older_copy(2, 3)
        self.made(7)
        self.assertTrue(self.spool.set_back("a", 5, 0))
        self.assertEqual(self.sendable(A), {1: ANY_STORE, 2: ANY_STORE, 6: ""})
        self.made(8)
        self.assertEqual(self.sendable(A), {1: ANY_STORE, 2: ANY_STORE, 6: "", 7: ""})

    def test_it_is_found_out_from_whichever_controller_knows(self):
        self.older_copy(2, 3)
        names = self.made(7, 8, 9)
        self.assertFalse(self.spool.set_back("a", 2, 0))
        self.pin(A, names[2])
        self.borrower(A).begun(names[2:3])
        self.assertTrue(self.spool.set_back("b", 5, 0))
        self.assertEqual(self.sendable(A), {1: ANY_STORE, 2: ANY_STORE, 3: "", 7: "", 8: ""})
        self.assertEqual(self.sendable(B), {1: ANY_STORE, 2: ANY_STORE, 7: "", 8: ""})
        self.made(10)
        self.assertEqual(max(self.sendable(B)), 9)
        self.assertFalse(self.spool.set_back("a", 3, 0), "which is what it was sent")
        self.assertFalse(self.spool.set_back("b", 9, 0))

    def test_one_that_is_what_it_was_stays_so(self):
        self.made(1, 2)
        self.kill()
        self.made(3)
        for name in "abc":
            self.assertFalse(self.spool.set_back(name, 2, 0))
        self.assertEqual(self.sendable(A), {1: "", 2: "", 3: ""})
