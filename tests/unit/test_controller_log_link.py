"""A hostile or broken SE on a log channel: cut or held up, within bounds, and nothing outside its own folders."""

import errno
import hashlib
import os

import msgspec
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from avinet.controller.log_intake import Threads
from avinet.controller.log_pace import MESSAGES_BURST
from avinet.errors import RemoteProtocolError
from avinet.logs.entries import Segment
from avinet.logs.incoming import IncomingLogs, IntakeLimits
from avinet.logs.received_head import read_head
from avinet.logs.receiving import MAX_REFUSED, Receiving
from avinet.logs.sending import ALONE, MAX_UNANSWERED
from avinet.model.logs import MAX_RATIO, Drop, DropReason, LogClass, SegmentHead, SpoolTotals
from avinet.units import KIB, MIB
from avinet.wire import log_messages as m
from avinet.wire.log_codec import LogDecoder, encode, raw_head
from tests.unit.log_kit import Fleet, Held

SPOOL = "0123456789abcdef0123456789abcdef"


def head_of(data, counter=1, **fields):
    return msgspec.structs.replace(
        SegmentHead(
            incarnation=SPOOL,
            counter=counter,
            service="virtualservice-00000000-0000-4000-8000-000000000001",
            log_class=LogClass.FULL,
            first_us=1,
            last_us=2,
            records=1,
            raw_bytes=len(data),
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        ),
        **fields,
    )


class DiedError(Exception):
    """The controller's process ends here."""


class Peer:
    se = "se-9"


class Wire(StringTransport):
    """What an SE sees of a channel."""

    def __init__(self, link):
        super().__init__()
        self.link = link
        self.aborted = self.paused = False
        self.decoder = LogDecoder()
        link.makeConnection(self)

    def abortConnection(self):
        self.aborted = True
        self.lose(ConnectionLost())

    def lose(self, why=None):
        link, self.link = self.link, None
        if link is not None:
            link.connectionLost(Failure(why or ConnectionDone()))

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False

    def say(self, *things):
        for thing in things:
            if self.link is not None:
                data = raw_head(len(thing)) + thing if isinstance(thing, bytes) else encode(thing)
                self.link.view_received(memoryview(data))

    def heard(self):
        data, _ = self.value(), self.clear()
        return list(self.decoder.feed(data))


class Links(Fleet):
    """Channels by hand."""

    def open(self, live=False):
        build = self.intake.build_live if live else self.intake.build_bulk
        return Wire(build(Peer()))

    def greeted(self, live=False):
        wire = self.open(live)
        wire.say(m.LogHello(incarnation=SPOOL, totals=SpoolTotals()))
        self.welcome = wire.heard()[0]
        return wire

    def files(self):
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def tick(self, seconds=0):
        self.clock.advance(seconds)

    def acked(self, wire):
        self.tick()
        return [name for message in wire.heard() if isinstance(message, m.Ack) for name in message.names]

    def refused(self, wire):
        return [message.reason for message in wire.heard() if isinstance(message, m.Refuse)]


def content(path):
    """A segment's bytes, without the head behind them."""
    with path.open("rb") as file:
        head = read_head(file.fileno())
        return file.read(head.size)


class Hostile(Links):
    def test_a_segment_that_is_right_is_kept_and_acknowledged(self):
        data = os.urandom(1000)
        wire = self.greeted()
        wire.say(m.Begin(head=head_of(data)), data[:300], data[300:])
        self.assertEqual(self.acked(wire), [head_of(data).name])
        path = self.state / "received" / "se-9" / f"{head_of(data).name}.zst"
        self.assertEqual((content(path), path.stat().st_mode & 0o777), (data, 0o600))

    def test_what_breaks_the_protocol_is_cut_and_told_and_leaves_nothing(self):
        data = b"x" * 100
        head = head_of(data)
        begin = m.Begin(head=head)
        for what, things in {
            "bytes before hello": (b"abc",),
            "a segment before hello": (begin,),
            "drops before hello": (m.Dropped(incarnation=SPOOL, position=1, drops=()),),
            "a second hello": (
                m.LogHello(incarnation=SPOOL, totals=SpoolTotals()),
                m.LogHello(incarnation=SPOOL, totals=SpoolTotals()),
            ),
        }.items():
            wire = self.open()
            wire.say(*things)
            self.assertTrue(wire.aborted, what)
        for what, things in {
            "bytes of no segment": (b"abc",),
            "more bytes than there should be": (begin, data, b"y"),
            "more bytes at once": (m.Begin(head=head_of(data, 2)), data + b"y"),
            "more bytes of one that is here already": (begin, data, b"y"),
            "a message of a controller": (m.Ack(names=()),),
            "drops on the wrong service": (m.Dropped(incarnation=SPOOL, position=1, drops=()),),
            "drops of another spool": (m.Dropped(incarnation="e" * 32, position=1, drops=()),),
        }.items():
            wire = self.greeted(live=what == "drops of another spool")
            wire.say(*things)
            self.assertTrue(wire.aborted, what)
            self.tick()
        self.assertIn("LOG_CHANNEL_CUT", self.events)
        self.assertEqual(self.intake.bulk_link("se-9"), None)

    def test_the_same_segment_on_two_channels_is_cut(self):
        data = os.urandom(1000)
        one, two = self.greeted(), self.greeted(live=True)
        one.say(m.Begin(head=head_of(data)), data[:10])
        two.say(m.Begin(head=head_of(data)), data[:10])
        self.assertTrue(two.aborted)
        one.say(data[10:])
        self.assertEqual(self.acked(one), [head_of(data).name])

    def test_a_store_says_which_it_is_and_passes_on_with_which_one_a_segment_was_begun(self):
        self.greeted()
        self.assertEqual(self.welcome.store, self.ledger.store_id)
        one, two = head_of(b"x", 1), head_of(b"yy", 2)
        receiving = Receiving()
        receiving.hello({})
        self.assertEqual(receiving.begin(m.Begin(head=one)).was, "")
        receiving.acknowledge(one.name)
        self.assertEqual(receiving.begin(m.Begin(head=one, was="?")).was, "?")
        flight, _ = receiving.batch(m.Batch(heads=(two,), was=SPOOL))
        self.assertEqual(flight.was, SPOOL)

    def test_what_cannot_be_told_yet_is_refused_however_often(self):
        one, two = head_of(b"x", 1), head_of(b"yy", 2)
        receiving = Receiving()
        receiving.hello({})
        for _ in range(3 * MAX_REFUSED):
            receiving.begin(m.Begin(head=one, was=SPOOL))
            receiving.refuse(one.name, m.RefuseReason.LATER, "a peer is away")
            receiving.raw(1)
        for _ in range(MAX_REFUSED):
            receiving.refuse(two.name, m.RefuseReason.CORRUPT, "")
        with self.assertRaises(RemoteProtocolError):
            receiving.refuse(two.name, m.RefuseReason.CORRUPT, "")

    def test_other_bytes_than_the_hash_says_are_refused_and_too_many_of_them_cut(self):
        wire = self.greeted()
        for counter in range(1, MAX_REFUSED + 1):
            wire.say(m.Begin(head=head_of(b"a" * 50, counter)), b"b" * 50)
            self.assertEqual(self.refused(wire), ["corrupt"])
        self.assertFalse(wire.aborted)
        wire.say(m.Begin(head=head_of(b"a" * 50, 99)), b"b" * 50)
        self.assertTrue(wire.aborted)
        self.assertEqual(list((self.state / "incoming" / "se-9").iterdir()), [])
        self.assertEqual(self.ledger.waiting(2**62), [])

    def test_heads_that_cannot_be_true_are_refused_and_their_bytes_skipped(self):
        data = b"z" * 60
        wire = self.greeted()
        for absurd in (
            {"first_us": 3},
            {"raw_bytes": 60 * MAX_RATIO + 1, "records": 1},
            {"records": 61},
        ):
            wire.say(m.Begin(head=head_of(data, **absurd)), data)
            self.assertEqual(self.refused(wire), ["head"])
        wire.say(m.Begin(head=head_of(data)), data)
        self.assertEqual(self.acked(wire), [head_of(data).name])

    def test_an_offset_that_is_not_where_we_are_is_refused(self):
        data = os.urandom(100)
        wire = self.greeted()
        for offset in (50, 99, 100, 2**53):
            wire.say(m.Begin(head=head_of(data), offset=offset), data[offset:][:10] or b"x")
            self.assertEqual(self.refused(wire), ["again"], offset)
        wire.say(m.Begin(head=head_of(data)), data)
        self.assertEqual(self.acked(wire), [head_of(data).name])

    def test_a_file_that_has_shrunk_where_it_waits_is_asked_for_anew(self):
        data = os.urandom(100)
        wire = self.greeted()
        wire.say(m.Begin(head=head_of(data)), data[:60])
        wire.lose()
        wire = self.greeted()
        self.assertEqual(self.welcome.partials, {head_of(data).name: 60})
        (part,) = (self.state / "incoming" / "se-9").iterdir()
        os.truncate(part, 5)
        wire.say(m.Begin(head=head_of(data), offset=60), data[60:])
        self.assertEqual(self.refused(wire), ["again"])
        wire.say(m.Begin(head=head_of(data)), data)
        self.assertEqual(self.acked(wire), [head_of(data).name])

    def test_segments_that_never_end_are_bounded_on_disk(self):
        for counter in range(1, 41):
            wire = self.greeted()
            wire.say(m.Begin(head=head_of(b"q" * 5000, counter)), b"q" * 100)
            wire.lose()
        self.greeted().lose()
        self.assertEqual(len(list((self.state / "incoming" / "se-9").iterdir())), m.MAX_PARTIALS)

    def test_a_second_copy_is_acknowledged_and_thrown_away_whatever_it_holds(self):
        data, other = os.urandom(1000), os.urandom(1000)
        wire = self.greeted()
        wire.say(m.Begin(head=head_of(data)), data)
        self.acked(wire)
        wire.say(m.Begin(head=head_of(other)), other)
        self.assertEqual(self.acked(wire), [head_of(data).name])
        path = self.state / "received" / "se-9" / f"{head_of(data).name}.zst"
        self.assertEqual(content(path), data)
        self.assertEqual(len(self.ledger.waiting(2**62)), 1)
        self.assertEqual(list((self.state / "incoming" / "se-9").iterdir()), [])

    def test_another_engines_segment_is_its_own_affair(self):
        data = os.urandom(100)
        self.greeted().say(m.Begin(head=head_of(data)), data)
        Peer.se = "se-10"
        self.addCleanup(setattr, Peer, "se", "se-9")
        wire = self.greeted()
        self.assertEqual(self.welcome.partials, {})
        wire.say(m.Begin(head=head_of(data)), data)
        self.assertEqual(self.acked(wire), [head_of(data).name])
        self.assertEqual(sorted(one.se for one in self.ledger.waiting(2**62)), ["se-10", "se-9"])

    def test_links_out_of_its_folders_are_not_followed(self):
        data = os.urandom(100)
        target = self.folder / "precious"
        target.write_text("precious")
        folder = self.state / "incoming" / "se-9"
        folder.mkdir(parents=True)
        (folder / f"{head_of(data).name}.part").symlink_to(target)
        wire = self.greeted()
        wire.say(m.Begin(head=head_of(data)), data)
        self.assertEqual(target.read_text(), "precious")
        self.assertEqual(self.acked(wire), [])

    def test_what_is_not_written_yet_is_bounded_and_stops_the_reading(self):
        held = Held()
        self.intake.threads = Threads(held, self.commits)
        data = os.urandom(16 * MIB)
        wire = self.greeted()
        wire.say(m.Begin(head=head_of(data)))
        sent = 0
        while not wire.paused:
            wire.say(data[sent : sent + 256 * KIB])
            sent += 256 * KIB
            self.assertLess(sent, 5 * MIB)
        while sent < len(data) or held.waiting:
            held.let()
            while not wire.paused and sent < len(data):
                wire.say(data[sent : sent + 256 * KIB])
                sent += 256 * KIB
        self.assertEqual(self.acked(wire), [head_of(data).name])

    def test_segments_without_an_answer_are_bounded(self):
        held = Held()
        self.intake.threads = Threads(self.writes, held)
        wire = self.open()
        wire.say(m.LogHello(incarnation=SPOOL, totals=SpoolTotals()))
        held.let()
        most = MAX_UNANSWERED // ALONE
        for counter in range(1, most + 1):
            self.assertFalse(wire.paused)
            wire.say(m.Begin(head=head_of(b"d", counter)), b"d")
        self.assertTrue(wire.paused)
        for counter in range(most + 1, 3 * most):
            wire.say(m.Begin(head=head_of(b"d", counter)), b"d")
        self.assertTrue(wire.aborted)
        while held.let():
            pass

    def test_floods_of_messages_wait(self):
        wire = self.greeted()
        status = m.SpoolStatus(totals=SpoolTotals())
        for _ in range(int(MESSAGES_BURST) + 1):
            wire.say(status)
        self.assertTrue(wire.paused)
        self.tick(1)
        self.assertFalse(wire.paused)
        self.assertFalse(wire.aborted)

    def test_nobody_who_says_nothing_stays(self):
        wire = self.open()
        self.tick(61)
        self.assertTrue(wire.aborted)

    def test_drops_that_are_not_waited_for_are_cut(self):
        held = Held()
        self.intake.threads = Threads(self.writes, held)
        wire = self.open(live=True)
        wire.say(m.LogHello(incarnation=SPOOL, totals=SpoolTotals()))
        held.let()
        drop = Drop(reason=DropReason.TORN, log_class=LogClass.FULL, records=1)
        dropped = m.Dropped(incarnation=SPOOL, position=1, drops=(drop,))
        wire.say(dropped, dropped)
        self.assertTrue(wire.aborted)

    def test_a_newer_channel_takes_the_older_ones_place_once_its_files_are_closed(self):
        held = Held()
        data = os.urandom(1000)
        one = self.greeted()
        self.intake.threads = Threads(held, self.commits)
        one.say(m.Begin(head=head_of(data)), data[:600])
        two = self.open()
        two.say(m.LogHello(incarnation=SPOOL, totals=SpoolTotals()))
        self.assertTrue(one.aborted)
        self.assertEqual(two.heard(), [])
        while held.let():
            pass
        (welcome,) = two.heard()
        self.assertEqual(welcome.partials, {head_of(data).name: 600})
        two.say(m.Begin(head=head_of(data), offset=600), data[600:])
        while held.let():
            pass
        self.assertEqual(self.acked(two), [head_of(data).name])
        self.assertNotIn("LOG_CHANNEL_CUT", self.events)

    def test_what_a_crash_left_is_removed_at_the_start(self):
        data = os.urandom(100)
        self.greeted().say(m.Begin(head=head_of(data)), data)
        stray = self.state / "received" / "se-9" / f"{SPOOL}-0000000000000055.zst"
        stray.write_bytes(b"never acknowledged")
        self.done(self.intake.start())
        self.assertEqual(
            [path.name for path in (self.state / "received" / "se-9").iterdir()],
            [f"{head_of(data).name}.zst"],
        )


class Bad(Links):
    """Disks that are."""

    def test_a_file_that_is_gone_before_it_is_kept_holds_nobody_up(self):
        held = Held()
        wire = self.greeted()
        self.intake.threads = Threads(self.writes, held)
        one, two = os.urandom(100), os.urandom(100)
        wire.say(m.Begin(head=head_of(one, 1)), one, m.Begin(head=head_of(two, 2)), two)
        (self.state / "incoming" / "se-9" / f"{head_of(one, 1).name}.part").unlink()
        while held.let():
            pass
        self.tick()
        ack, refuse = sorted(wire.heard(), key=lambda message: message.__struct_config__.tag)
        self.assertEqual(ack.names, (head_of(two, 2).name,))
        self.assertEqual((refuse.name, refuse.reason), (head_of(one, 1).name, "again"))
        wire.say(m.Begin(head=head_of(one, 1)), one)
        while held.let():
            pass
        self.assertEqual(self.acked(wire), [head_of(one, 1).name])
        self.assertEqual(self.intake._claims, {})

    def test_a_bad_place_on_the_disk_is_one_segments_affair(self):
        wire = self.greeted()
        logs, data = self.intake.logs, os.urandom(100)
        part_of = logs.part

        def bad(segment, offset):
            part = part_of(segment, offset)

            def sync():
                raise OSError(errno.EIO, "bad block")

            part.sync = sync
            return part

        logs.part = bad
        wire.say(m.Begin(head=head_of(data)), data)
        self.tick()
        self.assertEqual(self.refused(wire), ["again"])
        logs.part = part_of
        wire.say(m.Begin(head=head_of(data)), data)
        self.assertEqual(self.acked(wire), [head_of(data).name])


class Crashes(Links):
    """The controller dies at each step of keeping a segment."""

    def test_at_any_step_leave_a_segment_that_is_not_acknowledged_or_one_that_is_there(self):
        data = os.urandom(1000)

        logs = self.intake.logs
        for step in range(8):
            left = [step]

            def die(call, left=left):
                def stepped(*args):
                    left[0] -= 1
                    if left[0] < 0:
                        raise DiedError
                    return call(*args)

                return stepped

            head = head_of(data, step + 1)
            part = logs.part(self.segment(head), 0)
            part.open()
            part.append(memoryview(data))
            part.sync, part.settle = die(part.sync), die(part.settle)
            receive, self.ledger.receive = self.ledger.receive, die(self.ledger.receive)
            try:
                logs.keep([(part, "")], die(lambda: None))
                died = False
            except DiedError:
                died = True
            finally:
                self.ledger.receive = receive
            # Start again.
            fresh = IncomingLogs(self.state, self.ledger, logs._syncs, IntakeLimits(free_bytes=0))
            fresh.sweep()
            known = self.ledger.known(self.segment(head))
            path = self.state / "received" / "se-9" / f"{head.name}.zst"
            self.assertEqual(path.exists(), known, step)
            # What was whole and in its place is kept, though nobody was told.
            self.assertTrue(known or died, step)
            if not known:
                part = fresh.part(self.segment(head), 0)
                part.open()
                part.append(memoryview(data))
                fresh.keep([(part, "")])
            self.assertEqual(content(path), data)

    def segment(self, head):
        return Segment("se-9", head)
