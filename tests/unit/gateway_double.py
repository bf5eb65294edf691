"""etcd's gateway in memory: an HTTP whose exchanges a test answers, and a tiny etcd that can answer them."""

import base64
import json

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refused


class Exchange:
    """One request, until it is answered."""

    def __init__(self, url, token, body, on_piece):
        self.url, _, self.path = url.partition("/v3/")
        self.token = token
        self.request = json.loads(body)
        self.on_piece = on_piece
        self.cancelled = False
        self.on_cancel = None
        """What the exchange fails with then, if not with a CancelledError."""
        self.done = Deferred(self._cancel)

    def _cancel(self, deferred):
        self.cancelled = True
        if self.on_cancel is not None:
            deferred.errback(self.on_cancel)

    @property
    def open(self):
        return not self.done.called

    def say(self, data):
        """A piece of the answer; what its taker raises fails the exchange."""
        try:
            self.on_piece(data)
        except Exception:
            self.done.errback()

    def line(self, **message):
        self.say(json.dumps(message).encode() + b"\n")

    def answer(self, status=200, **message):
        self.say(json.dumps(message).encode())
        if self.open:
            self.done.callback(status)

    def refuse(self, code, message, status=400):
        self.answer(status, error=message, message=message, code=code)

    def fail(self, why=None):
        self.done.errback(why or Refused())


class HttpDouble:
    """``GatewayHttp``; ``on_post`` may answer at once, else the test does."""

    def __init__(self, on_post=None):
        self.exchanges = []
        self.on_post = on_post
        self.closed = False

    def post(self, url, token, body, on_piece):
        exchange = Exchange(url, token, body, on_piece)
        self.exchanges.append(exchange)
        if self.on_post is not None:
            self.on_post(exchange)
        return exchange.done

    def close(self):
        self.closed = True
        done = Deferred()
        done.callback(None)
        return done

    @property
    def waiting(self):
        return [exchange for exchange in self.exchanges if exchange.open]

    @property
    def only(self):
        """The one exchange that waits for an answer."""
        (exchange,) = self.waiting
        return exchange


def encoded(data):
    return base64.b64encode(data).decode()


def decoded(text):
    return base64.b64decode(text)


class TinyEtcd:
    """As much of etcd as transactions, single reads and leases need; counts how often it did what."""

    def __init__(self):
        self.revision = 1
        self.keys = {}
        self.leases = set()
        self.puts = []
        """Every put that was done: (revision, key, value)."""

    def do(self, path, request):
        """(status, answer)."""
        if path == "kv/txn":
            return self._transaction(request)
        if path == "kv/range":
            return 200, self._read(request)
        if path == "lease/grant":
            if request["ID"] in self.leases:
                return 412, {"code": 9, "message": "etcdserver: lease already exists"}
            self.leases.add(request["ID"])
            return 200, {"ID": str(request["ID"]), "TTL": str(request["TTL"])}
        if path == "lease/keepalive":
            return 200, {"result": {"TTL": "9"} if request["ID"] in self.leases else {}}
        if path == "lease/timetolive":
            return 200, {"TTL": "9" if request["ID"] in self.leases else "-1"}
        if path == "lease/revoke":
            self.end_lease(request["ID"])
            return 200, {}
        raise AssertionError(path)

    def end_lease(self, lease):
        self.leases.discard(lease)
        doomed = [key for key, found in self.keys.items() if found["lease"] == str(lease)]
        for key in doomed:
            del self.keys[key]
        self.revision += bool(doomed)

    def _header(self):
        return {"header": {"revision": str(self.revision), "cluster_id": "5"}}

    def _read(self, request):
        found = self.keys.get(request["key"])
        return {**self._header(), **({"kvs": [found], "count": "1"} if found else {})}

    def _transaction(self, request):
        writes = []
        succeeded, responses = self._plan(request, writes)
        if any(lease and lease not in self.leases for _, _, lease in writes):
            return 404, {"code": 5, "message": "etcdserver: requested lease not found"}
        changed = [one for one in writes if one[1] is not None or one[0] in self.keys]
        self.revision += bool(changed)
        for key, value, lease in changed:
            if value is None:
                del self.keys[key]
                continue
            self.puts.append((self.revision, decoded(key), decoded(value)))
            created = self.keys.get(key, {}).get("create_revision", str(self.revision))
            self.keys[key] = {
                "key": key,
                "value": value,
                "create_revision": created,
                "mod_revision": str(self.revision),
                "lease": str(lease),
            }
        return 200, {**self._header(), "responses": responses, **({"succeeded": True} if succeeded else {})}

    def _plan(self, request, writes):
        holds = all(
            int(self.keys.get(one["key"], {}).get("mod_revision", 0)) == one["mod_revision"]
            for one in request["compare"]
        )
        responses = []
        for operation in request["success" if holds else "failure"]:
            ((kind, what),) = operation.items()
            if kind == "request_put":
                writes.append((what["key"], what["value"], what["lease"]))
                responses.append({"response_put": {}})
            elif kind == "request_delete_range":
                writes.append((what["key"], None, 0))
                responses.append({"response_delete_range": {}})
            elif kind == "request_range":
                responses.append({"response_range": self._read(what)})
            else:
                inner, _ = self._plan(what, writes)
                responses.append({"response_txn": {"succeeded": True} if inner else {}})
        return holds, responses
