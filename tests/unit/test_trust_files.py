import errno
import os

from twisted.trial.unittest import SynchronousTestCase

from avinet.trust import files
from tests.unit.trust_kit import folder, mode


class WholeFiles(SynchronousTestCase):
    def setUp(self):
        self.folder = folder(self)
        self.path = self.folder / "secret"

    def test_a_private_file_is_0600_and_a_public_one_0644_whatever_the_umask(self):
        before = os.umask(0o077)
        self.addCleanup(os.umask, before)
        files.write_private(self.path, b"one")
        files.write_public(self.folder / "open", b"two")
        self.assertEqual(mode(self.path), 0o600)
        self.assertEqual(mode(self.folder / "open"), 0o644)
        self.assertEqual(files.read_private(self.path), b"one")

    def test_nothing_is_left_beside_a_written_file(self):
        files.write_private(self.path, b"one")
        files.write_private(self.path, b"two")
        self.assertEqual([p.name for p in self.folder.iterdir()], ["secret"])
        self.assertEqual(self.path.read_bytes(), b"two")

    def test_what_a_crash_left_beside_a_file_does_not_stop_the_next_writing(self):
        (self.folder / ".secret.new").write_bytes(b"half")
        files.write_private(self.path, b"whole")
        self.assertEqual(self.path.read_bytes(), b"whole")

    def test_a_link_in_place_of_the_temporary_file_is_not_followed(self):
        target = self.folder / "target"
        target.write_bytes(b"mine")
        (self.folder / ".secret.new").symlink_to(target)
        files.write_private(self.path, b"whole")
        self.assertEqual(target.read_bytes(), b"mine")

    def test_a_failed_step_leaves_the_old_file_and_names_the_path(self):
        files.write_private(self.path, b"old")
        for step in ("write", "fsync", "fchmod"):
            with self.subTest(step=step):

                def fail(*args):
                    raise OSError(errno.EIO, "I/O")

                patcher = self.patch(files.os, step, fail)
                failure = self.assertRaises(files.FileUnwritableError, files.write_private, self.path, b"new")
                patcher.restore()
                self.assertIn(str(self.path), str(failure))
                self.assertEqual(files.read_private(self.path), b"old")
                self.assertEqual([p.name for p in self.folder.iterdir()], ["secret"])

    def test_a_full_disk_is_its_own_error(self):
        for number in (errno.ENOSPC, errno.EDQUOT):

            def full(*args, number=number):
                raise OSError(number, "full")

            patcher = self.patch(files.os, "write", full)
            self.assertRaises(files.DiskFullError, files.write_private, self.path, b"new")
            patcher.restore()
        self.assertFalse(self.path.exists())

    def test_a_short_write_is_continued(self):
        write = os.write
        self.patch(files.os, "write", lambda fd, view: write(fd, bytes(view[:3])))
        files.write_private(self.path, b"0123456789")
        self.assertEqual(self.path.read_bytes(), b"0123456789")

    def test_a_file_that_others_can_read_is_refused_and_its_mode_named(self):
        files.write_private(self.path, b"secret words")
        for exposed in (0o640, 0o604, 0o620):
            self.path.chmod(exposed)
            failure = self.assertRaises(files.FileExposedError, files.read_private, self.path)
            self.assertIn(f"{exposed:04o}", str(failure))
            self.assertNotIn("secret words", str(failure) + repr(failure))

    def test_a_missing_file_is_said_to_be_missing(self):
        failure = self.assertRaises(files.FileUnreadableError, files.read_private, self.path)
        self.assertIn("No such file", str(failure))


class Folders(SynchronousTestCase):
    def test_a_private_folder_is_0700_even_if_it_was_there_with_another_mode(self):
        path = folder(self) / "a" / "b"
        files.private_dir(path)
        self.assertEqual(mode(path), 0o700)
        path.chmod(0o755)
        files.private_dir(path)
        self.assertEqual(mode(path), 0o700)

    def test_a_folder_that_others_use_is_refused_and_not_closed_to_them(self):
        path = folder(self) / "shared"
        path.mkdir(mode=0o755)
        path.chmod(0o755)
        (path / "theirs").write_text("x")
        failure = self.assertRaises(files.FolderSharedError, files.private_dir, path)
        self.assertIn("0755", str(failure))
        self.assertEqual(mode(path), 0o755)

    def test_a_file_where_a_folder_should_be_is_a_clear_error(self):
        path = folder(self) / "a"
        path.write_bytes(b"")
        self.assertRaises(files.FileUnwritableError, files.private_dir, path)


class Destruction(SynchronousTestCase):
    def test_a_destroyed_file_is_overwritten_and_gone(self):
        path = folder(self) / "secret"
        other = path.with_name("link")
        files.write_private(path, b"secret")
        other.hardlink_to(path)
        files.destroy(path)
        self.assertFalse(path.exists())
        self.assertEqual(other.read_bytes(), bytes(6))

    def test_destroying_what_is_not_there_is_no_error(self):
        files.destroy(folder(self) / "nothing")

    def test_a_full_disk_does_not_keep_a_secret_alive(self):
        path = folder(self) / "secret"
        files.write_private(path, b"secret")
        fsync, failed = os.fsync, []

        def once(descriptor):
            if not failed:
                failed.append(1)
                raise OSError(errno.ENOSPC, "full")
            fsync(descriptor)

        self.patch(files.os, "fsync", once)
        files.destroy(path)
        self.assertTrue(failed)
        self.assertFalse(path.exists())
