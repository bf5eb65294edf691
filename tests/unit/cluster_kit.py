"""Controllers of one cluster in memory: one store, one root, and machines that want to join."""

import attrs
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.defer import execute
from twisted.internet.task import Clock

from avinet.controller.failure_budget import FailureBudget
from avinet.controller.join_tokens import JoinTokens
from avinet.controller.joining import Joining
from avinet.controller.manifest_signing import ManifestSigning
from avinet.controller.members import LocalCopy, Members
from avinet.controller.removal import Removal
from avinet.controller.root_holder import RootHolder
from avinet.model.ids import ControllerName
from avinet.store.interface import StoreUnavailableError
from avinet.store.memory import MemoryStore
from avinet.trust import node
from avinet.trust.files import write_public
from avinet.trust.joining import ControllerClaims, sign_claims
from avinet.trust.keys import generate, public_line
from avinet.trust.local_list import SignedList
from avinet.trust.membership import verify_membership
from avinet.trust.node import ControllerIdentity, ControllerPaths, NodeFacts
from avinet.wire.joining import StateAdmission
from tests.unit.enrolment_kit import NOW, Events, run
from tests.unit.failing_store import FailingStore
from tests.unit.quick_folder import quick_folder

FACTS = NodeFacts(
    name=ControllerName("c1"),
    addresses=("192.0.2.1",),
    ssh_port=22,
    registration_port=8443,
    reverse_port=5097,
    state_client_port=2379,
    state_peer_port=2380,
)


class Growth:
    """A state engine that several share, as far as the list goes."""

    def __init__(self):
        self.names = {"c1"}
        self.down = False

    def answer(self):
        if self.down:
            raise StoreUnavailableError(where="the state engine", detail="no quorum")

    async def require(self):
        self.answer()

    async def admit(self, member, key):
        self.answer()
        self.names.add(member.name)
        urls = {name: f"https://127.0.0.1/{name}" for name in sorted(self.names)}
        return StateAdmission(ca="CA", certificate=public_line(key), passwords={"root": "pw"}, members=urls)

    async def dismiss(self, name):
        self.answer()
        self.names.discard(name)

    async def members(self):
        self.answer()
        return tuple(sorted(self.names))


class Newcomer:
    """A machine with keys of its own, that asks."""

    def __init__(self, name="c2", number=2):
        self.name, self.number = name, number
        self.node_key = generate()
        self.lines = [public_line(generate().public_key()) for _ in range(4)]
        api = ec.generate_private_key(ec.SECP256R1()).public_key()
        self.api_key = api.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        self.asked = 0

    def claims(self, site, token=None, **more):
        self.asked += 1
        values = {
            "cluster": site.cluster,
            "name": self.name,
            "addresses": (f"192.0.2.{self.number}",),
            "ssh_port": 22,
            "registration_port": 8443,
            "reverse_port": 5097,
            "state_client_port": 2379 + 10 * self.number,
            "state_peer_port": 2380 + 10 * self.number,
            "node_key": public_line(self.node_key.public_key()),
            "ssh_host_key": self.lines[0],
            "id_se": self.lines[1],
            "id_controller": self.lines[2],
            "state_key": self.lines[3],
            "api_key": self.api_key,
            "api_names": ("c2.example",),
            "token": token,
            "nonce": f"{self.name}-{self.asked}",
            "issued_at": int(site.clock.seconds()),
        }
        return ControllerClaims(**values | more)

    def body(self, site, token=None, **more):
        return sign_claims(self.claims(site, token, **more), self.node_key)


class Site:
    """The controller with the root key.  ``restart`` forgets everything but the store and the files."""

    def __init__(self, case):
        case.patch(node, "password_hash", lambda *args: b"\0" * 32)
        self.state = quick_folder(case) / "c1"
        self.clock = Clock()
        self.clock.advance(NOW)
        self.store = FailingStore(MemoryStore(self.clock))
        self.growth, self.events = Growth(), Events()
        self.facts = FACTS
        self.writes = write_public
        self.restart()

    def restart(self, *, sign=False):
        self.identity = ControllerIdentity.init(self.state, self.facts, sign=sign)
        self.cluster = self.identity.cluster
        self.heard = []
        self.members = self.members_of("c1", self.identity)
        self.members.listen(lambda before, after: self.heard.append((before.number, after.number)))
        self.holder = RootHolder(self.members, self.identity.root, self.clock)
        self.tokens = JoinTokens(self.store, self.clock)
        self.joining = Joining(
            self.cluster,
            self.holder,
            self.tokens,
            self.growth,
            FailureBudget(self.clock),
            self.clock,
            self.events.emit,
        )
        self.signing = ManifestSigning(self.holder, FailureBudget(self.clock), self.events.emit)
        self.removal = Removal(self.holder, self.growth, self.events.emit)
        run(self.members.open(self.store))
        run(self.holder.open())
        run(self.holder.tell(self.identity.me))

    def members_of(self, name, identity, path=None):
        def write(function, *args):
            return execute(self.writes, *args)

        return Members(
            ControllerName(name),
            SignedList(identity.membership, identity.membership_document),
            LocalCopy(path or ControllerPaths(self.state).membership, identity.root.certificate, write),
            self.events.emit,
        )

    def other(self, name="c2"):
        """Another member: the same store, a copy of its own, no root key."""
        path = self.state.parent / f"{name}.jws"
        members = self.members_of(name, self.identity, path)
        offline = attrs.evolve(self.identity.root, key=None, key_path=path)
        return members, RootHolder(members, offline, self.clock), path

    def token(self, replaces=""):
        return run(self.tokens.issue(replaces))[1]

    def join(self, newcomer, token=None, source="10.0.0.2", **more):
        token = self.token() if token is None else token
        return run(self.joining.judge(newcomer.body(self, token, **more), source))

    def tell(self, newcomer, **more):
        return run(self.joining.judge(newcomer.body(self, **more), "10.0.0.2"))

    def on_disk(self):
        return verify_membership(
            ControllerPaths(self.state).membership.read_text(), self.identity.root.certificate
        )

    def in_store(self):
        entry = run(self.store.get("membership"))
        return verify_membership(entry.value.decode(), self.identity.root.certificate)

    def names(self):
        return [controller.name for controller in self.members.current.controllers]
