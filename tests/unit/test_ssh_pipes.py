"""The pipes of a command: what is read and when, where the end comes, what a full pipe holds back."""

import os
from pathlib import Path

from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from avinet.ssh.pipes import GATHERED_BYTES, Input, Output, Pipes

OUT, ERR = 0, 1


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


class FakeReactor:
    def __init__(self):
        self.readers, self.writers = set(), set()

    def addReader(self, one):
        self.readers.add(one)

    def removeReader(self, one):
        self.readers.discard(one)

    def addWriter(self, one):
        self.writers.add(one)

    def removeWriter(self, one):
        self.writers.discard(one)


class FakeChannel:
    """Asks its producer when the test says so; ``unsent`` is what it keeps."""

    def __init__(self):
        self.producer = None
        self.written, self.unsent = [], []
        self.remoteWindowLeft = 1000
        self.paused = False
        self.registered = 0

    def registerProducer(self, producer, streaming):
        assert self.producer is None
        assert not streaming
        self.producer = producer
        self.registered += 1

    def unregisterProducer(self):
        self.producer = None

    def writeExtended(self, kind, data):
        self.written.append((kind, data))
        self.unsent.append(data)

    def turn(self):
        """All of it goes out, and the producer is asked for more."""
        self.unsent.clear()
        if self.producer is not None:
            self.producer.resumeProducing()

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False


class TheOutput(SynchronousTestCase):
    def setUp(self):
        self.reactor, self.channel = FakeReactor(), FakeChannel()
        (out, self.out), (err, self.err) = os.pipe(), os.pipe()
        os.set_blocking(out, False)
        os.set_blocking(err, False)
        self.ends = {self.out, self.err}
        self.addCleanup(lambda: [os.close(one) for one in self.ends])
        self.moved, self.done = [], []
        self.output = Output(self.reactor, self.channel, (out, err), lambda: self.moved.append(1))
        self.addCleanup(self.output.close)
        self.output.start()

    def end(self, number):
        os.close(number)
        self.ends.remove(number)

    def test_is_watched_only_while_there_is_nothing_to_read(self):
        self.channel.turn()
        self.assertEqual((len(self.reactor.readers), self.channel.producer), (2, None))
        os.write(self.out, b"x")
        next(one for one in self.reactor.readers if one.kind == OUT).doRead()
        self.assertEqual((len(self.reactor.readers), self.output.waiting), (1, True))
        self.assertEqual(self.channel.written, [])
        self.channel.turn()
        self.assertEqual(self.channel.written, [(OUT, b"x")])

    def test_is_read_a_piece_at_a_time_and_only_when_the_channel_asks(self):
        os.write(self.out, b"one")
        self.channel.turn()
        os.write(self.out, b"two")
        self.assertEqual((self.channel.written, len(self.moved)), ([(OUT, b"one")], 1))
        self.channel.turn()
        self.assertEqual(self.channel.written[1:], [(OUT, b"two")])

    def test_of_both_kinds_takes_turns(self):
        for _ in range(2):
            os.write(self.out, b"o")
            os.write(self.err, b"e")
            self.channel.turn()
            self.channel.turn()
        self.assertEqual({kind for kind, _ in self.channel.written[:2]}, {OUT, ERR})

    def test_that_never_stops_does_not_keep_the_other_kind_waiting(self):
        os.write(self.err, b"e")
        for _ in range(3):
            os.write(self.out, bytes(20_000))
            self.channel.turn()
        self.assertIn((ERR, b"e"), self.channel.written)

    def test_ends_once_both_pipes_have_and_the_last_of_it_is_sent(self):
        os.write(self.out, b"last")
        self.end(self.out)
        self.end(self.err)
        self.output.when_done(lambda: self.done.append(len(self.channel.unsent)))
        self.channel.producer.resumeProducing()
        self.assertEqual((self.channel.written, self.done), ([(OUT, b"last")], []))
        self.channel.turn()
        self.assertEqual(self.done, [0])
        self.assertIsNone(self.channel.producer)
        self.channel.turn()
        self.assertEqual(self.done, [0])

    def test_ends_at_a_hang_up_that_is_no_read(self):
        self.channel.turn()
        self.output.when_done(lambda: self.done.append(1))
        for one in list(self.reactor.readers):
            self.end(self.out if one.kind == OUT else self.err)
            one.connectionLost(Failure(CONNECTION_LOST))
        self.channel.turn()
        self.assertEqual(self.done, [1])

    def test_that_was_sent_whole_ends_without_more_room_from_the_peer(self):
        os.write(self.out, b"x" * 1000)
        self.channel.turn()
        self.channel.unsent.clear()
        self.channel.remoteWindowLeft = 0  # taken up to the byte: nobody is asked any more
        self.end(self.out)
        self.end(self.err)
        self.output.when_done(lambda: self.done.append(1))
        self.assertEqual(self.done, [1])

    def test_closed_from_here_waits_for_what_is_unsent_and_no_longer(self):
        os.write(self.out, b"x")
        self.channel.turn()
        self.output.when_done(lambda: self.done.append(1))
        self.output.close()
        self.assertEqual(self.done, [])
        self.assertRaises(BrokenPipeError, os.write, self.out, b"y")
        self.channel.turn()
        self.assertEqual(self.done, [1])

    def test_ends_with_its_channel(self):
        os.write(self.out, b"x")
        self.channel.turn()
        self.output.when_done(lambda: self.done.append(1))
        self.output.close()
        self.channel.unsent.clear()
        producer, self.channel.producer = self.channel.producer, None
        producer.stopProducing()
        self.assertEqual(self.done, [1])


class TheInput(SynchronousTestCase):
    def setUp(self):
        self.reactor, self.channel = FakeReactor(), FakeChannel()
        self.theirs, ours = os.pipe()
        os.set_blocking(ours, False)
        self.open = True
        self.addCleanup(self.close)
        self.input = Input(self.reactor, self.channel, ours)
        self.addCleanup(self.input.close)

    def close(self):
        if self.open:
            self.open = False
            os.close(self.theirs)

    def fill(self):
        data = os.urandom(GATHERED_BYTES + 100_000)  # a pipe has 64 KiB
        self.input.take(memoryview(data))
        return data

    def test_of_one_turn_goes_into_the_pipe_together(self):
        for piece in (b"abc", b"", b"def"):
            self.input.take(memoryview(piece))
        self.assertEqual(self.reactor.writers, {self.input})
        self.input.doWrite()
        self.assertEqual((os.read(self.theirs, 10), self.reactor.writers), (b"abcdef", set()))
        self.assertFalse(self.channel.paused)

    def test_that_the_pipe_does_not_take_holds_the_channel_back_and_arrives_in_order(self):
        data = self.fill()
        self.assertTrue(self.channel.paused and self.input.full)
        got = b""
        while len(got) < len(data):
            got += os.read(self.theirs, 65536)
            for one in list(self.reactor.writers):
                one.doWrite()
        self.assertEqual(got, data)
        self.assertEqual((self.channel.paused, self.reactor.writers), (False, set()))

    def test_is_kept_past_the_call_that_brought_its_view(self):
        scratch = bytearray(b"a" * 50_000)
        self.input.take(memoryview(scratch))
        scratch[:] = b"b" * 50_000
        self.input.doWrite()
        self.assertEqual(os.read(self.theirs, 50_000), b"a" * 50_000)

    def test_ends_behind_what_is_left_of_it(self):
        data = self.fill()
        self.input.end()
        got = b""
        while piece := os.read(self.theirs, 65536):
            got += piece
            for one in list(self.reactor.writers):
                one.doWrite()
        self.assertEqual(got, data)

    def test_that_nobody_reads_any_more_is_dropped_and_holds_nothing_back(self):
        self.fill()
        self.close()
        self.input.doWrite()
        self.assertEqual((self.channel.paused, self.input.full), (False, False))
        self.input.take(memoryview(b"more"))
        self.input.end()


class ThePipes(SynchronousTestCase):
    def test_leave_no_descriptor_behind_when_the_command_does_not_start(self):
        before = descriptors()

        def spawn(childFDs):
            self.assertEqual(sorted(childFDs), [0, 1, 2])
            raise OSError

        with self.assertRaises(OSError):
            Pipes.around(FakeReactor(), FakeChannel(), lambda: None, spawn)
        self.assertEqual(descriptors(), before)

    def test_are_all_closed_at_the_end(self):
        before = descriptors()
        pipes, _ = Pipes.around(FakeReactor(), FakeChannel(), lambda: None, lambda childFDs: childFDs[0])
        self.assertEqual(descriptors(), before + 3)
        pipes.close()
        pipes.close()
        self.assertEqual(descriptors(), before)
