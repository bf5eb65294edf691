"""The control session whole: uplinks, SSH client and server over loopback TCP, and the registry, all real."""

import pytest_twisted
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater

from avinet.controller.session import SessionSettings
from avinet.controller.sessions import About, CurrentList, Knowledge, SessionListener, Sessions
from avinet.model.membership import Controller, Membership
from avinet.se.session import SeParts
from avinet.se.uplink import Place, UplinkState
from avinet.se.uplinks import Uplinks, reach_through
from avinet.ssh.backoff import BackoffSettings
from avinet.ssh.login import Access
from avinet.ssh.reverse import ReverseListeners
from avinet.ssh.server import SecureChannelServer
from avinet.ssh.services import ServiceTable
from avinet.trust.authorized_keys import AuthorizedKeys, Permit
from avinet.trust.keys import generate, public_line
from avinet.wire import messages as m

LOOPBACK, REVERSE_PORT = "127.1.77.2", 25_097
BODY = bytes(100_000)


class Observer:
    def __getattr__(self, name):
        return lambda *args: None


class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


class Listener(SessionListener):
    def __init__(self):
        self.messages, self.events = [], []

    def attached(self, session):
        self.events.append("attached")

    def detached(self, session, why):
        self.events.append("detached")

    def received(self, session, message):
        self.messages.append(message)

    def down(self, se, why):
        self.events.append("down")


class Sink:
    def __init__(self):
        self.messages = []

    def received(self, message, reply):
        self.messages.append(message)
        if isinstance(message, m.ConfigEnd):
            reply(m.Ack(push=message.push, version=1, hash="h"))

    def forget(self, reply):
        self.messages.append("forgotten")


class World:
    """One controller and one SE in one process."""

    def __init__(self, reactor):
        self.reactor, self.listener, self.sink = reactor, Listener(), Sink()
        self.host_key, self.se_key = generate(), generate()
        self.permits = AuthorizedKeys()
        self.permits.put(
            Permit(
                se="se-1",
                key=public_line(self.se_key.public_key()),
                loopback=LOOPBACK,
                reverse_port=REVERSE_PORT,
                permit_open=(("localhost", m.CONTROL_PORT),),
            )
        )
        self.sessions = Sessions(
            reactor,
            About("ctl-1", "cluster-1", "0.1"),
            Knowledge(lambda: CurrentList(1, "list-1")),
            SessionSettings(heartbeat_interval_s=0.1, heartbeat_misses=5),
        )
        self.sessions.add_listener(self.listener)
        services = ServiceTable()
        services.register(m.CONTROL_SERVICE, m.CONTROL_PORT, self.sessions.build)
        self.reverse = ReverseListeners(reactor, reactor)
        access = Access(users={"aviseuser": self.permits}, services=services, reverse=self.reverse)
        self.server = SecureChannelServer(self.host_key, access, reactor, Observer())
        self.port = reactor.listenTCP(0, self.server, interface="127.0.0.1")
        self.lists = []
        self.uplinks = Uplinks(
            Place(LOOPBACK, m.CONTROL_PORT, lambda controller: Echo()),
            SeParts("cluster-1", self.hello, self.sink, lambda: succeed(m.Report()), self.lists.append),
            reach_through(reactor, self.se_key, lambda: succeed(None)),
            reactor,
            lambda: 0.5,
            BackoffSettings(0.05, 0.2),
        )

    def hello(self):
        return m.Hello(se="se-1", boot="b", protocol=1, oldest_protocol=1, software="0.1")

    def membership(self):
        controller = Controller(
            name="ctl-1",
            addresses=("127.0.0.1",),
            ssh_port=self.port.getHost().port,
            reverse_port=REVERSE_PORT,
            node_certificate="",
            ssh_host_key=public_line(self.host_key.public_key()),
            id_se="",
        )
        return Membership(cluster="cluster-1", number=1, controllers=(controller,))

    async def until(self, condition):
        for _ in range(500):
            if condition():
                return
            await deferLater(self.reactor, 0.01)
        raise AssertionError("it did not come to that within 5 s")

    async def stop(self):
        await self.uplinks.stop()
        await self.sessions.stop()
        self.server.drop_all("the test is over")
        await self.reverse.stop()
        await self.port.stopListening()
        await self.until(lambda: self.server.login_count == 0)


async def world():
    from twisted.internet import reactor

    made = World(reactor)
    made.uplinks.start(made.membership())
    await made.until(lambda: made.sessions.get("se-1") is not None)
    return made


@pytest_twisted.ensureDeferred
async def test_an_se_attaches_takes_a_push_and_answers_for_its_statistics():
    here = await world()
    try:
        session = here.sessions.get("se-1")
        await here.until(lambda: session.rtt.last is not None)
        push = [m.ConfigPut(push=1, name=str(n), body=BODY) for n in range(100)]
        await session.send_all([*push, m.ConfigEnd(push=1)])
        await here.until(lambda: here.listener.messages)
        assert here.listener.messages == [m.Ack(push=1, version=1, hash="h")]
        assert here.sink.messages == [*push, m.ConfigEnd(push=1)]
        assert (await session.request_stats()).data_plane_up
        assert here.lists == ["list-1"]
    finally:
        await here.stop()


@pytest_twisted.ensureDeferred
async def test_the_reverse_forward_ends_in_the_ses_own_protocol():
    here = await world()
    try:
        from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

        class Client(Protocol):
            def __init__(self):
                self.heard = Deferred()

            def dataReceived(self, data):
                self.heard.callback(data)

        await here.until(lambda: here.reverse._forwards)
        client = Client()
        await connectProtocol(TCP4ClientEndpoint(here.reactor, LOOPBACK, REVERSE_PORT), client)
        client.transport.write(b"hello")
        assert await client.heard == b"hello"
        client.transport.loseConnection()
    finally:
        await here.stop()


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_cut_is_dialed_again_and_the_se_was_never_down():
    here = await world()
    try:
        first = here.sessions.get("se-1")
        here.server.drop("se-1")
        await here.until(lambda: here.sessions.get("se-1") not in (None, first))
        assert here.listener.events == ["attached", "detached", "attached"]
    finally:
        await here.stop()


@pytest_twisted.ensureDeferred
async def test_an_se_whose_key_is_withdrawn_goes_down_and_dials_for_ever():
    here = await world()
    try:
        here.permits.remove("se-1")
        here.sessions.close("se-1", "deleted", "it was deleted")
        await here.until(lambda: here.uplinks.all()[0].state is UplinkState.BACKING_OFF)
        assert here.listener.events == ["attached", "detached", "down"]
        assert here.uplinks.headless
    finally:
        await here.stop()
