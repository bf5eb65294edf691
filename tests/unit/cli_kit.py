"""Running the ``avinet`` program in this process against recorded answers."""

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.cli.main import cli
from tests.unit.api_double import ApiDouble

ENGINE = {
    "name": "se-1",
    "uuid": "se-11",
    "state": "UP",
    "in_sync": True,
    "group": "G",
    "loopback": "127.1.0.1",
    "rtt_ms": 1.234,
    "version": 3,
    "software": "0.1.0",
    "placeable": True,
    "created_at": 0.0,
}
META = {"cluster": "c", "controllers": ["h:8443"], "token": "avt1.a.b"}


class CliCase(SynchronousTestCase):
    def setUp(self):
        self.api = ApiDouble(self)
        self.answers = self.api.answers

    def run_cli(self, *arguments, text=None):
        return CliRunner().invoke(cli, ["--state", str(self.api.state), *arguments], input=text)

    def answer_of(self, *arguments, text=None):
        result = self.run_cli(*arguments, text=text)
        self.assertEqual(result.exit_code, 0, result.output)
        return result.stdout
