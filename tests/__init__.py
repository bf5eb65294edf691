"""All tests.  Whatever folders they make lie in one, which goes when the process ends."""

import atexit
import shutil
import tempfile

tempfile.tempdir = tempfile.mkdtemp(prefix="avt-")
atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)
