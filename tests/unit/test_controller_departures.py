"""How SEs leave: drained before they are deleted, emptied before they are cut off."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from avinet.cloud.interface import CloudError
from avinet.controller.departures import FAREWELL_S, LEAVE_LOOK_S, LOOK_S, Departures, StrandedError
from avinet.controller.engine_commands import EngineCommands
from avinet.model.engine import Lifecycle
from tests.unit.enrolment_kit import Site, run


class View:
    """What placement would say."""

    def __init__(self):
        self.serves, self.stranded = True, ()

    def empty(self, se):
        return not self.serves

    def stranded_without(self, se):
        return self.stranded


class Case(SynchronousTestCase):
    def setUp(self):
        self.site, self.view, self.cut = Site(), View(), []
        self.commands = EngineCommands(self.site.engines)
        self.broken = False
        self.departures = self.make()
        _, token = run(self.site.engines.create("se-1", "web"))
        self.se = self.site.enrol(self.site.machine().request(token.text)).uuid

    def make(self):
        async def delete(se):
            if self.broken:
                raise CloudError(cloud="fake", action="delete", se=se, detail="told to")
            return await self.site.engines.delete(se)

        made = Departures(self.commands, self.view, delete, self.cut.append, self.site.clock)
        self.addCleanup(made.stop)
        return made

    @property
    def record(self):
        return self.site.engines.find(self.se)

    def wait(self, seconds):
        self.site.clock.pump([LOOK_S] * round(seconds / LOOK_S))


class Deleting(Case):
    def delete(self, *, now=False):
        return Deferred.fromCoroutine(self.departures.delete(self.se, now=now))

    def test_one_that_serves_nothing_goes_at_once(self):
        self.view.serves = False
        self.assertEqual(self.successResultOf(self.delete()).lifecycle, Lifecycle.DELETED)

    def test_one_that_serves_drains_first(self):
        record = self.successResultOf(self.delete())
        self.assertEqual((record.lifecycle, record.leaving, record.drains), (Lifecycle.DISABLED, True, True))
        self.wait(100)
        self.assertTrue(self.record.leaving)
        self.view.serves = False
        self.wait(2 * LEAVE_LOOK_S)
        self.assertEqual(self.record.lifecycle, Lifecycle.DELETED)
        self.assertFalse(self.departures._looks.running)

    def test_one_that_is_enabled_meanwhile_stays(self):
        self.delete()
        run(self.commands.enable(self.se))
        self.view.serves = False
        self.wait(2 * LEAVE_LOOK_S)
        self.assertEqual((self.record.lifecycle, self.record.leaving), (Lifecycle.ENROLLED, False))

    def test_what_no_other_can_serve_is_a_refusal_that_names_it_and_changes_nothing(self):
        self.view.stranded = ("a", "b", "c", "d")
        why = self.failureResultOf(self.delete(), StrandedError).value
        self.assertIn("4 virtual services (a, b, c and 1 more)", str(why))
        self.assertEqual(self.record.lifecycle, Lifecycle.ENROLLED)

    def test_at_once_means_emptied_and_gone(self):
        self.view.stranded = ("a",)
        gone = self.delete(now=True)
        self.wait(LOOK_S)
        self.assertEqual((self.record.lifecycle, self.record.drains), (Lifecycle.DISABLED, False))
        self.assertNoResult(gone)
        self.view.serves = False
        self.wait(LOOK_S)
        self.assertEqual(self.successResultOf(gone).lifecycle, Lifecycle.DELETED)

    def test_one_that_does_not_answer_is_not_waited_for_long(self):
        gone = self.delete(now=True)
        self.wait(FAREWELL_S + LOOK_S)
        self.assertEqual(self.successResultOf(gone).lifecycle, Lifecycle.DELETED)

    def test_the_next_controller_goes_on(self):
        self.delete()
        self.departures.stop()
        self.view.serves = False
        self.departures = self.make()
        self.departures.start()
        self.wait(2 * LEAVE_LOOK_S)
        self.assertEqual(self.record.lifecycle, Lifecycle.DELETED)

    def test_what_fails_is_told_and_tried_again(self):
        self.delete()
        self.view.serves, self.broken = False, True
        self.wait(2 * LEAVE_LOOK_S)
        self.assertIn("SE_DELETE_FAILED", self.site.events.codes())
        self.broken = False
        self.wait(2 * LEAVE_LOOK_S)
        self.assertEqual(self.record.lifecycle, Lifecycle.DELETED)


class CuttingOff(Case):
    def setUp(self):
        super().setUp()
        run(self.commands.quarantine(self.se, "odd"))

    def test_one_that_serves_nothing_is_cut_off_at_once(self):
        self.view.serves = False
        self.departures.cut_off(self.se)
        self.assertEqual(self.cut, [self.se])

    def test_one_that_serves_is_emptied_first(self):
        self.departures.cut_off(self.se)
        self.wait(LOOK_S)
        self.assertEqual(self.cut, [])
        self.view.serves = False
        self.wait(LOOK_S)
        self.assertEqual(self.cut, [self.se])

    def test_one_that_does_not_answer_is_cut_off_all_the_same(self):
        self.departures.cut_off(self.se)
        self.wait(FAREWELL_S + LOOK_S)
        self.assertEqual(self.cut, [self.se])

    def test_one_that_is_enabled_meanwhile_is_not_cut_off(self):
        self.departures.cut_off(self.se)
        run(self.commands.enable(self.se))
        self.wait(FAREWELL_S + LOOK_S)
        self.assertEqual(self.cut, [])
