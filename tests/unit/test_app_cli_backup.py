"""``avinet backup`` and ``avinet restore`` as an operator types them, at a controller that is stopped."""

import json
import os
from pathlib import Path

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.cli.main import cli
from avinet.controller.state_engine_files import Progress, engine_files
from avinet.store.copying import Content, write_file
from avinet.store.interface import Entry
from avinet.trust import sealed
from avinet.trust.files import private_dir, write_private
from avinet.trust.node import ControllerIdentity
from tests.unit.test_app_backup import FACTS


class BackupCommands(SynchronousTestCase):
    def setUp(self):
        self.patch(sealed, "SCRYPT_N", 1024)
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.state, self.file = self.folder / "c1", self.folder / "c1.backup"
        self.paths = ControllerIdentity.init(self.state, FACTS).paths
        write_file(self.paths.store, Content((Entry("a", b"1", 0, 0),), {}, 1))
        self.secret = self.folder / "pass"
        write_private(self.secret, b"correct horse battery\n")

    def run_cli(self, *arguments, state=None, secret=None):
        given = ("--passphrase-file", str(secret or self.secret))
        words = ["--state", str(state or self.state), arguments[0], *given, *arguments[1:]]
        return CliRunner().invoke(cli, words)

    def refused(self, status, *words, **options):
        result = self.run_cli(*options.pop("arguments"), **options)
        self.assertEqual(result.exit_code, status, result.output)
        for word in words:
            self.assertIn(word, result.stderr)
        self.assertNotIn("Traceback", result.stderr)

    def backed_up(self):
        result = self.run_cli("backup", "--json", str(self.file))
        self.assertEqual(result.exit_code, 0, result.output)
        return json.loads(result.stdout)

    def test_there_and_back(self):
        made = self.backed_up()
        self.assertEqual((made["controller"], made["keys"], made["root_key"]), ("c1", 1, True))
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)
        verified = self.run_cli("backup", "--verify", "--json", str(self.file))
        self.assertEqual(json.loads(verified.stdout)["sha256"], made["sha256"])
        new = self.folder / "new"
        restored = self.run_cli("restore", str(self.file), state=new)
        self.assertEqual(restored.exit_code, 0, restored.output)
        self.assertIn("accept-restored", restored.stdout)
        self.assertEqual((new / "trust/root.key").read_bytes(), self.paths.root_key.read_bytes())

    def test_by_a_descriptor(self):
        for words in (("backup",), ("backup", "--verify")):
            reader, writer = os.pipe()
            os.write(writer, b"correct horse battery\n")
            os.close(writer)
            line = ["--state", str(self.state), *words, "--passphrase-fd", str(reader), str(self.file)]
            self.assertEqual(CliRunner().invoke(cli, line).exit_code, 0)
            os.close(reader)

    def test_a_file_that_is_there_stays_unless_told(self):
        self.file.write_text("mine")
        self.refused(1, "exists", "--force", arguments=("backup", str(self.file)))
        self.assertEqual(self.file.read_text(), "mine")
        self.assertEqual(self.run_cli("backup", "--force", str(self.file)).exit_code, 0)

    def test_what_is_wrong_with_a_backup_is_said_and_nothing_is_made_of_it(self):
        self.backed_up()
        whole, new = self.file.read_bytes(), self.folder / "new"
        other = self.folder / "other"
        write_private(other, b"another passphrase")
        for status, word, data, secret in (
            (6, "not the passphrase", whole, other),
            (2, "cut off", whole[:-5], None),
            (2, "damaged", whole[:200] + b"\0\0\0" + whole[203:], None),
            (2, "follows its end", whole + b"x", None),
            (2, "no backup", b"PK\x03\x04" * 100, None),
            (2, "does not know", whole.replace(b"sealed 1", b"sealed 7", 1), None),
        ):
            self.file.write_bytes(data)
            self.refused(status, word, arguments=("backup", "--verify", str(self.file)), secret=secret)
            self.refused(status, word, arguments=("restore", str(self.file)), state=new, secret=secret)
            self.assertFalse(new.exists())
        self.file.unlink()
        self.refused(3, "Cannot read", arguments=("restore", str(self.file)), state=new)

    def test_a_state_folder_in_use_is_left_as_it_is(self):
        self.backed_up()
        before = self.paths.store.read_bytes()
        self.refused(4, "not empty", arguments=("restore", str(self.file)))
        self.assertEqual(self.paths.store.read_bytes(), before)

    def test_a_passphrase_that_is_short_missing_or_twice_is_refused_and_no_file_is_left(self):
        short = self.folder / "short"
        write_private(short, b"short\n")
        self.refused(2, "12", arguments=("backup", str(self.file)), secret=short)
        self.refused(2, "two sources", arguments=("backup", "--passphrase-fd", "0", str(self.file)))
        nobody = CliRunner().invoke(cli, ["--state", str(self.state), "backup", str(self.file)])
        self.assertEqual((nobody.exit_code, "--passphrase-file" in nobody.stderr), (2, True))
        self.secret.chmod(0o644)
        self.refused(6, "mode 0644", arguments=("backup", str(self.file)))
        self.assertEqual({path.name for path in self.folder.iterdir()}, {"c1", "pass", "short"})

    def test_a_state_engine_that_is_stopped_cannot_be_read(self):
        self.paths.store.unlink()
        private_dir(engine_files(self.state).folder)
        engine_files(self.state).reached(Progress(phase="serving", initial_cluster=""))
        self.refused(5, "Start it", arguments=("backup", str(self.file)))
        self.assertFalse(self.file.exists())

    def test_a_full_disk_is_said_and_nothing_is_left(self):
        self.refused(1, "Cannot write", arguments=("backup", str(self.folder / "nowhere" / "c1.backup")))
