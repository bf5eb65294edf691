"""Whatever breaks in whatever order: a segment is begun with a second store only when the first can take it no more, and
then says so.
"""

import random

from twisted.internet.defer import Deferred, execute

from avinet.wire import log_messages as m
from tests.unit.log_stores import Stores
from tests.unit.test_logs_spool import FULL, SIGNIFICANT

STEPS = 120
SEEDS = 4
"""Each some half a second; hundreds were tried."""


class Late(Stores):
    """The threads of the agent take their calls late, and not at all when it is killed."""

    def setUp(self):
        self.calls = []
        self.late = False
        super().setUp()

    def in_thread(self, call, *args):
        if not self.late:
            return execute(call, *args)
        done = Deferred()
        self.calls.append((done, call, args))
        return done

    def run_call(self, number):
        """One of those that wait."""
        done, call, args = self.calls.pop(number)
        execute(call, *args).chainDeferred(done)
        self.pump()

    def run_calls(self):
        """All, and what they bring about."""
        while self.calls:
            self.run_call(0)


class LateFiles(Late):
    """A channel is gone whose files a thread opens, and pins its segments, only now."""

    def setUp(self):
        super().setUp()
        self.a.silent()
        self.b.silent()
        self.attach(self.a)
        self.late = True
        self.made(1)
        while not self.left_to_open():
            self.run_call(0)

    def left_to_open(self):
        return [number for number, (_, call, _) in enumerate(self.calls) if call.__name__ == "open_all"]

    def lose_and_attach(self, other):
        """Before the files are open; the other one has the segment, and opens its files after that."""
        self.a.lose()
        (late,) = self.left_to_open()
        opening = self.calls.pop(late)
        other.attach()
        while not self.left_to_open():
            self.run_call(0)
        self.calls.insert(0, opening)
        self.run_calls()
        self.tick(6)
        self.run_calls()

    def assert_stays_with(self, store, listed):
        self.assertEqual([counter for counter, _ in store.begun], [1])
        self.late = False
        self.kill(listed)
        self.attach(self.c)
        self.assertEqual(self.c.begun, [])

    def test_what_another_one_has_begun_since_stays_pinned_to_that_one(self):
        self.owners.list(["b", "c"])
        self.lose_and_attach(self.b)
        self.assert_stays_with(self.b, "bc")

    def test_what_a_newer_channel_has_begun_since_stays_pinned(self):
        self.lose_and_attach(self.a)
        self.assert_stays_with(self.a, "abc")

    def test_what_nobody_has_begun_is_free(self):
        self.a.lose()
        self.run_calls()
        self.late = False
        self.attach(self.c)
        self.assertEqual(self.c.begun, [(1, "")])


class Anything(Late):
    """In any order."""

    def work(self, most):
        """Some of what threads have to do."""
        for _ in range(most):
            if self.calls:
                self.run_call(self.random.randrange(len(self.calls)))

    def begin(self, seed):
        self.random = random.Random(seed)
        self.late = True
        self.listed = set("abc")
        self.begun = {}
        """By name: the stores that it was begun with."""
        self.over = set()
        """Stores that could take nothing any more at some time: then what they may have had could be pinned anew."""
        self.acknowledged = set()
        for store in self.stores.values():
            store.answers = self.answerer(store)

    def answerer(self, store):
        def answer(name, was):
            before = self.begun.setdefault(name, set())
            if was != "?":
                for other in before - {store.store}:
                    self.assertIn(other, self.over, f"{name} may count twice")
                    self.assertEqual(was, other, name)
            before.add(store.store)
            kind = self.random.random()
            if kind < 0.3:
                return None
            if was and kind < 0.5:
                return m.Refuse(name=name, reason=m.RefuseReason.LATER)
            self.acknowledged.add(name)
            return m.Ack(names=(name,))

        return answer

    def here(self, *, there):
        return [store for store in self.stores.values() if bool(store.ends) == there]

    def act(self):
        """Something happens."""
        match self.random.randrange(12):
            case 0 | 1:
                classes = (SIGNIFICANT, FULL)
                count = self.random.randrange(1, 8)
                self.made(*range(1, count), log_class=self.random.choice(classes))
            case 2 | 3 | 4:
                if away := [one for one in self.here(there=False) if one.name in self.listed]:
                    self.random.choice(away).attach()
            case 5:
                if there := self.here(there=True):
                    self.random.choice(there).lose()
            case 6:
                if there := self.here(there=True):
                    self.random.choice(there).hold(held=self.random.random() < 0.5)
            case 7:
                if there := [one for one in self.here(there=True) if "bulk" in one.ends]:
                    self.random.choice(there).pull(classes=(FULL,))
            case 8:
                if self.random.random() < 0.3:
                    self.remove_or_add()
            case 9:
                if self.random.random() < 0.3:
                    self.lose_ledger()
            case 10:
                if self.random.random() < 0.4:
                    self.calls.clear()
                    self.kill(self.listed)
            case 11:
                self.tick(self.random.choice((0, 1, 6, 40)))

    def remove_or_add(self):
        name = self.random.choice("abc")
        if name not in self.listed:
            self.listed.add(name)
        elif len(self.listed) > 1:
            self.listed.remove(name)
            self.over.add(self.stores[name].store)
        self.owners.list(list(self.listed))
        if name not in self.listed and self.stores[name].ends:
            self.stores[name].lose()

    def lose_ledger(self):
        store = self.random.choice(list(self.stores.values()))
        if store.ends:
            store.lose()
        self.over.add(store.store)
        store.store = f"{self.random.getrandbits(128):032x}"

    def lose_index(self):
        self.calls.clear()
        self.kill(self.listed)
        self.shipper.stop()
        self.spool.close()
        for file in self.folder.glob("spool.db*"):
            file.unlink()
        self.spool = None
        self.open()
        self.start(self.listed)

    def settle(self):
        """All are there and answer; what is left is asked for."""
        self.late = False
        while self.calls:
            self.work(10)
        for name in "abc":
            self.listed.add(name)
        self.owners.list(list(self.listed))
        for store in self.stores.values():
            store.answers = self.checked(store)
            if store.ends:
                store.lose()
            store.attach()
        self.tick(6)
        for _ in range(3):
            for store in self.stores.values():
                store.pull(classes=(FULL,))
                self.tick(40)

    def checked(self, store):
        answer = self.answerer(store)

        def checked(name, was):
            answer(name, was)
            self.acknowledged.add(name)
            return m.Ack(names=(name,))

        return checked

    def run_with(self, seed):
        self.begin(seed)
        for number in range(STEPS):
            self.act()
            self.work(self.random.randrange(4))
            if number == STEPS // 2 and seed % 3 == 0:
                self.lose_index()
        self.settle()
        self.assertEqual(self.heads(), [], "something waits for nobody")


def _with(seed):
    def test(self):
        self.run_with(seed)

    return test


for _seed in range(SEEDS):
    setattr(Anything, f"test_keeps_the_promise_in_order_{_seed}", _with(_seed))
