"""The controller's end of a command: its input, and what it asks for."""

import io
import os

from twisted.internet.defer import Deferred
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from avinet.ssh.errors import ConnectionEndedError
from avinet.ssh.remote import Streams, _ask, _Input, _RemoteCommand
from tests.unit.ssh_pipe import Controller


class _Channel:
    def __init__(self):
        self.written, self.calls = [], []

    def write(self, data):
        self.written.append(data)

    def registerProducer(self, producer, streaming):
        self.calls.append("register")

    def unregisterProducer(self):
        self.calls.append("unregister")

    def loseWriteConnection(self):
        self.calls.append("eof")


class _Reactor:
    def addReader(self, reader):
        pass

    def removeReader(self, reader):
        pass


class Input(SynchronousTestCase):
    def setUp(self):
        self.read, self.write = os.pipe()
        self.addCleanup(os.close, self.read)
        self.channel = _Channel()
        self.input = _Input(_Reactor(), self.read, self.channel)

    def test_a_last_empty_read_ends_the_remote_commands_input(self):
        os.write(self.write, b"abc")
        os.close(self.write)
        self.input.doRead()
        self.input.doRead()
        self.assertEqual(self.channel.written, [b"abc"])
        self.assertEqual(self.channel.calls, ["register", "unregister", "eof"])

    def test_a_pipe_that_epoll_calls_lost_ends_the_input_too_and_once(self):
        os.close(self.write)
        self.input.connectionLost(Failure(CONNECTION_LOST))
        self.input.connectionLost(Failure(CONNECTION_LOST))
        self.assertEqual(self.channel.calls, ["register", "unregister", "eof"])


class Asking(SynchronousTestCase):
    def test_a_session_that_is_closed_already_is_an_answer_for_people(self):
        controller = Controller()
        pipe, channel = controller.channel(controller.enrol())
        remote = _RemoteCommand(Streams(None, io.BytesIO(), io.BytesIO()))
        channel.open(5001, remote)
        pipe.pump()
        remote.transport.abortConnection()  # as it does itself, when whoever reads its output has gone
        asking = Deferred.fromCoroutine(_ask(channel, remote.transport, b"exec", b"", "'date'"))
        self.assertIn("'date'", str(self.failureResultOf(asking, ConnectionEndedError).value))
        pipe.pump()
        self.failureResultOf(remote.done, ConnectionEndedError)
