"""What Envoy has active, told by names and versions: what is recalled, and what makes a dump of everything."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.envoy_active import MAX_WRITES, Active


def item(name, of="a"):
    return {"name": name, "metadata": {"filter_metadata": {"avinet": {"digest": of}}}, "type": "STATIC"}


def shown(*items):
    return tuple({"name": one["name"], "metadata": one["metadata"]} for one in items)


class Admin:
    """Answers like Envoy's, which has ``has``: (version, time, item) each."""

    def __init__(self):
        self.has = []
        self.whole = 0

    async def dump(self, resource, *, mask=""):
        self.whole += not mask
        if resource == "dynamic_listeners":
            return [self._listener(*one, mask=mask) for one in self.has] + [
                {"name": "w", "warming_state": {}}
            ]
        return [
            {
                "version_info": version,
                "last_updated": at,
                "cluster": {"name": one["name"]} if mask else one,
            }
            for version, at, one in self.has
        ]

    def _listener(self, version, at, one, *, mask):
        state = {"version_info": version, "last_updated": at}
        return {"name": one["name"], "active_state": state if mask else {**state, "listener": one}}


class WhatIsActive(SynchronousTestCase):
    def setUp(self):
        self.admin = Admin()
        self.active = Active(self.admin)

    def items(self, kind="cds"):
        return self.successResultOf(Deferred.fromCoroutine(self.active.items(kind)))

    def dumps(self):
        """Of everything, since the last look."""
        count, self.admin.whole = self.admin.whole, 0
        return count

    def test_what_came_with_our_writes_is_known_also_what_a_later_one_left_as_it_was(self):
        for kind in ("lds", "cds"):
            one, two, other = item("1"), item("2"), item("2", "b")
            self.active.wrote(kind, "v1", (one, two))
            self.admin.has = [("v1", "t1", one), ("v1", "t1", two)]
            self.assertEqual(self.items(kind), shown(one, two))
            for version in ("v2", "v3", "v4"):
                self.active.wrote(kind, version, (one, other))
            self.admin.has = [("v1", "t1", one), ("v2", "t2", other)]
            self.assertEqual(self.items(kind), shown(one, other))
            self.assertEqual(self.items(kind), shown(one, other))
            self.assertEqual(self.dumps(), 0)

    def test_a_write_that_is_not_taken_yet_is_not_forgotten(self):
        one, other = item("1"), item("1", "b")
        self.active.wrote("cds", "v1", (one,))
        self.admin.has = [("v1", "t1", one)]
        self.active.wrote("cds", "v2", (other,))
        self.assertEqual(self.items(), shown(one))
        self.admin.has = [("v2", "t2", other)]
        self.assertEqual(self.items(), shown(other))
        self.assertEqual(self.dumps(), 0)

    def test_a_write_that_envoy_took_back_is_told_as_it_is(self):
        one, other = item("1"), item("1", "b")
        self.active.wrote("cds", "v1", (one,))
        self.active.wrote("cds", "v2", (other,))
        self.admin.has = [("v1", "t1", one)]
        self.assertEqual(self.items(), shown(one))

    def test_what_an_earlier_agent_wrote_is_dumped_once(self):
        one, two = item("1"), item("2")
        self.admin.has = [("v1", "t1", one), ("v2", "t2", two)]
        self.assertEqual(self.items(), shown(one, two))
        self.assertEqual(self.items(), shown(one, two))
        self.assertEqual(self.dumps(), 1)

    def test_a_strangers_is_dumped_also_under_a_version_of_ours(self):
        one, strange, added = item("1"), item("1", "x"), item("2", "y")
        self.active.wrote("lds", "v1", (one,))
        self.admin.has = [("v1", "t1", one)]
        self.assertEqual(self.items("lds"), shown(one))
        self.admin.has = [("v1", "t2", strange)]
        self.assertEqual(self.items("lds"), shown(strange))
        self.admin.has = [("v1", "t2", strange), ("v1", "t3", added)]
        self.assertEqual(self.items("lds"), shown(strange, added))
        self.assertEqual(self.dumps(), 2)

    def test_what_is_gone_is_gone(self):
        one, two = item("1"), item("2")
        self.active.wrote("cds", "v1", (one, two))
        self.admin.has = [("v1", "t1", two)]
        self.assertEqual(self.items(), shown(two))
        self.admin.has = []
        self.assertEqual(self.items(), ())

    def test_all_that_there_is_to_it_is_told_when_it_is_asked_for(self):
        one = item("1")
        self.active.wrote("cds", "v1", (one,))
        self.admin.has = [("v1", "t1", one)]
        whole = self.successResultOf(Deferred.fromCoroutine(self.active.whole("cds")))
        self.assertEqual(whole, (one,))

    def test_writes_that_nobody_looked_at_are_told_by_a_dump_once_they_are_many(self):
        one, two = item("1"), item("2")
        self.active.wrote("cds", "v0", (one,))
        for number in range(1, MAX_WRITES + 1):
            self.active.wrote("cds", f"v{number}", (one, two))
        self.admin.has = [("v0", "t1", one), ("v1", "t1", two)]
        self.assertEqual(self.items(), shown(one, two))
        self.assertEqual(self.dumps(), 1)
