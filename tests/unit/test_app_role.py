"""A role's state folder: whose it is, and which pid file to believe."""

import os
import tempfile
from pathlib import Path

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.role import own_pid_file, own_state_folder
from avinet.trust.locks import StateFolderBusyError, StateLock


class Parent(usage.Options):
    optParameters = [["pidfile", None, "twistd.pid", "as twistd has it"]]


class StateFolder(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="avinet-role-"))
        self.pid = self.folder / "x.pid"
        self.options = usage.Options()
        self.options.parent = Parent()

    def own(self):
        own_pid_file(self.options, self.folder, "x.pid", "avinet x")
        return self.options.parent["pidfile"]

    def test_a_pid_file_nobody_works_under_is_gone_whatever_it_says(self):
        for text in ("1\n", "", "nonsense"):
            self.options.parent["pidfile"] = "twistd.pid"
            self.pid.write_text(text)
            self.assertEqual(self.own(), str(self.pid))
            self.assertFalse(self.pid.exists())

    def test_the_pid_file_of_whoever_holds_the_folder_stays_and_a_second_is_refused(self):
        self.pid.write_text("4711\n")
        release = StateLock.take(self.folder, "avinet x").release
        self.addCleanup(release)
        refused = self.assertRaises(SystemExit, self.own)
        self.assertIn(str(os.getpid()), str(refused))
        self.assertIn(str(self.folder), str(refused))
        self.assertEqual(self.pid.read_text(), "4711\n")

    def test_a_folder_let_go_may_be_held_again(self):
        StateLock.take(self.folder, "avinet x").release()
        release = StateLock.take(self.folder, "avinet x").release
        self.assertRaises(StateFolderBusyError, StateLock.take, self.folder, "avinet x")
        release()

    def test_a_pid_file_that_the_user_named_is_left_alone(self):
        self.options.parent["pidfile"] = "mine.pid"
        self.assertEqual(self.own(), "mine.pid")

    def test_an_empty_folder_becomes_private_and_a_shared_one_is_refused(self):
        self.folder.chmod(0o755)
        own_state_folder(self.folder)
        self.assertEqual(self.folder.stat().st_mode & 0o777, 0o700)
        (self.folder / "others").touch()
        self.folder.chmod(0o755)
        self.assertIn("0755", str(self.assertRaises(SystemExit, own_state_folder, self.folder)))
        deep = self.folder / "a" / "b" / "c"
        own_state_folder(deep)
        self.assertTrue(deep.is_dir())
