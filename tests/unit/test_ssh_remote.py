"""The controller's end of a command: its input, and what it asks for."""

import gc
import io
import os

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from avinet.ssh import keys, remote
from avinet.ssh.client import Timeouts, _Login
from avinet.ssh.commands import USER, CommandServer
from avinet.ssh.errors import ConnectionEndedError
from avinet.ssh.policy import CommandPolicy
from avinet.ssh.remote import CommandRefusedError, Streams, _ask, _Input, _RemoteCommand
from tests.unit.ssh_pipe import Controller, Pipe


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
        command = _RemoteCommand(Streams(None, io.BytesIO(), io.BytesIO()))
        channel.open(5001, command)
        pipe.pump()
        command.transport.abortConnection()  # as it does itself, when whoever reads its output has gone
        asking = Deferred.fromCoroutine(_ask(channel, command.transport, b"exec", b"", "'date'"))
        self.assertIn("'date'", str(self.failureResultOf(asking, ConnectionEndedError).value))
        pipe.pump()
        self.failureResultOf(command.done, ConnectionEndedError)


class Refused(SynchronousTestCase):
    def run_command(self):
        clock, key, uses = Clock(), Ed25519PrivateKey.generate(), []
        line = keys.line_of(keys.blob_of(key.public_key()))
        policy = CommandPolicy(exec_allowed=False)
        server = CommandServer(Ed25519PrivateKey.generate(), lambda: [line], clock, uses.append, policy)
        login = _Login(USER, key, lambda line: True, clock, Timeouts())
        pipe = Pipe(login.buildProtocol(None), server.build(""), clock)
        pipe.pump()
        channel = self.successResultOf(login.done)

        async def log_in(reactor, target):
            return channel

        self.patch(remote, "_log_in", log_in)
        running = remote.run(clock, None, "id", Streams(None, io.BytesIO(), io.BytesIO()))
        pipe.pump()
        self.failureResultOf(running, CommandRefusedError)
        clock.advance(10)
        pipe.pump()
        return [use.kind for use in uses]

    def test_a_command_that_is_not_allowed_is_told_once(self):
        self.assertEqual(self.run_command(), ["refused"])
        remote._log_in = None  # it holds the channel
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])
