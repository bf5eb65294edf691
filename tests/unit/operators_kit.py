"""Users, sessions, tokens and their guard on a store in memory."""

import base64

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from avinet.controller.access_tokens import AccessTokens
from avinet.controller.login_sessions import LoginSessions
from avinet.controller.operators import Credentials, Operators, RequestLimits
from avinet.controller.users import Users
from avinet.rest.access import Caller
from avinet.store.memory import MemoryStore
from avinet.store.threads import InPlace
from avinet.trust.node import Admin, password_hash

SALT = b"s" * 16
PASSWORD = "right:é password"
ADMIN = Admin(
    user="admin", salt=SALT.hex(), hash=password_hash(PASSWORD, SALT, n=16).hex(), n=16
)  # n=16: a test is not a benchmark


def basic(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


class Counting(InPlace):
    """A thread that counts what it was given."""

    def __init__(self):
        self.calls = 0

    def run(self, call):
        self.calls += 1
        return super().run(call)


class Site:
    """One controller's operators; ``done`` gives a coroutine's result."""

    def __init__(self, test, thread=None, limits=None):
        self.test = test
        self.clock = Clock()
        self.clock.advance(1e9)
        self.thread = thread or Counting()
        self.store = MemoryStore(self.clock)
        self.users = Users(self.store, self.clock, self.thread)
        self.sessions = LoginSessions(self.clock)
        self.tokens = AccessTokens(self.store, self.clock)
        self.refusals = []
        self.accesses = []
        self.done(self.users.load())
        self.done(self.users.lead(ADMIN))
        self.operators = Operators(
            Credentials(self.users, self.sessions, self.tokens),
            self.clock,
            b"k" * 32,
            limits or RequestLimits(),
            lambda *told: self.refusals.append(told),
            self.accesses.append,
        )

    def done(self, work):
        return self.test.successResultOf(Deferred.fromCoroutine(work))

    def failed(self, work, kind):
        return self.test.failureResultOf(Deferred.fromCoroutine(work), kind).value

    def call(self, authorization=None, peer="192.0.2.1", method="GET", **headers):
        """The guard's answer to a request, as a Deferred."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if authorization is not None:
            given["authorization"] = authorization
        return Deferred.fromCoroutine(self.operators.authenticate(Caller(peer, method, given)))
