"""What a start removes from the log store's folders, and what it must not."""

import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.store.folders import Folders


class CleanTests(SynchronousTestCase):
    def setUp(self):
        base = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, base)
        self.folders = Folders(base)
        self.folders.clean(())

    def put(self, *names):
        for name in names:
            path = self.folders.store / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")

    def there(self, folder="store"):
        root = self.folders.base / folder
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    def test_what_a_crash_left_goes(self):
        self.put("d/1", "d/2", "d/3")
        self.assertEqual(self.folders.clean({"d/1"}), 2)
        self.assertEqual(self.there(), ["d/1"])
        self.assertEqual(self.folders.clean({"d/1"}), 0)

    def test_the_first_file_of_all_that_was_not_listed_goes(self):
        self.put("d/1")
        self.assertEqual(self.folders.clean(()), 1)
        self.assertEqual(self.there(), [])

    def test_a_store_whose_list_was_lost_is_kept_aside_each_time(self):
        for number in (1, 2):
            self.put("d/1", "d/2")
            self.assertEqual(self.folders.clean(()), 0)
            self.assertEqual(self.there(), [])
            self.assertEqual(self.there(f"store.unlisted.{number}"), ["d/1", "d/2"])
