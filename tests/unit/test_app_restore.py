"""A restored controller is obeyed again."""

import os
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.restore import NothingToRestoreError, begin_if_marked, mark_restored
from avinet.controller.config_store import ConfigStore
from avinet.controller.configuration import ConfigService
from avinet.controller.state_engine_files import Progress, engine_files
from avinet.model.fence import Fence
from avinet.store.sqlite import open_sqlite_store
from avinet.store.threads import InPlace
from avinet.trust.files import private_dir
from avinet.trust.locks import StateFolderBusyError, StateLock
from avinet.trust.node import ControllerPaths, NotInitialisedError


class Restored(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.paths = ControllerPaths(self.state)

    def make(self) -> None:
        self.paths.cluster.write_text('{"cluster":"c","name":"n"}')
        self.assertLess(self.fence().incarnation, 1)

    def fence(self) -> Fence:
        clock = Clock()
        store = self.successResultOf(open_sqlite_store(self.paths.store, clock, runner=InPlace()))
        service = ConfigService(ConfigStore(store), clock)
        self.successResultOf(Deferred.fromCoroutine(service.load()))
        self.successResultOf(Deferred.fromCoroutine(service.lead()))
        self.successResultOf(store.close())
        return service.fence

    def test_every_order_after_it_outranks_every_order_before(self) -> None:
        self.make()
        before = self.fence()
        mark_restored(self.state)
        after = self.fence()
        self.assertGreater(after, Fence(before.incarnation, before.term, before.version + 1_000_000))

    def test_twice_in_one_second_gives_two_incarnations(self) -> None:
        self.make()
        self.assertLess(mark_restored(self.state) or 0, mark_restored(self.state) or 0)

    def test_a_state_engine_that_does_not_run_is_told_by_the_next_start(self) -> None:
        self.make()
        files = engine_files(self.state)
        private_dir(files.folder)
        files.reached(Progress(phase="serving", initial_cluster=""))
        self.paths.store.rename(self.paths.state / "kept")
        self.assertIsNone(mark_restored(self.state))
        (self.paths.state / "kept").rename(self.paths.store)
        before = self.fence().incarnation
        self.begin()
        after = self.fence().incarnation
        self.assertGreater(after, before)
        self.begin()
        self.assertEqual(self.fence().incarnation, after)

    def begin(self) -> None:
        store = self.successResultOf(open_sqlite_store(self.paths.store, Clock(), runner=InPlace()))
        self.successResultOf(Deferred.fromCoroutine(begin_if_marked(self.state, store)))
        self.successResultOf(store.close())

    def test_a_folder_without_a_controller_is_refused(self) -> None:
        self.assertRaises(NotInitialisedError, mark_restored, self.state)

    def test_a_controller_without_a_store_is_refused(self) -> None:
        self.paths.cluster.write_text('{"cluster":"c","name":"n"}')
        self.assertRaises(NothingToRestoreError, mark_restored, self.state)

    def test_a_controller_that_runs_is_named_and_nothing_is_changed(self) -> None:
        self.make()
        before = self.fence()
        lock = StateLock.take(self.state, "avinet controller")
        why = self.assertRaises(StateFolderBusyError, mark_restored, self.state)
        self.assertIn(str(os.getpid()), str(why))
        lock.release()
        self.assertEqual(self.fence(), before)
