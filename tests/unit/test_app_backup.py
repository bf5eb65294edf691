"""A backup of a controller, and what becomes of it in an empty folder."""

import io
import os
import time
from pathlib import Path
from unittest import SkipTest

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import avinet.app.restore as restore_module
from avinet.app.backup import FORMAT, About, BackupWriter, Kept, read_backup
from avinet.app.restore import RootKeyNeededError, StateNotEmptyError, restore
from avinet.controller.config_store import ConfigStore
from avinet.controller.configuration import ConfigService
from avinet.controller.incarnation import ClockBehindError, NothingRestoredError
from avinet.model.fence import Fence
from avinet.model.ids import ControllerName
from avinet.store.content_records import (
    ContentBrokenError,
    Count,
    Keys,
    Rests,
    Unframer,
    content_of,
    framed,
    records_of,
)
from avinet.store.copying import Content, read_file, take
from avinet.store.interface import NO_LEASE, Entry, LeaseId, Put
from avinet.store.memory import MemoryStore
from avinet.store.sqlite import open_sqlite_store
from avinet.store.threads import InPlace
from avinet.trust.ca import RootCa
from avinet.trust.membership import changed, sign_membership, verify_membership
from avinet.trust.node import ControllerIdentity, ControllerPaths, NodeFacts
from avinet.trust.sealed import SealDamagedError, Sealer, SealVersionError
from tests.unit.test_trust_sealed import PASSPHRASE, quick

FACTS = NodeFacts(
    name=ControllerName("c1"),
    addresses=("192.0.2.1",),
    ssh_port=22,
    registration_port=8443,
    reverse_port=5097,
)
SECRETS = ("root_key", "node_key", "host_key", "id_se", "id_controller", "api_key", "admin")


class Records(SynchronousTestCase):
    def content(self):
        entries = [Entry(f"key/{n:05d}", b"v" * (5 * n), 0, 0) for n in range(600)]
        return Content((Entry("a", b"1", 0, 0, LeaseId(7)), *entries), {LeaseId(7): 12.5}, 42)

    def test_a_store_comes_out_as_it_went_in_in_whatever_pieces_it_travels(self):
        content, came = self.content(), []
        self.assertGreater(len(list(records_of(content))), 4)
        unframer = Unframer(came.append)
        data = b"".join(framed(records_of(content)))
        for at in range(0, len(data), 70_001):
            unframer.write(data[at : at + 70_001])
        unframer.end()
        self.assertEqual(content_of(came), content)

    def test_what_ends_early_or_goes_on_is_refused(self):
        data = b"".join(framed(records_of(self.content())))
        for cut in (data[:-1], data[:100], b"", data + data[:10]):
            with self.assertRaises(ContentBrokenError):
                unframer = Unframer([].append)
                unframer.write(cut)
                unframer.end()
        for odd in ([Count(0)], [Rests(revision=1, rests={}), Count(1)], [Keys(())], []):
            self.assertRaises(ContentBrokenError, content_of, odd)

    def test_of_a_store_that_is_written_to_it_is_all_of_one_revision(self):
        store = MemoryStore(Clock())
        lease = self.successResultOf(store.grant_lease(60))
        self.successResultOf(store.transact((), [Put("a", b"1"), Put("b", b"2", lease)]))
        content = self.successResultOf(Deferred.fromCoroutine(take(store)))
        self.assertEqual([(e.key, e.lease) for e in content.entries], [("a", NO_LEASE), ("b", lease)])
        self.assertEqual(content.rests, {lease: 60.0})


class BackedUp(SynchronousTestCase):
    """A controller alone, with the version that every new cluster has."""

    def setUp(self):
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.identity = ControllerIdentity.init(self.folder / "c1", FACTS)
        self.paths = self.identity.paths
        self.service(self.paths, lambda service: service.lead())

    def service(self, paths, work):
        clock = Clock()
        clock.advance(time.time())
        store = self.successResultOf(open_sqlite_store(paths.store, clock, runner=InPlace()))
        service = ConfigService(ConfigStore(store), clock)
        self.successResultOf(Deferred.fromCoroutine(service.load()))
        try:
            return self.successResultOf(Deferred.fromCoroutine(work(service)))
        finally:
            self.successResultOf(store.close())

    async def whole(self, service):
        return service.fence, service.restored, set(service.current.objects), await service.history.records()

    def back_up(self, content=None, settings=None):
        path = self.folder / "c1.backup"
        with path.open("wb") as file:
            writer = BackupWriter.begin(file, self.paths, settings, PASSPHRASE, quick)
            for record in records_of(content or read_file(self.paths.store)):
                writer.put(record)
            written = writer.end()
        found = read_backup(path, PASSPHRASE, quick)
        self.assertEqual(found.sha256, written)
        return found

    def restored(self, backup, **options):
        options.setdefault("accepted", False)
        return restore(backup, self.folder / "new", **options)


class Restored(BackedUp):
    def test_all_keys_come_back_as_they_were_and_stay_private(self):
        done = self.restored(self.back_up(settings=b"# mine\n"))
        new = ControllerPaths(self.folder / "new")
        for name in SECRETS:
            path = getattr(new, name)
            self.assertEqual(path.read_bytes(), getattr(self.paths, name).read_bytes())
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(done.settings.read_bytes(), b"# mine\n")
        again = ControllerIdentity.init(self.folder / "new", FACTS, sign=False)
        self.assertEqual(again.me, self.identity.me)
        self.assertEqual(
            {path.name for path in new.state.iterdir()} - {"controller.toml"},
            {"cluster.json", "trust", "ssh", "api", "admin.json", "admin.password", "store.db", "lock"},
        )

    def test_its_numbers_exceed_all_that_anybody_can_have_seen(self):
        before = self.service(self.paths, self.whole)
        self.restored(self.back_up())
        fence, restored, objects, records = self.service(ControllerPaths(self.folder / "new"), self.whole)
        self.assertGreater(fence.version, before[0].version + 1_000_000_000)
        self.assertGreater(fence.incarnation, 1_000_000_000)
        self.assertEqual(restored.known, before[0])
        self.assertEqual(objects, before[2])
        self.assertEqual([record.version for record in records], [fence.version, before[0].version])
        listed = self.listed()
        self.assertGreater(listed.number, 1_000_000_000)
        self.assertEqual(listed.controllers, self.identity.membership.controllers)

    def listed(self):
        paths = ControllerPaths(self.folder / "new")
        document = paths.membership.read_text()
        stored = {entry.key: entry.value for entry in read_file(paths.store).entries}
        self.assertEqual(stored["membership"].decode(), document)
        return verify_membership(document, self.identity.root.certificate)

    def test_a_version_after_it_counts_on_and_those_before_can_be_gone_back_to(self):
        self.restored(self.back_up())
        paths = ControllerPaths(self.folder / "new")
        first = self.service(paths, self.whole)[0].version

        async def change(service):
            document = {"kind": "ServiceEngineGroup", "name": "more"}
            made = await service.apply([document], "me")
            back = await service.roll_back(1, "me")
            return made.version, back.version, service.current.find("serviceenginegroup", "more")

        self.assertEqual(self.service(paths, change), (first + 1, first + 2, None))

    def test_until_it_is_accepted_who_has_seen_newer_is_known(self):
        before = self.service(self.paths, self.whole)[0]
        self.restored(self.back_up())
        paths = ControllerPaths(self.folder / "new")
        fence, restored, _, _ = self.service(paths, self.whole)
        version = before.version
        for seen, newer in (
            (before, False),
            (Fence(0, 0, 0), False),
            (Fence(before.incarnation, before.term + 3, version), False),
            (Fence(before.incarnation, 0, version + 1), True),
            (Fence(before.incarnation + 1, 0, version), True),
            (fence, False),
        ):
            self.assertIs(restored.is_newer(seen), newer, msg=str(seen))

        async def accept(service):
            heard = []
            service.listen(lambda configuration: heard.append(configuration.version))
            return await service.accept_restored("me"), heard, service.restored

        self.assertEqual(self.service(paths, accept), (fence.version + 1, [fence.version + 1], None))

        async def again(service):
            with self.assertRaises(NothingRestoredError):
                await service.accept_restored("me")

        self.service(paths, again)

    def test_with_the_operators_word_it_is_accepted_from_the_start(self):
        self.restored(self.back_up(), accepted=True)
        self.assertIsNone(self.service(ControllerPaths(self.folder / "new"), self.whole)[1])

    def test_restored_twice_the_first_ones_word_on_what_is_newer_stays(self):
        before = self.service(self.paths, self.whole)[0]
        self.restored(self.back_up())
        self.paths = ControllerPaths(self.folder / "new")
        restore(self.back_up(), self.folder / "newer", accepted=False)
        first = self.service(self.paths, self.whole)[0]
        fence, restored, _, _ = self.service(ControllerPaths(self.folder / "newer"), self.whole)
        self.assertGreater(fence, first)
        self.assertGreater(fence.version, first.version)
        self.assertEqual(restored.known, before)

    def test_leases_have_as_much_less_left_as_has_passed_and_nobody_leads(self):
        content = read_file(self.paths.store)
        leased = [Entry("token/1", b"1", 0, 0, LeaseId(901)), Entry("token/2", b"2", 0, 0, LeaseId(902))]
        leads = Entry("leader", b"{}", 0, 0, LeaseId(903))
        rests = {LeaseId(901): 1000.0, LeaseId(902): 100.0, LeaseId(903): 1000.0}
        backup = self.back_up(Content((*content.entries, *leased, leads), {**content.rests, **rests}, 1))
        about = msgspec.structs.replace(backup.about, made_at=time.time() - 500)
        self.restored(attrs.evolve(backup, about=about))
        found = read_file(ControllerPaths(self.folder / "new").store)
        keys = {entry.key: entry for entry in found.entries}
        self.assertNotIn("leader", keys)
        self.assertNotIn("token/2", keys)
        self.assertTrue(400 < found.rests[keys["token/1"].lease] <= 500)


class Cluster(BackedUp):
    """The controller is one of three; the newest list is in the store alone."""

    def setUp(self):
        super().setUp()
        me = self.identity.me
        others = [
            msgspec.structs.replace(
                me,
                name=name,
                node_certificate=ControllerIdentity.init(
                    self.folder / name, attrs.evolve(FACTS, name=name)
                ).me.node_certificate,
            )
            for name in ("c2", "c3")
        ]
        self.three = changed(self.identity.membership, (me, *others))
        document = sign_membership(RootCa.load(self.paths.root_pem.parent).key, self.three)
        content = read_file(self.paths.store)
        self.content = Content(
            (*content.entries, Entry("membership", document.encode(), 0, 0)), content.rests, 1
        )

    def test_it_is_the_first_of_a_new_one_and_the_others_are_revoked(self):
        done = self.restored(self.back_up(self.content))
        self.assertEqual(done.dropped, ("c2", "c3"))
        document = ControllerPaths(self.folder / "new").membership.read_text()
        listed = verify_membership(document, self.identity.root.certificate)
        self.assertEqual([controller.name for controller in listed.controllers], ["c1"])
        self.assertEqual(len(listed.revoked_serials), 2)
        self.assertGreater(listed.number, self.three.number + 1_000_000_000)

    def test_without_the_root_key_it_is_refused_and_with_it_named_it_works(self):
        key = self.folder / "root.key"
        self.paths.root_key.rename(key)
        backup = self.back_up(self.content)
        self.assertRaises(RootKeyNeededError, self.restored, backup)
        self.assertEqual([path.name for path in (self.folder / "new").iterdir()], ["lock"])
        self.restored(backup, root_key=key)
        self.assertEqual(ControllerPaths(self.folder / "new").root_key.read_bytes(), key.read_bytes())


class Refused(BackedUp):
    def test_alone_without_the_root_key_the_list_stays_as_it_is(self):
        self.paths.root_key.unlink()
        done = self.restored(self.back_up())
        self.assertFalse(done.raised)
        self.assertEqual(done.membership, self.identity.membership.number)

    def test_a_folder_with_anything_in_it_is_left_as_it_is(self):
        new = self.folder / "new"
        new.mkdir(0o700)
        (new / "notes").write_text("mine")
        why = self.assertRaises(StateNotEmptyError, self.restored, self.back_up())
        self.assertEqual(why.name, "notes")
        self.assertEqual({path.name for path in new.iterdir()}, {"notes", "lock"})

    def test_what_an_earlier_try_left_is_done_anew(self):
        new = self.folder / "new"
        (new / ".restoring" / "trust").mkdir(0o700, parents=True)
        (new / "trust").mkdir()
        new.chmod(0o700)
        self.restored(self.back_up())
        self.assertTrue((new / "cluster.json").exists())
        self.assertFalse((new / ".restoring").exists())

    def test_cut_off_while_things_are_moved_nothing_is_left_and_it_can_be_done_again(self):
        new, backup = self.folder / "new", self.back_up()

        def cut(making, state):
            (making / "trust").rename(state / "trust")
            raise OSError(5, "Input/output error")

        whole = restore_module._move
        self.patch(restore_module, "_move", cut)
        self.assertRaises(OSError, self.restored, backup)
        self.assertEqual([path.name for path in new.iterdir()], ["lock"])
        self.patch(restore_module, "_move", whole)
        self.restored(backup)
        self.assertTrue((new / "cluster.json").exists())

    def test_root_restores_for_who_has_the_folder(self):
        if os.geteuid() != 0:
            raise SkipTest("only root can give files away")
        new = self.folder / "new"
        new.mkdir(0o700)
        os.chown(new, 65534, 65534)
        self.restored(self.back_up())
        self.assertEqual({path.stat().st_uid for path in new.rglob("*")}, {65534})

    def test_a_clock_from_before_the_backup_is_refused(self):
        backup = self.back_up()
        about = msgspec.structs.replace(backup.about, made_at=time.time() + 3600)
        self.assertRaises(ClockBehindError, self.restored, attrs.evolve(backup, about=about))

    def read(self, *records):
        file = io.BytesIO()
        sealer = Sealer.begin(file, PASSPHRASE, quick)
        for record in records[:-1]:
            sealer.put(msgspec.msgpack.encode(record))
        sealer.end(msgspec.msgpack.encode(records[-1]))
        path = self.folder / "odd.backup"
        path.write_bytes(file.getvalue())
        return read_backup(path, PASSPHRASE, quick)

    def test_records_that_are_not_a_backups_are_refused(self):
        about = About(format=FORMAT, cluster="c", controller="n", software="1", made_at=0.0)
        for records in ([about], [Count(0)], [about, about], [about, {"type": "odd"}], [b"\xff"]):
            self.assertRaises(SealDamagedError, self.read, *records)

    def test_a_file_by_another_name_than_ours_is_refused(self):
        about = About(format=FORMAT, cluster="c", controller="n", software="1", made_at=0.0)
        for name in ("state", "store", "../../etc/passwd", "_anything"):
            self.assertRaises(SealDamagedError, self.read, about, Kept(name, b"x"), Count(0))

    def test_records_of_another_format_are_named(self):
        about = {"type": "about", "format": 2, "more": 1}
        self.assertRaises(SealVersionError, self.read, about, Count(0))
