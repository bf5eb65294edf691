"""An etcd that is full, holds much, or is none: what answers garbage, slowly, without end, or with a wrong certificate."""

import gzip
import json
from contextlib import asynccontextmanager

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall, deferLater

from avinet.store.etcd import EtcdStore, open_etcd_store
from avinet.store.etcd_gateway import Gateway
from avinet.store.etcd_http import MAX_HEAD_BYTES, EtcdAccess, TreqHttp
from avinet.store.interface import Delete, Put, StoreFullError, StoreUnavailableError
from tests.integration.etcd_kit import Cluster, needs_etcd, write_certificates

needs_etcd()

OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def cluster():
    made = Cluster(options=("--quota-backend-bytes", str(24 * 2**20)))
    yield made
    made.close()


@pytest_twisted.ensureDeferred
async def test_a_large_store_is_listed_in_pages_and_a_full_one_takes_deletions_only(cluster):
    store = await open_etcd_store(cluster.access(), reactor)
    await gatherResults(
        [
            store.transact([], [Put(f"small/{n:03}", b"v") for n in range(50 * m, 50 * m + 50)])
            for m in range(6)
        ]
    )
    large = 0
    while (full := await filled(store, f"large/{large:03}", bytes([large]) * 1_000_000)) is None:
        large += 1
    assert isinstance(full, StoreFullError)
    assert large > 8
    listing = await store.list("")
    assert [entry.value for entry in listing.entries[:large]] == [
        bytes([n]) * 1_000_000 for n in range(large)
    ]
    assert len(listing.entries) == large + 300
    assert (await store.list("")).revision == listing.revision  # what is full is not written to
    await store.close()
    again = await open_etcd_store(cluster.access(), reactor)
    outcome = await again.transact([], [Delete(f"large/{n:03}") for n in range(large)])
    assert outcome.succeeded
    assert len((await again.list("")).entries) == 300
    await again.close()


async def filled(store, key, value):
    try:
        await store.transact([], [Put(key, value)])
    except StoreFullError as full:
        return full
    return None


@pytest_twisted.ensureDeferred
async def test_strangers_are_not_believed_and_renewed_files_are(cluster, tmp_path):
    write_certificates(tmp_path)
    (tmp_path / "password").write_text("guess")
    right = cluster.access(timeout_s=0.3)
    wrong = attrs.evolve(right, ca_file=tmp_path / "ca.pem")
    with pytest.raises(StoreUnavailableError, match="certificate verify failed"):
        await open_etcd_store(wrong, reactor)
    wrong = attrs.evolve(right, password_file=tmp_path / "password")
    with pytest.raises(StoreUnavailableError, match="user avinet"):
        await open_etcd_store(wrong, reactor)
    wrong = attrs.evolve(right, certificate_file=tmp_path / "node.pem", key_file=tmp_path / "node.key")
    store = EtcdStore(Gateway(wrong, TreqHttp(reactor, wrong), reactor))
    with pytest.raises(StoreUnavailableError):
        await store.get("a")
    for name in ("node.pem", "node.key"):
        (tmp_path / name).write_bytes((cluster.folder / name).read_bytes())
    assert await again(store) is None
    await store.close()
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "ca.pem").read_bytes() + (cluster.folder / "ca.pem").read_bytes())
    store = await open_etcd_store(attrs.evolve(right, ca_file=both, timeout_s=5.0), reactor)
    await store.close()


async def again(store):
    for _ in range(50):
        try:
            return await store.get("a")
        except StoreUnavailableError:
            pass
    raise AssertionError("it never went on")


class Hostile(Protocol):
    """Says what it is told to, for as long as it is listened to; remembers how much that was."""

    def connectionMade(self):
        self.factory.open += 1
        self.factory.came += 1
        self.saying = None

    def dataReceived(self, data):
        first, again = self.factory.script
        self.transport.write(first)
        if again and self.saying is None:
            self.saying = LoopingCall(self.say, again)
            self.saying.start(0.001)

    def say(self, again):
        if len(self.transport._tempDataBuffer) < 100:
            self.transport.write(again)
            self.factory.said += len(again)

    def connectionLost(self, reason):
        self.factory.open -= 1
        if self.saying is not None and self.saying.running:
            self.saying.stop()


@asynccontextmanager
async def hostile(first, again=b"", **options):
    factory = Factory.forProtocol(Hostile)
    factory.script, factory.open, factory.came, factory.said = (first, again), 0, 0, 0
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    scheme = "https" if options else "http"
    access = EtcdAccess((f"{scheme}://127.0.0.1:{port.getHost().port}",), timeout_s=0.2, **options)
    store = EtcdStore(Gateway(access, TreqHttp(reactor, access), reactor))
    try:
        yield store, factory
    finally:
        await store.close()
        await port.stopListening()
        for _ in range(100):
            if not factory.open:
                break
            await deferLater(reactor, 0.02)
        assert not factory.open  # each connection was let go of


ENDLESS_HEADER = b"x-header: " + b"y" * 10_000 + b"\r\n"
CHUNK = b"10000\r\n" + b" " * 65536 + b"\r\n"
BOMB = gzip.compress(bytes(20 * 2**20))


@pytest.mark.parametrize(
    ("first", "again", "limit"),
    [
        (b"", b"", 0),
        (b"SSH-2.0-OpenSSH_9\r\n", b"", 0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", b"", 0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"", 0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", b"", 0),
        (b"HTTP/1.1 307 See\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", b"", 0),
        (OK + b"zz\r\n", b"", 0),
        (OK, b"1\r\n \r\n", 10_000),
        (OK, CHUNK, 16 * 2**20),
        (b"HTTP/1.1 200 OK\r\n", ENDLESS_HEADER, MAX_HEAD_BYTES + 8 * 2**20),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 100_000),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(BOMB), BOMB),
            b"",
            0,
        ),
    ],
    ids=lambda value: str(value[:24]) if isinstance(value, bytes) else "",
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_etcd_is_given_up_in_time_and_in_memory(first, again, limit):
    async with hostile(first, again) as (store, factory):
        told = []
        store.watch("", 1, told.append, told.append)
        asked = [store.get("a"), store.transact([], [Put("a", b"")])]
        for asking in asked:
            with pytest.raises(StoreUnavailableError):
                await asking
        assert factory.said <= 20 * limit  # of several attempts
        assert told == []


@pytest_twisted.ensureDeferred
async def test_who_never_says_a_word_of_tls_is_let_go_of(cluster):
    access = cluster.access()
    files = {name: getattr(access, name) for name in ("ca_file", "certificate_file", "key_file")}
    async with hostile(b"", **files) as (store, factory):
        store.watch("", 1, print, print)
        with pytest.raises(StoreUnavailableError):
            await store.get("a")
        assert factory.came  # whether one is open now is chance: attempts end, and others begin


@pytest_twisted.ensureDeferred
async def test_an_answer_a_byte_at_a_time_is_an_answer():
    answer = json.dumps({"header": {"revision": "5"}}).encode()
    pieces = iter(
        [OK[n : n + 1] for n in range(len(OK))] + [b"1\r\n%c\r\n" % byte for byte in answer] + [b"0\r\n\r\n"]
    )

    class Slow(Protocol):
        def dataReceived(self, data):
            self.call = LoopingCall(self.say)
            self.call.start(0.001)

        def say(self):
            piece = next(pieces, None)
            if piece is None:
                self.call.stop()
            else:
                self.transport.write(piece)

    port = reactor.listenTCP(0, Factory.forProtocol(Slow), interface="127.0.0.1")
    access = EtcdAccess((f"http://127.0.0.1:{port.getHost().port}",))
    store = EtcdStore(Gateway(access, TreqHttp(reactor, access), reactor))
    assert await store.get("a") is None
    await store.close()
    await port.stopListening()


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:2379", "http://127.0.0.1.example:2379", "ftp://127.0.0.1", "etcd"]
)
def test_a_password_is_not_sent_in_the_clear_over_a_network(url):
    with pytest.raises(StoreUnavailableError, match="https"):
        TreqHttp(reactor, EtcdAccess((url,)))
