"""The page of the configuration's fields is what the model says, and the examples are what it takes."""

import importlib.util
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from avinet.model.advice import advice
from avinet.model.certificates import facts_of
from avinet.model.config import KINDS, SSLKeyAndCertificate
from avinet.model.documents import parse_documents
from avinet.model.plan import plan_change
from avinet.units import YEAR_S
from tests.unit.test_model_intake import GROUP, configuration

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "etc" / "examples").glob("*.yaml"))
EMPTY = configuration(GROUP)


def generator():
    spec = importlib.util.spec_from_file_location(
        "make_configuration", ROOT / "docs" / "make_configuration.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ThePage(SynchronousTestCase):
    def test_is_as_the_model_is(self):
        made = generator().page()
        same = made == (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
        self.assertTrue(same, "write it anew: python docs/make_configuration.py")
        for kind in KINDS.values():
            self.assertIn(f"\n## {kind.__name__}\n", made)


class Examples(SynchronousTestCase):
    def documents(self, path):
        return parse_documents(path.read_text(encoding="utf-8"), path.name)

    def test_each_is_taken_by_itself_and_nothing_is_to_be_said(self):
        self.assertGreaterEqual(len(EXAMPLES), 4)
        for path in EXAMPLES:
            plan = plan_change(EMPTY, self.documents(path))
            made = configuration(GROUP, *plan.puts)
            # Their certificates are for ten years; a year before the end somebody should make new ones.
            ends = [
                facts_of(thing.certificate.certificate).not_after.timestamp()
                for thing in plan.puts
                if isinstance(thing, SSLKeyAndCertificate)
            ]
            now = min(ends, default=0.0) - YEAR_S
            self.assertEqual(advice(made, [thing.uuid for thing in plan.puts], now), (), path.name)

    def test_all_are_taken_together(self):
        documents = [one for path in EXAMPLES for one in self.documents(path)]
        self.assertEqual(len(plan_change(EMPTY, documents).puts), len(documents))
