"""A store that fails on demand: before it did anything, or after it did and before it could say so."""

from twisted.internet.defer import fail

from avinet.store.interface import StoreUnavailableError


class FailingStore:
    """Delegates to ``store``; counts writes, and fails the ones asked for."""

    def __init__(self, store):
        self._store = store
        self.writes = 0
        self.calls = 0
        self._fail_call = None
        self._committed = False

    def fail_call(self, number, *, committed):
        """Let the ``number``-th call from now (0 is the next) fail, its effect done or not."""
        self._fail_call = self.calls + number
        self._committed = committed

    def heal(self):
        self._fail_call = None

    def _run(self, name, *args):
        number = self.calls
        self.calls += 1
        self.writes += name == "transact"
        if number != self._fail_call:
            return getattr(self._store, name)(*args)
        if self._committed:
            getattr(self._store, name)(*args)
        return fail(StoreUnavailableError(where="test", detail="told to"))

    def get(self, key):
        return self._run("get", key)

    def list(self, prefix):
        return self._run("list", prefix)

    def transact(self, compares, operations):
        return self._run("transact", compares, operations)

    def grant_lease(self, ttl_s):
        return self._run("grant_lease", ttl_s)

    def revoke_lease(self, lease):
        return self._run("revoke_lease", lease)

    def keep_alive(self, lease):
        return self._run("keep_alive", lease)

    def watch(self, *args):
        return self._store.watch(*args)

    def close(self):
        return self._store.close()
