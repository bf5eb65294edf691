"""etc/ shows every setting with its default, and nothing that is not one; its examples can be applied."""

import re
import tomllib
from pathlib import Path

import msgspec
import yaml
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.settings import (
    ControllerSettings,
    SeSettings,
    load_controller_settings,
    load_se_settings,
)
from avinet.controller.configuration import SYSTEM_DOCUMENTS
from avinet.model.configuration import Configuration, Stored
from avinet.model.documents import parse_documents
from avinet.model.ids import ConfigVersion
from avinet.model.plan import plan_change

ETC = Path(__file__).parents[2] / "etc"


class TheSettingsFiles(SynchronousTestCase):
    def shows_every_default(self, file, defaults):
        shown = tomllib.loads((ETC / file).read_text())
        self.assertEqual(shown, msgspec.json.decode(msgspec.json.encode(defaults)))

    def test_the_controllers_shows_every_default(self):
        self.assertEqual(load_controller_settings(ETC / "controller.toml"), ControllerSettings())
        self.shows_every_default("controller.toml", ControllerSettings())

    def test_the_service_engines_shows_every_default(self):
        self.assertEqual(load_se_settings(ETC / "se.toml"), SeSettings())
        self.shows_every_default("se.toml", SeSettings())


class TheExamples(SynchronousTestCase):
    def test_can_be_applied_to_a_new_cluster(self):
        new = plan_change(Configuration(), SYSTEM_DOCUMENTS)
        puts = [Stored(thing, 1) for thing in new.puts]
        cluster = Configuration().with_changes(ConfigVersion(1), puts, [])
        files = sorted((ETC / "examples").glob("*.yaml"))
        self.assertTrue(files)
        for file in files:
            plan = plan_change(cluster, parse_documents(file.read_text(), file.name))
            self.assertTrue(plan.created, file.name)

    def test_serve_on_no_port_of_the_controller_that_the_readme_starts(self):
        mine = set(re.findall(r"^port = (\d+)$", (ETC.parent / "README.md").read_text(), re.MULTILINE))
        self.assertTrue(mine)
        for file in (ETC / "examples").glob("*.yaml"):
            documents = [yaml.safe_load(text) for text in file.read_text().split("\n---\n")]
            ports = {str(one["port"]) for document in documents for one in document.get("services", ())}
            self.assertEqual(ports & mine, set(), file.name)
