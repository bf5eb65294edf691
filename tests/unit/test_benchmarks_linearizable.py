"""The checker of histories: what is right is called right, what is wrong is called wrong, and it says where."""

import random
from unittest import TestCase

import attrs

from benchmarks.linearizable import NEVER, Operation, check


def write(value, began, ended=NEVER, client="a"):
    return Operation(register="r", client=client, began=began, ended=ended, value=value)


def read(value, began, ended, client="b"):
    return Operation(register="r", client=client, began=began, ended=ended, reads=True, value=value)


def swap(expected, value, began, ended=NEVER, *, held=True):
    return Operation(
        register="r",
        client="c",
        began=began,
        ended=ended,
        value=value,
        expected=expected,
        compares=True,
        held=held,
    )


def judged(*history):
    (verdict,) = check(history)
    return verdict.linearizable


class LinearizableTests(TestCase):
    def test_a_read_finds_what_was_written_before_it_began(self):
        self.assertTrue(judged(write("1", 0, 1), read("1", 2, 3)))
        self.assertFalse(judged(write("1", 0, 1), read(None, 2, 3)))

    def test_a_read_beside_a_write_finds_either(self):
        self.assertTrue(judged(write("1", 0, 3), read("1", 1, 2)))
        self.assertTrue(judged(write("1", 0, 3), read(None, 1, 2)))

    def test_what_was_seen_once_is_not_unseen(self):
        self.assertFalse(judged(write("1", 0, 9), read("1", 1, 2), read(None, 3, 4)))

    def test_a_lost_update_is_found(self):
        self.assertFalse(judged(write("1", 0, 1), write("2", 2, 3), read("1", 4, 5)))

    def test_a_write_without_an_answer_took_place_or_did_not(self):
        self.assertTrue(judged(write("1", 0, 1), write("2", 2), read("1", 4, 5)))
        self.assertTrue(judged(write("1", 0, 1), write("2", 2), read("1", 4, 5), read("2", 6, 7)))
        self.assertFalse(judged(write("1", 0, 1), write("2", 2), read("2", 4, 5), read("1", 6, 7)))

    def test_a_write_without_an_answer_does_not_take_place_before_it_began(self):
        self.assertFalse(judged(read("1", 0, 1), write("1", 2)))

    def test_two_swaps_of_one_value_cannot_both_hold(self):
        self.assertTrue(judged(write("1", 0, 1), swap("1", "2", 2, 5), swap("1", "3", 3, 6, held=False)))
        self.assertFalse(judged(write("1", 0, 1), swap("1", "2", 2, 5), swap("1", "3", 3, 6)))

    def test_a_swap_that_did_not_hold_must_have_had_a_reason(self):
        self.assertFalse(judged(write("1", 0, 1), swap("1", "2", 2, 3, held=False)))

    def test_a_swap_without_an_answer_explains_what_is_read_later(self):
        self.assertTrue(judged(write("1", 0, 1), swap("1", "2", 2), read("2", 4, 5)))
        self.assertFalse(judged(write("1", 0, 1), swap("9", "2", 2), read("2", 4, 5)))

    def test_a_write_without_an_answer_that_nobody_saw_may_be_why_a_swap_did_not_hold(self):
        failed = swap("1", "2", 2, 3, held=False)
        self.assertTrue(judged(write("1", 0, 1), write("3", 2.5), failed))
        self.assertFalse(judged(write("1", 0, 1), write("3", 3.5), failed))
        again = swap("1", "4", 6, 7, held=False)
        rewritten = write("1", 4, 5)
        self.assertTrue(judged(write("1", 0, 1), write("3", 0), write("5", 0), failed, rewritten, again))
        self.assertFalse(judged(write("1", 0, 1), write("3", 0), failed, rewritten, again))

    def test_a_swap_that_nobody_saw_is_why_where_it_fits_and_leaves_the_write_for_elsewhere(self):
        history = [
            write("1", 0, 1),
            swap("1", "2", 4, 5, held=False),
            write("6", 6, 7),
            swap("6", "7", 8, 9, held=False),
        ]
        self.assertTrue(judged(*history, write("3", 0), swap("1", "5", 3)))

    def test_hundreds_of_writes_that_nobody_answered_or_saw_do_not_double_the_work_each(self):
        lost = [write(f"lost-{n}", 2 + n / 100) for n in range(200)]
        known = [write("1", 0, 1), read("1", 5, 6), write("2", 7, 8), swap("2", "3", 9, 10, held=False)]
        (verdict,) = check([*lost, *known])
        self.assertTrue(verdict.linearizable)
        self.assertLess(verdict.states, 1_000)

    def test_registers_are_judged_apart(self):
        other = Operation(register="s", client="a", began=0, ended=1, reads=True, value="9")
        verdicts = {verdict.register: verdict.linearizable for verdict in check([write("1", 0, 1), other])}
        self.assertEqual(verdicts, {"r": True, "s": False})

    def test_it_says_where_no_explanation_goes_on(self):
        wrong = read("1", 4, 5)
        (verdict,) = check([write("1", 0, 1), write("2", 2, 3), wrong, write("3", 6, 7)])
        self.assertEqual(verdict.stuck, (wrong,))
        self.assertIn("NOT linearizable", str(verdict))

    def test_what_takes_too_long_is_not_called_good(self):
        history = [write(str(n), 0, 100, client=str(n)) for n in range(12)] + [read("none", 101, 102)]
        (verdict,) = check(history, max_states=100)
        self.assertIsNone(verdict.linearizable)


class RandomHistoryTests(TestCase):
    """Histories made from a register that is one, and the same with one answer forged."""

    def history(self, chance, length=400, clients=5):
        """Each operation takes place at a random instant while it is under way; its client asks nothing meanwhile."""
        free, value, planned = [0.0] * clients, None, []
        for number in range(length):
            client = chance.randrange(clients)
            began = free[client] + chance.random()
            free[client] = began + chance.random()
            planned.append((chance.uniform(began, free[client]), began, free[client], client, number))
        done = []
        for _, began, ended, client, number in sorted(planned):
            kind = chance.choice(["read", "write", "swap"])
            facts = {"register": "r", "client": str(client), "began": began, "ended": ended}
            if kind == "read":
                done.append(Operation(**facts, reads=True, value=value))
            elif kind == "write":
                value = str(number)
                done.append(Operation(**facts, value=value))
            else:
                expected = value if chance.random() < 0.5 else "another"
                held = expected == value
                done.append(
                    Operation(**facts, value=str(number), expected=expected, compares=True, held=held)
                )
                value = str(number) if held else value
        return done

    def test_what_one_register_answered_is_linearizable(self):
        for seed in range(20):
            (verdict,) = check(self.history(random.Random(seed)))
            self.assertTrue(verdict.linearizable, seed)

    def test_a_long_history_with_answers_that_were_lost_costs_no_more_than_its_length(self):
        history = self.history(random.Random(7), length=4_000)
        lost = [attrs.evolve(one, ended=NEVER) if n % 200 == 0 else one for n, one in enumerate(history)]
        (verdict,) = check(lost)
        self.assertTrue(verdict.linearizable)
        self.assertLess(verdict.states, 20 * len(history))

    def test_a_forged_answer_is_found(self):
        for seed in range(20):
            chance = random.Random(seed)
            history = self.history(chance)
            reads = [number for number, one in enumerate(history) if one.reads]
            forged = chance.choice(reads)
            one = history[forged]
            history[forged] = Operation(
                register="r",
                client=one.client,
                began=one.began,
                ended=one.ended,
                reads=True,
                value="never written",
            )
            (verdict,) = check(history)
            self.assertFalse(verdict.linearizable, seed)
