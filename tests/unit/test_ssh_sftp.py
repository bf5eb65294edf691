"""The SFTP server: what clients need, and what hostile ones do not get."""

import os
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import RemoteProtocolError
from avinet.ssh import sftp_wire as wire
from avinet.ssh.confined import ConfinedFolder, PathRefusedError, names_of
from avinet.ssh.fields import string, uint32
from avinet.ssh.files import FilesSession
from avinet.ssh.sftp import MAX_HANDLES, SftpServer

READS, WRITES = wire.FLAG_READ, wire.FLAG_WRITE | wire.FLAG_CREATE
NO_ATTRIBUTES = uint32(0)


def offset(number):
    return number.to_bytes(8, "big")


class Sftp(SynchronousTestCase):
    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.outside = Path(held.name)
        self.root = self.outside / "files"
        self.folder = ConfinedFolder(self.root, max_bytes=10_000, max_entries=20)
        self.server = SftpServer(self.folder)
        self.addCleanup(self.server.close)
        self.server.handle(wire.INIT, uint32(3))

    def ask(self, kind, *fields):
        answer = self.server.handle(kind, uint32(7) + b"".join(fields))
        self.assertEqual(answer[1:5], uint32(7))
        return answer[0], answer[5:]

    def status(self, kind, *fields):
        answered, body = self.ask(kind, *fields)
        self.assertEqual(answered, wire.STATUS)
        return struct.unpack(">L", body[:4])[0]

    def opened(self, path, flags=READS, attributes=NO_ATTRIBUTES):
        kind, body = self.ask(wire.OPEN, string(path), uint32(flags), attributes)
        self.assertEqual(kind, wire.HANDLE, body)
        return body

    def put(self, path, data):
        handle = self.opened(path, WRITES | wire.FLAG_TRUNCATE)
        self.assertEqual(self.status(wire.WRITE, handle, offset(0), string(data)), wire.OK)
        self.assertEqual(self.status(wire.CLOSE, handle), wire.OK)

    def test_a_file_goes_there_and_back(self):
        self.assertEqual(self.status(wire.MKDIR, string(b"sub"), NO_ATTRIBUTES), wire.OK)
        self.put(b"/sub/a", b"hello")
        self.assertEqual((self.root / "sub/a").read_bytes(), b"hello")
        self.assertEqual((self.root / "sub/a").stat().st_mode & 0o777, 0o600)
        handle = self.opened(b"sub/../sub/./a")
        self.assertEqual(self.ask(wire.READ, handle, offset(1), uint32(100)), (wire.DATA, string(b"ello")))
        self.assertEqual(self.status(wire.READ, handle, offset(5), uint32(100)), wire.EOF)
        kind, body = self.ask(wire.OPENDIR, string(b"/sub"))
        kind, listed = self.ask(wire.READDIR, body)
        self.assertEqual(kind, wire.NAME)
        self.assertIn(b"-rw-------", listed)
        self.assertEqual(self.status(wire.READDIR, body), wire.EOF)
        self.server.close()
        self.assertEqual(self.server.told, ["put sub/a (5 B)", "got sub/a (4 B)"])

    def test_nothing_outside_is_reached(self):
        secret = self.outside / "secret"
        secret.write_bytes(b"secret")
        for path in (b"../secret", b"/../../secret", b"a/../../secret", os.fsencode(secret)):
            self.assertEqual(
                self.status(wire.OPEN, string(path), uint32(READS), NO_ATTRIBUTES), wire.NO_SUCH_FILE, path
            )
        _kind, body = self.ask(wire.REALPATH, string(b"../../etc"))
        self.assertIn(string(b"/etc"), body)

    def test_links_are_not_followed_at_the_end_nor_on_the_way(self):
        (self.outside / "secret").write_bytes(b"secret")
        (self.root / "file").symlink_to(self.outside / "secret")
        (self.root / "up").symlink_to(self.outside)
        for kind, fields in (
            (wire.OPEN, (string(b"file"), uint32(READS), NO_ATTRIBUTES)),
            (wire.OPEN, (string(b"file"), uint32(WRITES | wire.FLAG_TRUNCATE), NO_ATTRIBUTES)),
            (wire.OPEN, (string(b"up/secret"), uint32(READS), NO_ATTRIBUTES)),
            (wire.OPEN, (string(b"up/new"), uint32(WRITES), NO_ATTRIBUTES)),
            (wire.OPENDIR, (string(b"up"),)),
            (wire.REMOVE, (string(b"up/secret"),)),
            (wire.RENAME, (string(b"up/secret"), string(b"mine"))),
            (wire.SETSTAT, (string(b"file"), uint32(4), uint32(0o777))),
            (wire.SYMLINK, (string(b"x"), string(b"/etc/passwd"))),
            (wire.READLINK, (string(b"file"),)),
        ):
            self.assertNotIn(self.status(kind, *fields), {wire.OK, wire.EOF}, fields)
        self.assertEqual((self.outside / "secret").read_bytes(), b"secret")
        self.assertEqual(sorted(p.name for p in self.outside.iterdir()), ["files", "secret"])
        # What is a link itself can be seen and taken away.
        kind, _body = self.ask(wire.STAT, string(b"file"))
        self.assertEqual(kind, wire.ATTRS)
        self.assertEqual(self.status(wire.REMOVE, string(b"file")), wire.OK)

    def test_what_is_no_file_is_not_opened_and_blocks_nobody(self):
        os.mkfifo(self.root / "fifo")
        for flags in (READS, WRITES):
            self.assertNotEqual(
                self.status(wire.OPEN, string(b"fifo"), uint32(flags), NO_ATTRIBUTES), wire.OK
            )
        self.assertNotEqual(self.status(wire.OPEN, string(b"/"), uint32(READS), NO_ATTRIBUTES), wire.OK)

    def test_the_folder_has_a_bound_that_removed_open_files_count_for(self):
        handle = self.opened(b"a", WRITES)
        self.assertEqual(self.status(wire.WRITE, handle, offset(0), string(bytes(9_000))), wire.OK)
        self.assertEqual(self.status(wire.WRITE, handle, offset(9_000), string(bytes(2_000))), wire.FAILURE)
        self.assertEqual(self.status(wire.REMOVE, string(b"a")), wire.OK)
        other = self.opened(b"b", WRITES)
        self.assertEqual(self.status(wire.WRITE, other, offset(0), string(bytes(2_000))), wire.FAILURE)
        self.assertEqual(self.status(wire.CLOSE, handle), wire.OK)
        self.assertEqual(self.status(wire.WRITE, other, offset(0), string(bytes(2_000))), wire.OK)
        self.assertEqual(self.status(wire.WRITE, other, offset(2**61), string(b"x")), wire.FAILURE)
        self.assertEqual(self.status(wire.FSETSTAT, other, uint32(1), offset(2**40)), wire.FAILURE)
        self.assertEqual((self.root / "b").stat().st_size, 2_000)

    def test_entries_and_handles_have_a_bound(self):
        codes = [self.status(wire.MKDIR, string(b"%d" % n), NO_ATTRIBUTES) for n in range(22)]
        self.assertEqual(codes, [wire.OK] * 20 + [wire.FAILURE] * 2)
        for _ in range(MAX_HANDLES):
            self.assertEqual(self.ask(wire.OPENDIR, string(b"/"))[0], wire.HANDLE)
        self.assertEqual(self.status(wire.OPENDIR, string(b"/")), wire.FAILURE)

    def test_all_sessions_together_have_a_bound_of_what_is_open(self):
        self.folder.max_open = MAX_HANDLES
        self.put(b"a", b"x")
        handles = [self.ask(wire.OPENDIR, string(b"/"))[1] for _ in range(MAX_HANDLES // 2)]
        handles += [self.opened(b"a") for _ in range(MAX_HANDLES // 2)]
        other = SftpServer(self.folder)
        self.addCleanup(other.close)
        other.handle(wire.INIT, uint32(3))
        ask = lambda: other.handle(wire.OPENDIR, uint32(7) + string(b"/"))[0]
        before = len(list(Path("/proc/self/fd").iterdir()))
        for refused in (
            ask,
            lambda: other.handle(wire.OPEN, uint32(7) + string(b"a") + uint32(READS) + NO_ATTRIBUTES)[0],
        ):
            self.assertEqual(refused(), wire.STATUS)
        for handle in handles:
            self.assertEqual(self.status(wire.CLOSE, handle), wire.OK)
        self.assertEqual(len(list(Path("/proc/self/fd").iterdir())), before - MAX_HANDLES * 3 // 2)
        self.assertEqual(ask(), wire.HANDLE)

    def test_a_listing_is_read_as_it_is_told(self):
        for n in range(2_000):
            (self.root / f"n{n}").touch()
        with mock.patch.object(os, "stat", wraps=os.stat) as looked:
            listings = [self.ask(wire.OPENDIR, string(b"/"))[1] for _ in range(MAX_HANDLES)]
        self.assertLess(looked.call_count, 2_000)
        told = 0
        while (answer := self.ask(wire.READDIR, listings[0]))[0] == wire.NAME:
            told += int.from_bytes(answer[1][:4], "big")
        self.assertEqual(told, 2_000)

    def test_folders_of_a_local_user_that_are_deeper_than_any_path_keep_nobody_out(self):
        at = os.open(self.root, os.O_RDONLY)
        for _ in range(1_500):
            os.mkdir("d", dir_fd=at)
            below = os.open("d", os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.close(at)
        self.addCleanup(subprocess.run, ["rm", "-r", self.root / "d"], check=True)
        self.server.close()
        self.server = SftpServer(self.folder)
        self.server.handle(wire.INIT, uint32(3))
        self.assertEqual(self.ask(wire.STAT, string(b"d" + b"/d" * 20))[0], wire.ATTRS)

    def test_handles_are_good_until_they_are_closed_and_for_what_they_are(self):
        self.put(b"a", b"x")
        handle = self.opened(b"a")
        self.assertEqual(self.status(wire.WRITE, handle, offset(0), string(b"y")), wire.PERMISSION_DENIED)
        self.assertEqual(self.status(wire.READDIR, handle), wire.BAD_MESSAGE)
        self.assertEqual(self.status(wire.CLOSE, handle), wire.OK)
        for kind in (wire.CLOSE, wire.FSTAT):
            self.assertEqual(self.status(kind, handle), wire.BAD_MESSAGE)
        self.assertEqual(self.status(wire.READ, string(b"\0" * 9), offset(0), uint32(1)), wire.BAD_MESSAGE)

    def test_a_read_of_gigabytes_is_a_read_of_a_packet(self):
        (self.root / "big").write_bytes(bytes(400_000))
        kind, body = self.ask(wire.READ, self.opened(b"big"), offset(0), uint32(2**32 - 1))
        self.assertEqual((kind, len(body) - 4), (wire.DATA, wire.MAX_DATA_BYTES))

    def test_odd_names_are_refused(self):
        for path in (b"a\0b", b"x" * 5_000, b"/a" * 40):
            self.assertRaises(PathRefusedError, names_of, path)
        self.assertEqual(self.status(wire.MKDIR, string(b"x" * 300), NO_ATTRIBUTES), wire.FAILURE)

    def test_renaming_keeps_what_is_there_unless_told_otherwise(self):
        self.put(b"a", b"1")
        self.put(b"b", b"2")
        self.assertEqual(self.status(wire.RENAME, string(b"a"), string(b"b")), wire.FAILURE)
        rename = string(b"posix-rename@openssh.com")
        self.assertEqual(self.status(wire.EXTENDED, rename, string(b"a"), string(b"b")), wire.OK)
        self.assertEqual([p.name for p in self.root.iterdir()], ["b"])

    def test_a_file_renamed_onto_itself_takes_the_space_it_took(self):
        self.put(b"a", bytes(6_000))
        os.link(self.root / "a", self.root / "b")
        rename = string(b"posix-rename@openssh.com")
        for new in (b"a", b"b"):
            self.assertEqual(self.status(wire.EXTENDED, rename, string(b"a"), string(new)), wire.OK)
        handle = self.opened(b"c", WRITES)
        self.assertEqual(self.status(wire.WRITE, handle, offset(0), string(bytes(6_000))), wire.FAILURE)

    def test_another_session_does_not_forget_what_is_removed_and_open(self):
        handle = self.opened(b"a", WRITES)
        self.assertEqual(self.status(wire.WRITE, handle, offset(0), string(bytes(9_000))), wire.OK)
        self.assertEqual(self.status(wire.REMOVE, string(b"a")), wire.OK)
        SftpServer(self.folder).handle(wire.INIT, uint32(3))
        other = self.opened(b"b", WRITES)
        self.assertEqual(self.status(wire.WRITE, other, offset(0), string(bytes(2_000))), wire.FAILURE)

    def test_sessions_side_by_side_count_what_is_there(self):
        """Looks and deeds of four threads, mixed as finely as the interpreter mixes them."""
        before = sys.getswitchinterval()
        self.addCleanup(sys.setswitchinterval, before)
        sys.setswitchinterval(1e-6)
        rename = string(b"posix-rename@openssh.com")

        def work(number):
            server = SftpServer(self.folder)
            server.handle(wire.INIT, uint32(3))
            ask = lambda kind, *fields: server.handle(kind, uint32(7) + b"".join(fields))
            for step in range(150):
                name, other = (string(b"%d" % ((step * number + n) % 3)) for n in (0, 1))
                opened = ask(wire.OPEN, name, uint32(WRITES | wire.FLAG_TRUNCATE * (step % 2)), NO_ATTRIBUTES)
                ask(wire.WRITE, opened[5:], offset(step * 7), string(bytes(500)))
                ask(wire.EXTENDED, rename, name, other)
                ask(wire.FSETSTAT, opened[5:], uint32(1), offset(step % 5 * 100))
                ask(wire.REMOVE, other)
                ask(wire.CLOSE, opened[5:])
            server.close()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        there = [path.stat().st_size for path in self.root.iterdir()]
        self.assertEqual((self.folder._bytes, self.folder._entries), (sum(there), len(there)))

    def test_folders_do_not_move_deeper(self):
        for name in (b"a", b"b"):
            self.status(wire.MKDIR, string(name), NO_ATTRIBUTES)
        self.assertEqual(self.status(wire.RENAME, string(b"a"), string(b"b/a")), wire.PERMISSION_DENIED)
        self.assertEqual(self.status(wire.RENAME, string(b"a"), string(b"c")), wire.OK)

    def test_files_stay_their_owners_and_get_no_special_bits(self):
        self.put(b"a", b"1")
        self.assertEqual(
            self.status(wire.SETSTAT, string(b"a"), uint32(2), uint32(0), uint32(0)), wire.PERMISSION_DENIED
        )
        self.assertEqual(self.status(wire.SETSTAT, string(b"a"), uint32(4), uint32(0o106755)), wire.OK)
        self.assertEqual((self.root / "a").stat().st_mode & 0o7777, 0o755)

    def test_it_begins_with_a_greeting(self):
        for kind, body in ((wire.OPENDIR, uint32(1) + string(b"/")), (wire.INIT, uint32(2))):
            self.assertRaises(RemoteProtocolError, SftpServer(self.folder).handle, kind, body)

    def test_requests_without_a_body_hold_the_channel_back_too(self):
        channel = mock.Mock()
        files = FilesSession(Clock(), self.folder, lambda *work: Deferred(), lambda moved, seconds: None)
        files.makeConnection(channel)
        files.dataReceived(uint32(1) + bytes((wire.CLOSE,)))  # the thread is at work
        for _ in range(100):
            files.dataReceived((uint32(1) + bytes((wire.CLOSE,))) * 100)
        channel.pauseProducing.assert_called()

    @given(st.integers(0, 255), st.binary(max_size=60))
    @settings(max_examples=300, deadline=None)
    def test_any_bytes_are_answered_or_end_the_session(self, kind, body):
        try:
            answer = self.server.handle(kind, body)
        except RemoteProtocolError:
            return
        self.assertGreater(len(answer), 4)

    def test_packets_are_whole_wherever_they_are_cut(self):
        stream = b"".join(string(bytes((n,)) * n) for n in range(1, 9))
        for size in range(1, 12):
            packets = wire.Packets()
            found = [
                found for at in range(0, len(stream), size) for found in packets.feed(stream[at : at + size])
            ]
            self.assertEqual([kind for kind, _ in found], list(range(1, 9)))
        for length in (0, wire.MAX_PACKET_BYTES + 1, 2**32 - 1):
            self.assertRaises(RemoteProtocolError, list, wire.Packets().feed(uint32(length)))
