"""Controllers that follow one store in memory and elect who leads it, over links that a test cuts."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from avinet.controller.fencing import FencedStore
from avinet.controller.following import FollowedStore, Following
from avinet.controller.leadership import Leadership
from avinet.controller.peers_memory import PeerHub
from avinet.errors import AvinetError
from avinet.store.interface import Put
from avinet.store.memory import MemoryStore
from tests.unit.following_kit import NOW, Link


class Member:
    """One controller: ``roles`` is what its listeners heard."""

    def __init__(self, world, name):
        self.name, self.clock = name, world.clock
        self.peers = world.hub.peers(name)
        self.link = Link(world.store)
        self.following = Following(self.link, self.clock)
        followed = FollowedStore(self.link, self.following.caught_up)
        self.roles, self.terms, self.prepares = [], [], None
        self.leadership = Leadership(followed, self.peers, self.clock, self._prepare)
        self.leadership.listen(self.roles.append)
        self.store = FencedStore(followed, lambda: self.leadership.fence, self.leadership.overtaken)
        self.following.add(self.leadership)

    async def _prepare(self, term):
        self.terms.append(term)
        if self.prepares is not None:
            await self.prepares

    def start(self):
        started = []
        Deferred.fromCoroutine(self.following.start()).addCallback(started.append)
        assert started
        self.leadership.start()

    def stop(self):
        Deferred.fromCoroutine(self.leadership.stop())
        self.following.stop()

    def write(self, key="k", value=b"v"):
        """What became of a write: an ``Outcome``, an error, or a Deferred of one."""
        results = []
        done = self.store.transact([], [Put(key, value)])
        done.addCallbacks(
            results.append, lambda failure: results.append(failure.trap(AvinetError) and failure.value)
        )
        self.clock.advance(0)
        self.clock.advance(0)
        return results[0] if results else done

    @property
    def leads(self):
        return self.leadership.leads


class World:
    """Three of them; ``start`` lets ``a`` lead."""

    def __init__(self, *names):
        self.clock = Clock()
        self.clock.advance(NOW)
        self.store = MemoryStore(self.clock)
        self.hub = PeerHub(*(names or "abc"))
        self.members = {name: Member(self, name) for name in names or "abc"}

    def __getattr__(self, name):
        return self.members[name]

    def start(self):
        for member in self.members.values():
            member.start()
            self.turn()
        self.run(10)

    def turn(self):
        for _ in range(6):
            self.clock.advance(0)

    def run(self, seconds, step=0.1):
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            self.turn()

    def leaders(self):
        return [name for name, member in self.members.items() if member.leads]

    def stop(self):
        for member in self.members.values():
            member.stop()
