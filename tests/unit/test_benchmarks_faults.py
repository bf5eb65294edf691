"""What the checks after a fault find: writes out of order, logs that are gone, doubled or made up."""

from unittest import TestCase

from benchmarks.fault_traffic import Seen, Whole, judged
from benchmarks.fault_writes import Writer, Writers, Written, out_of_order


def written(began, ended, version):
    return Written(began, ended, f"at-{began}", version)


class OrderTests(TestCase):
    def found(self, *writes):
        return list(out_of_order(writes))

    def test_one_after_the_other_goes_up(self):
        self.assertEqual(self.found(written(0, 1, 1), written(2, 3, 2), written(4, 5, 7)), [])

    def test_of_two_at_once_either_may_be_first(self):
        self.assertEqual(self.found(written(0, 3, 2), written(1, 2, 1)), [])
        self.assertEqual(self.found(written(0, 3, 1), written(1, 2, 2)), [])

    def test_one_that_was_asked_for_later_is_above(self):
        (what,) = self.found(written(0, 1, 2), written(2, 3, 1))
        self.assertEqual(what, "at-2 is version 1, though at-0 was 2 before it")

    def test_the_highest_before_counts_and_not_the_last(self):
        self.assertEqual(len(self.found(written(0, 1, 5), written(0, 2, 3), written(3, 4, 4))), 1)

    def test_a_version_is_one_writes(self):
        self.assertEqual(
            self.found(written(0, 3, 1), written(1, 2, 1)), ["2 writes were acknowledged as version 1"]
        )


class GapTests(TestCase):
    def test_it_is_from_or_to_either_end_too_and_over_all_writers(self):
        one, other = (Writer(name, None) for name in "ab")
        one.acknowledged += [written(0, 2, 1), written(8, 9, 3)]
        other.acknowledged += [written(2, 5, 2)]
        writers = Writers((one, other))
        self.assertEqual(writers.longest_gap(0, 10), 4)
        self.assertEqual(writers.longest_gap(0, 20), 11)
        self.assertEqual(writers.longest_gap(-9, 10), 11)


class LogTests(TestCase):
    def test_each_that_was_answered_is_there_once(self):
        self.assertEqual(judged("c", Seen({"/a": 1, "/b": 1}), {"/a", "/b"}, set()), [])

    def test_of_one_that_was_not_answered_nobody_knows(self):
        self.assertEqual(judged("c", Seen({"/a": 1}), set(), {"/a", "/b"}), [])

    def test_lost_doubled_and_strange_ones_are_told(self):
        found = judged("c", Seen({"/b": 2, "/x": 1}, ("d: gone",)), {"/a", "/b"}, set())
        self.assertEqual(
            found,
            [
                "c says that it misses d: gone",
                "c lacks the logs of 1 requests, such as /a",
                "c has more than once 1 requests, such as /b",
                "c has logs of requests that nobody made, 1 requests, such as /x",
            ],
        )

    def test_what_a_whole_answer_had_the_next_one_has(self):
        whole = Whole()
        for paths in ("a", "ab", "ab", "abc"):
            whole.took("c", Seen(dict.fromkeys(paths, 1)))
        self.assertEqual(whole.wrong, [])
        whole.took("d", Seen({"b": 1, "c": 1}))
        self.assertEqual(
            whole.wrong,
            ["d said that nothing is missing, and lacked 1 requests that had been there, such as a"],
        )

    def test_an_answer_that_says_what_is_missing_may_lack_it_and_nothing_is_in_it_twice(self):
        whole = Whole()
        whole.took("c", Seen({"a": 1}))
        whole.took("d", Seen({}, ("c: is gone",)))
        self.assertEqual(whole.wrong, [])
        whole.took("d", Seen({"b": 2}, ("c: is gone",)))
        self.assertEqual(whole.wrong, ["d had 1 requests more than once, such as b"])
