"""Files: ``--out FILE``, looked at before anything is asked for; and what ``avinet se copy`` says beside scp."""

import errno
import os
from pathlib import Path
from unittest import mock

from avinet.app.cli.files import hint_for
from tests.unit.api_double import Answer
from tests.unit.cli_kit import ENGINE, META, CliCase

TOKEN = {"uuid": "0123456789ab", "count": 1, "group": "G", "expires_at": 0.0}


class OutFiles(CliCase):
    def setUp(self):
        super().setUp()
        self.answers["POST", "/api/serviceengine"] = Answer(201, {"engine": ENGINE, "meta_info": META})
        self.answers["POST", "/api/setoken"] = Answer(201, {"token": TOKEN, "meta_info": META})

    def test_a_folder_that_cannot_be_written_is_told_before_anything_is_made(self):
        for line in (("se", "create", "--name", "se-1"), ("se", "token", "create"), ("image", "build")):
            result = self.run_cli(*line, "--out", "/nonexistent/meta.json")
            self.assertEqual((result.exit_code, self.api.asked), (1, []), line)
            self.assertIn("/nonexistent/meta.json", result.stderr)

    def test_a_disk_that_is_full_by_then_does_not_hide_what_was_made(self):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for line, made in (
            (("se", "create", "--name", "se-1"), "Service engine se-1 was created"),
            (("se", "token", "create"), "avinet se token revoke 0123456789ab"),
        ):
            with mock.patch("os.fsync", side_effect=full):
                result = self.run_cli(*line, "--out", str(self.api.state / "m.json"))
            self.assertEqual(result.exit_code, 1)
            self.assertIn(made, result.stderr)
            self.assertNotIn("Nothing was changed", result.stderr)
            self.assertEqual([path.name for path in self.api.state.iterdir()], ["api.sock"])

    def test_the_steps_name_the_file_as_it_is_called_there_and_the_token(self):
        out = Path(self.api.state) / "se-9.json"
        shown = self.answer_of("se", "token", "create", "--out", str(out))
        self.assertIn("sh -s -- avinet-se.tar se-9.json", shown)
        self.assertIn("avinet se token revoke a", shown)
        self.assertIn("venv/bin/pip install", shown)


class Copies(CliCase):
    def test_what_is_wrong_with_a_file_here_is_told_before_an_engine_is_asked(self):
        for source, words in (("/nonexistent/f", "No such file"), (str(self.api.state), "copy it with -r")):
            result = self.run_cli("se", "copy", source, "se-1:")
            self.assertNotEqual(result.exit_code, 0)
            self.assertIn(source, result.stderr)
            self.assertIn(words, result.stderr)
        self.assertEqual(self.api.asked, [])

    def test_scps_own_words_are_explained(self):
        self.assertIn("-r", hint_for("scp: download folder/: not a regular file\n", "se-1"))
        hint = hint_for("/usr/bin/scp: /etc/hosts: No such file or directory\n", "se-1")
        self.assertIn("folder for files", hint)
        self.assertIn("avinet se exec se-1 -- cat", hint)
        for plain in ("", '/usr/bin/scp: open local "/nowhere/x": No such file or directory\n'):
            self.assertEqual(hint_for(plain, "se-1"), "")
