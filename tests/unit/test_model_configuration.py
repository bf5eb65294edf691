"""The configuration as a value."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.model.config import HealthMonitor, Pool
from avinet.model.configuration import Configuration, Stored
from avinet.model.ids import NO_VERSION, ConfigVersion, ObjectId


def stored(uuid, name, kind=Pool):
    return Stored(kind(uuid=ObjectId(uuid), name=name), 1)


def made(*things, version=1):
    return Configuration().with_changes(ConfigVersion(version), things, [])


class Configurations(SynchronousTestCase):
    def test_the_empty_one_has_version_0_and_finds_nothing(self):
        self.assertEqual(Configuration().version, NO_VERSION)
        self.assertIsNone(Configuration().find("pool", "web"))
        self.assertEqual(Configuration().all_of(Pool), [])

    def test_an_object_is_found_by_uuid_and_by_name_within_its_kind(self):
        web, ping = stored("pool-1", "web"), stored("healthmonitor-1", "web", HealthMonitor)
        now = made(web, ping)
        self.assertEqual(now.find("pool", "pool-1"), web)
        self.assertEqual(now.find("pool", "web"), web)
        self.assertEqual(now.find("healthmonitor", "web"), ping)
        self.assertIsNone(now.find("healthmonitor", "pool-1"))
        self.assertIsNone(now.find("virtualservice", "web"))

    def test_a_uuid_goes_before_a_name_that_looks_like_it(self):
        first, second = stored("pool-1", "web"), stored("pool-2", "pool-1")
        self.assertEqual(made(first, second).find("pool", "pool-1"), first)

    def test_changes_leave_the_version_before_as_it_was(self):
        before = made(stored("pool-1", "a"), stored("pool-2", "b"))
        after = before.with_changes(
            ConfigVersion(2), [stored("pool-1", "renamed"), stored("pool-3", "c")], [ObjectId("pool-2")]
        )
        self.assertEqual([thing.name for thing in before.all_of(Pool)], ["a", "b"])
        self.assertEqual([thing.name for thing in after.all_of(Pool)], ["c", "renamed"])
        self.assertIsNone(after.find("pool", "a"))
        self.assertIsNone(after.find("pool", "b"))
        self.assertEqual((before.version, after.version), (1, 2))

    def test_a_name_can_move_to_another_object_in_one_change(self):
        before = made(stored("pool-1", "a"))
        after = before.with_changes(ConfigVersion(2), [stored("pool-2", "a")], [ObjectId("pool-1")])
        self.assertEqual(after.find("pool", "a").thing.uuid, "pool-2")

    def test_deleting_what_is_not_there_is_harmless(self):
        before = made(stored("pool-1", "a"))
        self.assertEqual(before.with_changes(ConfigVersion(2), [], [ObjectId("x")]).objects, before.objects)
