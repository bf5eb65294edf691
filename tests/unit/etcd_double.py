"""An etcd for tests of what is asked of it: answers as its gateway does, and can be cut after any change."""

import json

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.state_engine_config import EnginePlan
from avinet.model.ids import ControllerName
from avinet.store.etcd_gateway import RefusedError, Reply
from avinet.store.interface import StoreUnavailableError
from tests.unit.trust_kit import CLUSTER

NAME = ControllerName("c1")
PLAN = EnginePlan(cluster=CLUSTER, name=NAME, client_port=12379, peer_port=12380)


class FakeEtcd:
    """Answers as etcd's gateway does, and can be cut after any change."""

    def __init__(self):
        self.clock = Clock()
        self.users, self.roles, self.granted, self.enabled = {}, set(), set(), False
        self.members, self.caught_up = [{"ID": "1", "name": "c1", "peerURLs": ["u1"]}], True
        self.next_id = 2
        self.status = {"header": {"member_id": "1", "revision": "9"}, "leader": "1"}
        self.asked, self.answered, self.cut_after, self.down = [], 0, None, False

    async def ask(self, path, request, answer, *, deadline=None):
        if self.down:
            raise StoreUnavailableError(where="etcd", detail=str(self.down))
        self.asked.append(path)
        said = getattr(self, path.replace("/", "_"))(**request)
        self.answered += 1
        if self.cut_after == self.answered:
            raise ZeroDivisionError
        return Reply(msgspec.json.decode(json.dumps(said or {}).encode(), type=answer, strict=False), False)

    def refuse(self, detail):
        raise RefusedError(where="etcd", code=9, detail=f"etcdserver: {detail}", lost=False)

    def auth_authenticate(self, name, password):
        if not self.enabled:
            self.refuse("authentication is not enabled")
        if self.users.get(name) != password:
            self.refuse("authentication failed, invalid user ID or password")

    def auth_user_add(self, name, password):
        if name in self.users:
            self.refuse("user name already exists")
        self.users[name] = password

    def auth_user_changepw(self, name, password):
        self.users[name] = password

    def auth_role_add(self, name):
        if name in self.roles:
            self.refuse("role name already exists")
        self.roles.add(name)

    def auth_user_grant(self, user, role):
        assert user in self.users
        assert role in self.roles
        self.granted.add((user, role))

    def auth_role_grant(self, name, perm):
        assert name in self.roles
        self.granted.add((name, perm["permType"], perm["key"], perm["range_end"]))

    def auth_enable(self):
        assert ("root", "root") in self.granted
        self.enabled = True

    def cluster_member_list(self):
        return {"members": self.members}

    def cluster_member_add(self, peerURLs, isLearner):
        self.members.append({"ID": str(self.next_id), "peerURLs": peerURLs, "isLearner": isLearner})

    def cluster_member_promote(self, ID):
        if not self.caught_up:
            self.refuse("can only promote a learner member which is in sync with leader")
        next(one for one in self.members if one["ID"] == ID)["isLearner"] = False

    def cluster_member_remove(self, ID):
        self.members = [one for one in self.members if one["ID"] != ID]

    def maintenance_status(self):
        return self.status

    def kv_compaction(self, revision, physical):
        pass

    def maintenance_defragment(self):
        self.status["dbSize"] = self.status["after"]

    def maintenance_alarm(self, action, alarm, memberID=None):
        if action == "GET":
            return {"alarms": [{"memberID": "1", "alarm": alarm} for _ in self.status["errors"]]}
        assert memberID == "1"
        self.status["errors"] = []
        return None


class WithEtcd(SynchronousTestCase):
    def setUp(self):
        self.etcd = FakeEtcd()

    def done(self, work):
        return self.successResultOf(Deferred.fromCoroutine(work))
