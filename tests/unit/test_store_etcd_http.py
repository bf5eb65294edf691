"""Connections to etcd end at once, and only once."""

from twisted.internet.defer import succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from avinet.store.etcd_http import _Metered


class Endpoint:
    """Connects at once to nobody."""

    def connect(self, factory):
        protocol = factory.buildProtocol(None)
        self.transport = StringTransport()
        self.aborted = 0
        self.transport.abortConnection = self._abort
        protocol.makeConnection(self.transport)
        return succeed(protocol)

    def _abort(self):
        self.aborted += 1


class MeteredTests(SynchronousTestCase):
    def setUp(self):
        self.endpoint = Endpoint()
        self.kept = self.successResultOf(_Metered(self.endpoint).connect(Factory.forProtocol(Protocol)))

    def test_who_lets_go_of_one_ends_it_without_waiting(self):
        self.kept.transport.loseConnection()
        self.assertEqual(self.endpoint.aborted, 1)

    def test_who_lets_go_of_one_that_has_ended_does_nothing(self):
        self.kept.transport.connectionLost(Failure(ConnectionError()))
        self.kept.transport.loseConnection()
        self.assertEqual(self.endpoint.aborted, 0)
