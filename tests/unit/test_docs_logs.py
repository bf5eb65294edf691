"""docs/logs.md lists the fields that there are, and its queries are queries."""

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from avinet.app.cli.logs import logs
from avinet.app.cli.logs_query import query
from avinet.logs.query.fields import FIELDS
from avinet.logs.query.parser import parse
from tests.unit.log_query_kit import NOW_US

DOCUMENT = Path(__file__).parents[2] / "docs" / "logs.md"


class TheDocumentOnLogs(SynchronousTestCase):
    def setUp(self):
        self.text = DOCUMENT.read_text()

    def test_it_lists_every_field_and_word_for_it(self):
        for field in FIELDS.values():
            row = next(line for line in self.text.splitlines() if line.startswith(f"| `{field.name}` |"))
            self.assertIn(field.help, row)
            self.assertEqual(re.findall("`([^`]+)`", row)[1:], list(field.aliases))

    def test_its_queries_can_be_read(self):
        asked = re.findall(
            r"^(?:\$ )?avinet logs (?:query|tail|export \S+)(?: --full)? '([^']+)'", self.text, re.MULTILINE
        )
        self.assertGreater(len(asked), 10)
        for text in asked:
            if "staus" not in text:
                parse(text, NOW_US)

    def test_its_examples_of_the_language_can_be_read(self):
        table = self.text.partition("## The language")[2].partition("Times so long ago")[0]
        rows = [row for row in table.splitlines() if row.startswith("| `") and "`a b`" not in row]
        texts = [text for row in rows for text in re.findall("`([^`]+)`", row.split(" | ")[0])]
        self.assertGreater(len(texts), 25)
        for text in texts:
            parse(text, NOW_US)

    def test_its_options_and_commands_are_there(self):
        known = {name for command in logs.commands.values() for one in command.params for name in one.opts}
        self.assertLessEqual(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", self.text)), known)
        for command in re.findall(r"avinet logs (\w+)", self.text):
            self.assertIn(command, logs.commands)

    def test_help_examples_can_be_read(self):
        for text in re.findall(r"logs query '([^']+)'", query.epilog):
            parse(text, NOW_US)
