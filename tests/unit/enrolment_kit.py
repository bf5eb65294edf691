"""A controller's registry and enrolment in memory, and machines that apply to it."""

import tempfile
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock

from avinet.controller.engines import Engines
from avinet.controller.enrolment import Enrolment
from avinet.controller.failure_budget import FailureBudget
from avinet.controller.image_keys import ImageKeys, ImageRecord
from avinet.controller.permits import PermitFiles, PermitRules, Permits
from avinet.controller.tokens import Tokens
from avinet.model.config import EnrolmentPolicy, ServiceEngineGroup
from avinet.model.ids import ClusterId, ImageId, ObjectId
from avinet.store.memory import MemoryStore
from avinet.trust.keys import public_line
from avinet.trust.registration import Claims, sign_request
from tests.unit.failing_store import FailingStore

CLUSTER = ClusterId("7c9e6679-7425-40de-944b-e07fc1f90ae7")
NOW = 1_800_000_000.0
IMAGE = ImageId("image-1")


def run(awaitable):
    """Whatever a coroutine answers, when nothing makes it wait."""
    results, failures = [], []
    done = Deferred.fromCoroutine(awaitable) if not isinstance(awaitable, Deferred) else awaitable
    done.addCallbacks(results.append, failures.append)
    if failures:
        failures[0].raiseException()
    assert results, "it waits"
    return results[0]


def group(name="web", policy=EnrolmentPolicy.TOKEN, **more):
    return ServiceEngineGroup(
        uuid=ObjectId(f"serviceenginegroup-{name}"), name=name, enrolment_policy=policy, **more
    )


class Events:
    def __init__(self):
        self.all = []

    def emit(self, code, level, subject, text, **facts):
        self.all.append((code, level, subject, text, facts))

    def codes(self):
        return [event[0] for event in self.all]

    def last(self, code):
        return next(event for event in reversed(self.all) if event[0] == code)


class Machine:
    """Keys of its own and an image's."""

    def __init__(self, image_key, image=IMAGE):
        self.image_key = image_key
        self.image = image
        self.se_key = Ed25519PrivateKey.generate()
        self.host_key = Ed25519PrivateKey.generate()

    def request(self, token=None, cluster=CLUSTER, issued_at=NOW):
        claims = Claims(
            cluster=cluster,
            image=self.image,
            se_key=public_line(self.se_key.public_key()),
            se_host_key=public_line(self.host_key.public_key()),
            token=token,
            nonce="nonce-nonce-nonce",
            issued_at=int(issued_at),
        )
        return sign_request(claims, self.image_key, self.se_key)


class Site:
    """One controller.  ``restart`` forgets everything but the store."""

    def __init__(self):
        self.clock = Clock()
        self.clock.advance(NOW)
        self.store = FailingStore(MemoryStore(self.clock))
        self.events = Events()
        self.groups = {"web": group()}
        self.folder = Path(tempfile.mkdtemp(prefix="avinet-test-"))
        self.folder.chmod(0o700)
        self.image_key = Ed25519PrivateKey.generate()
        self.restart()
        run(self.images.add(self.image_record()))

    def image_record(self, image=IMAGE, image_group="web"):
        return ImageRecord(
            id=image,
            key=public_line(self.image_key.public_key()),
            group=image_group,
            created_at=NOW,
            expires_at=NOW + 90 * 86400,
        )

    def restart(self):
        self.tokens = Tokens(self.store, self.clock)
        self.permits = Permits(
            PermitRules(5097, (("localhost", 5025),), lambda name: self.groups[name].allowed_networks),
            PermitFiles(self.folder / "authorized_keys", self.folder / "known_hosts"),
            self.clock,
            execute,
        )
        self.images = ImageKeys(self.store, self.clock)
        self.engines = Engines(self.store, self.clock, self.events.emit, self.tokens, self.permits)
        self.enrolment = Enrolment(
            CLUSTER, self.engines, self.images, self.groups.get, FailureBudget(self.clock)
        )
        run(self.images.load())
        run(self.engines.load())
        run(self.tokens.prune())

    def machine(self):
        return Machine(self.image_key)

    def enrol(self, body, source="10.0.0.7"):
        return run(self.enrolment.enrol(body, source))

    def set_group(self, **more):
        self.groups["web"] = msgspec.structs.replace(self.groups["web"], **more)
