"""Controllers whose records follow one store in memory, each by its own watch, which can be held up or lost."""

import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred, execute, fail
from twisted.internet.task import Clock

from avinet.controller.access_tokens import AccessTokens
from avinet.controller.config_mirror import ConfigMirror
from avinet.controller.config_news import BESIDE
from avinet.controller.config_store import ConfigStore, HistoryLimits
from avinet.controller.configuration import ConfigService
from avinet.controller.engine_commands import EngineCommands
from avinet.controller.engines import Engines
from avinet.controller.following import FollowedStore, Following
from avinet.controller.image_keys import ImageKeys
from avinet.controller.permits import PermitFiles, PermitRules, Permits
from avinet.controller.tokens import Tokens
from avinet.controller.users import Users
from avinet.errors import AvinetError
from avinet.store.interface import StoreUnavailableError
from avinet.store.memory import MemoryStore
from avinet.store.threads import InPlace
from avinet.store.wrapped import WrappedStore

NOW = 1_800_000_000.0


class Link(WrappedStore):
    """One controller's way to the store."""

    def __init__(self, store):
        super().__init__(store)
        self.held = None
        """What the watch brought while it is held up."""
        self.cut = False
        self.hangs = False
        """Whether what is asked from now on is never answered, as while etcd has no leader."""
        self.loses_answers = False
        self._watchers = []

    def _reached(self, work):
        if self.hangs:
            return Deferred()
        if self.cut:
            return fail(StoreUnavailableError(where="test", detail="it is cut off"))
        done = work()
        if self.loses_answers:
            return fail(StoreUnavailableError(where="test", detail="the answer was lost"))
        return done

    def get(self, key):
        return self._reached(lambda: self.store.get(key))

    def list(self, prefix):
        return self._reached(lambda: self.store.list(prefix))

    def transact(self, compares, operations):
        return self._reached(lambda: self.store.transact(compares, operations))

    def grant_lease(self, ttl_s):
        return self._reached(lambda: self.store.grant_lease(ttl_s))

    def keep_alive(self, lease):
        return self._reached(lambda: self.store.keep_alive(lease))

    def watch(self, prefix, after_revision, on_changes, on_lost):
        def changed(changes):
            if self.held is None:
                on_changes(changes)
            else:
                self.held.append((on_changes, changes))

        watch = self.store.watch(prefix, after_revision, changed, on_lost)
        self._watchers.append((watch, on_lost))
        return watch

    def hold(self):
        self.held = [] if self.held is None else self.held

    def let_go(self):
        held, self.held = self.held or [], None
        for on_changes, changes in held:
            on_changes(changes)

    def lose_watch(self):
        """The connection of the watch is lost; what it held is lost with it."""
        self.held = None
        watchers, self._watchers = self._watchers, []
        for watch, on_lost in watchers[-1:]:
            watch.cancel()
            on_lost(StoreUnavailableError(where="test", detail="the watch was cut"))


class Follower:
    """One controller's records; ``told`` is what its listeners heard."""

    def __init__(self, store, clock, *, follows=True):
        self.clock = clock
        self.link = Link(store)
        self.events, self.told, self.pending = [], [], []
        self.following = Following(self.link, clock)
        self.store = FollowedStore(self.link, self.following.caught_up) if follows else self.link
        folder = Path(tempfile.gettempdir())  # nothing is written there: the permits are not started
        self.permits = Permits(
            PermitRules(5097, (("localhost", 5025),)), PermitFiles(folder, folder), clock, execute
        )
        self.tokens = Tokens(self.store, clock)
        self.engines = Engines(self.store, clock, self._emit, self.tokens, self.permits)
        self.commands = EngineCommands(self.engines)
        self.images = ImageKeys(self.store, clock)
        self.users = Users(self.store, clock, InPlace())
        self.access = AccessTokens(self.store, clock, lambda record: self.told.append(("ended", record.id)))
        self.config = ConfigService(ConfigStore(self.store, HistoryLimits(3)), clock)
        self.mirror = ConfigMirror(self.config, clock)
        self.mirrors = (self.mirror, self.tokens, self.engines, self.images, self.users, self.access)
        for module in (self.config, self.engines, self.images, self.users, self.access):
            self.do(module.load())
        self.engines.listen(lambda before, after: self.told.append(("se", before, after)))
        self.users.listen(lambda name: self.told.append(("user", name)))
        self.config.listen(lambda now: self.told.append(("config", now.version)))
        if follows:
            for mirror in self.mirrors:
                self.following.add(mirror, BESIDE if mirror is self.mirror else ())
            self.do(self.following.start())

    def _emit(self, code, level, subject, text, **facts):
        self.events.append((code, subject, facts))

    def do(self, work):
        """Begin ``work``; its result, if it is there at once and no refusal."""
        results = []
        done = Deferred.fromCoroutine(work)
        done.addCallbacks(results.append, lambda failure: failure.trap(AvinetError) and None)
        self.pending.append(done)
        return results[0] if results else None

    def settle(self, rounds=20):
        """Let everything that is under way end."""
        for _ in range(rounds):
            self.clock.advance(0)

    def stop(self):
        self.following.stop()
        self.mirror.stop()

    # What it knows

    @property
    def knows(self):
        index, config = self.engines.index, self.config
        return {
            "engines": dict(index._held),
            "by_key": index._by_key,
            "by_name": index._by_name,
            "addresses": {name: (a.se, a.revision, a.free_at) for name, a in index._addresses.items()},
            "by_image_alone": +index._by_image_alone,
            "deleted": set(index._deleted),
            "permits": {permit.se: permit for permit in self.permits.keys.permits()},
            "tokens": {
                name: (t.record, t.marker_revision, {n: se for n, se in t.uses.items() if se is not None})
                for name, t in self.tokens._tokens.items()
            },
            "images": self.images._records,
            "users": {name: (held.record, held.revision) for name, held in self.users._held.items()},
            "changes": self.users._changes,
            "access": self.access._held,
            "config": (config.current.version, config.current.objects),
            "head": (config.stored.head, config.stored.revision),
        }


class World:
    """One store and those who follow it."""

    def __init__(self, controllers=2, max_history=10_000):
        self.clock = Clock()
        self.clock.advance(NOW)
        self.store = MemoryStore(self.clock, max_history=max_history)
        self.first = Follower(self.store, self.clock)
        self.first.do(self.first.config.lead())
        self.clock.advance(0.1)
        self.first.told.clear()
        self.all = [self.first, *(self.follower() for _ in range(controllers - 1))]

    def follower(self):
        return Follower(self.store, self.clock)

    def fresh(self):
        """What one that has just started knows."""
        return Follower(self.store, self.clock, follows=False)

    def settle(self):
        for one in self.all:
            one.settle()

    def stop(self):
        for one in self.all:
            one.stop()
