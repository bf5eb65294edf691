"""Things in the place of a private file, and lines that are almost ours."""

import os

from twisted.trial.unittest import SynchronousTestCase

from avinet.model.ids import SeId
from avinet.trust.authorized_keys import AuthorizedKeys, AuthorizedKeysLineError, Permit
from avinet.trust.files import (
    MAX_PRIVATE_BYTES,
    FileTooLargeError,
    FileUnreadableError,
    read_private,
    write_private,
)
from tests.unit.trust_kit import folder


class Odd(SynchronousTestCase):
    def setUp(self):
        self.path = folder(self) / "some.key"

    def test_the_largest_file_reads_whole(self):
        write_private(self.path, bytes(MAX_PRIVATE_BYTES))
        self.assertEqual(len(read_private(self.path)), MAX_PRIVATE_BYTES)

    def test_a_larger_file_is_refused_rather_than_cut(self):
        write_private(self.path, bytes(MAX_PRIVATE_BYTES + 1))
        why = self.assertRaises(FileTooLargeError, read_private, self.path)
        self.assertIn(f"{self.path} is over {MAX_PRIVATE_BYTES} bytes", str(why))

    def test_a_pipe_is_refused_rather_than_waited_for(self):
        os.mkfifo(self.path, 0o600)
        why = self.assertRaises(FileUnreadableError, read_private, self.path)
        self.assertIn("not a regular file", str(why))

    def test_a_folder_is_refused(self):
        self.path.mkdir(0o700)
        self.assertIn("directory", str(self.assertRaises(FileUnreadableError, read_private, self.path)))


class Lines(SynchronousTestCase):
    def test_a_line_of_ours_with_a_value_that_cannot_be_is_refused_by_its_number(self):
        key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea"
        permit = Permit(
            se=SeId("se-11111111-2222-4333-8444-555555555555"),
            key=key,
            loopback="127.1.0.1",
            reverse_port=5097,
            permit_open=(("localhost", 5025),),
            networks=("10.0.0.0/8",),
        )
        good = permit.render()
        self.assertEqual(len(AuthorizedKeys.parse(good)), 1)
        for bad in (
            good.replace(":5097", ":99999"),
            good.replace(":5025", ":0"),
            good.replace("10.0.0.0/8", "10.0.0.1/8"),
            good.replace(key, "ssh-ed25519 AAAA"),
            good.replace(key, key[:-4]),
        ):
            self.assertNotEqual(bad, good)
            why = self.assertRaises(AuthorizedKeysLineError, AuthorizedKeys.parse, f"{good}\n{bad}\n")
            self.assertEqual(why.number, 2)
