"""What a start removes from the log store's folders, and what it must not."""

import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.store.folders import Folders


class TidyTests(SynchronousTestCase):
    def setUp(self):
        base = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, base)
        self.folders = Folders(base)
        self.folders.tidy()

    def put(self, *names):
        for name in names:
            path = self.folders.base / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")

    def test_what_was_never_whole_goes_and_what_is_stays(self):
        self.put("store/d/1", "store/d/.2.new", "exports/a.csv", "spill/query")
        self.folders.tidy()
        self.assertEqual({"d/1"}, self.folders.names())
        there = [path for path in self.folders.base.rglob("*") if path.is_file()]
        self.assertEqual([self.folders.store / "d/1"], there)

    def test_what_is_set_aside_is_kept_and_may_be_gone(self):
        self.put("store/d/1")
        for _ in range(2):
            self.folders.set_file_aside("d/1")
        self.assertEqual(["1"], [path.name for path in self.folders.bad.iterdir()])
        self.assertEqual(set(), self.folders.names())
