"""A configuration service and its sync in memory, with SEs that answer when told to."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from avinet.controller.config_store import ConfigStore, HistoryLimits
from avinet.controller.configuration import ConfigService
from avinet.controller.sync import Sync
from avinet.model.fence import Fence
from avinet.model.ids import ConfigVersion, SeId
from avinet.model.placement import Engine
from avinet.model.resources import EMPTY_STATE_HASH, state_hash
from avinet.store.memory import MemoryStore
from avinet.wire.messages import (
    LOG_LIMITS,
    Ack,
    ConfigEnd,
    ConfigPut,
    ConfigRemove,
    ConfigStart,
    InForce,
    Nack,
)
from tests.unit.failing_store import FailingStore

NOW = 1_800_000_000.0


def run(awaitable):
    """Whatever a coroutine answers, when nothing makes it wait."""
    results, failures = [], []
    done = awaitable if isinstance(awaitable, Deferred) else Deferred.fromCoroutine(awaitable)
    done.addCallbacks(results.append, failures.append)
    if failures:
        failures[0].raiseException()
    assert results, "it waits"
    return results[0]


def pool(name="web", *ports, **more):
    servers = [{"ip": "10.0.0.1", "port": port} for port in ports or (8080,)]
    return {"kind": "Pool", "name": name, "servers": servers, **more}


def service(name="www", port=80, pool_ref="web", address="192.0.2.1", **more):
    return {
        "kind": "VirtualService",
        "name": name,
        "vip": [{"ip_address": address}],
        "services": [{"port": port}],
        "pool_ref": pool_ref,
        **more,
    }


class World:
    """One controller's configuration.  ``restart`` forgets everything but the store."""

    def __init__(self, limits=None):
        self.limits = limits or HistoryLimits()
        self.clock = Clock()
        self.clock.advance(NOW)
        self.store = FailingStore(MemoryStore(self.clock))
        self.events = []
        self.engines = []
        self.restart()

    def restart(self):
        self.config = ConfigService(ConfigStore(self.store, self.limits), self.clock)
        run(self.config.load())
        run(self.config.lead())
        run(self.config.tidy())

    def other(self):
        """Another controller on the same store."""
        config = ConfigService(ConfigStore(self.store, self.limits), self.clock)
        run(config.load())
        run(config.lead())
        run(config.tidy())
        return config

    def apply(self, *documents, **more):
        return run(self.config.apply(documents, "tester", **more))

    def stored_keys(self, prefix="config/"):
        return [entry.key for entry in run(self.store.list(prefix)).entries]

    def start_sync(self):
        self.sync = Sync(
            self.config,
            lambda: self.engines,
            lambda se: se.removeprefix("se-"),
            self.clock,
            lambda code, level, subject, text, **facts: self.events.append((code, subject, text, facts)),
        )
        self.sync.start()

    def engine(self, name="1", usable=True, group="Default-Group", capabilities=(LOG_LIMITS,)):
        self.engines.append(Engine(SeId(f"se-{name}"), group, usable))
        self.sync.engines_changed()
        self.clock.advance(0.1)
        return self.attach(name, capabilities=capabilities)

    def all(self):
        """The engines as the registry lists them."""
        return [self.find(engine.se) for engine in self.engines]

    def find(self, se):
        return SimpleNamespace(uuid=se, name=se.removeprefix("se-"))

    def attach(self, name="1", have=None, capabilities=(LOG_LIMITS,), seen=None):
        machine = Machine(self, SeId(f"se-{name}"), have, capabilities)
        machine.hello.fence = seen or Fence()
        self.sync.attached(machine)
        self.clock.advance(0.1)
        return machine


class Machine:
    """An SE and its session: assembles what it is sent, applies it when ``apply`` is called."""

    def __init__(self, world, se, have=None, capabilities=()):
        self.world, self.se = world, se
        self.state = dict(have or {})
        self.hello = SimpleNamespace(hash=self.hash, capabilities=capabilities)
        self.pushes = []
        self.aborted = None
        self.answered = 0

    @property
    def hash(self):
        import hashlib

        hashes = {name: hashlib.sha256(body).hexdigest() for name, body in self.state.items()}
        return state_hash(hashes) if hashes else EMPTY_STATE_HASH

    def send_all(self, messages):
        for message in messages:
            if isinstance(message, ConfigStart):
                self.pushes.append(SimpleNamespace(start=message, puts=[], removes=[], ended=False))
            elif isinstance(message, ConfigPut):
                self.pushes[-1].puts.append(message)
            elif isinstance(message, ConfigRemove):
                self.pushes[-1].removes.extend(message.names)
            elif isinstance(message, ConfigEnd):
                self.pushes[-1].ended = True
        return succeed(None)

    def abort(self, why):
        self.aborted = why

    def apply(self):
        """Put the last push in force and say so."""
        push = self.pushes[-1]
        self.answered = len(self.pushes)
        assert push.ended
        state = {} if push.start.base is None else dict(self.state)
        if push.start.base is not None:
            assert push.start.base == self.hash, "a delta from something else"
        bodies = {}
        for put in push.puts:
            bodies[put.name] = bodies.get(put.name, b"") + put.body
        state.update(bodies)
        for name in push.removes:
            del state[name]
        self.state = state
        assert self.hash == push.start.hash, "the push does not lead where it says"
        self.say(Ack(push=push.start.push, version=push.start.fence.version, hash=self.hash))

    def apply_all(self):
        """Put in force whatever comes until nothing more does."""
        done = self.answered
        while len(self.pushes) > done:
            done = len(self.pushes)
            self.apply()

    def refuse(self, reason="rejected", text="no"):
        push = self.pushes[-1].start
        self.say(
            Nack(
                push=push.push,
                version=push.fence.version,
                reason=reason,
                text=text,
                resource="",
                hash=self.hash,
            )
        )

    def report(self, state):
        self.say(InForce(version=ConfigVersion(0), hash=state))

    def say(self, message):
        self.world.sync.received(self, message)

    def leave(self):
        self.world.sync.detached(self, "gone")
