"""Those without rights are told so, then cut off."""

from avinet.controller.engine_commands import EngineCommands
from avinet.controller.goodbyes import GOODBYE_S, Goodbyes
from avinet.wire import messages as m

from .enrolment_kit import Site, run
from .test_controller_sessions import SessionsCase


class Ending(SessionsCase):
    def setUp(self):
        super().setUp()
        self.site, self.dropped = Site(), []
        self.engines, self.commands = self.site.engines, EngineCommands(self.site.engines)
        self.goodbyes = Goodbyes(self.engines, self.sessions, self.dropped.append, self.clock)
        self.engines.listen(self.goodbyes.record_changed)
        _, token = run(self.engines.create("se-1", "web"))
        self.se = self.site.enrol(self.site.machine().request(token.text)).uuid
        self.wire = self.attach(se=self.se)

    def heard_goodbye(self):
        return [message for message in self.wire.heard() if isinstance(message, m.Goodbye)]

    def test_a_deleted_one_hears_why_before_it_is_cut(self):
        run(self.engines.delete(self.se))
        self.assertEqual([said.reason for said in self.heard_goodbye()], ["deleted"])
        self.assertEqual(self.dropped, [])
        self.clock.advance(GOODBYE_S)
        self.assertEqual(self.dropped, [self.se])
        self.assertTrue(self.goodbyes.sent_away(self.se))

    def test_a_quarantined_one_waits_for_its_departure_and_is_cut_then(self):
        run(self.commands.quarantine(self.se, "a test"))
        self.assertEqual(self.heard_goodbye(), [])
        self.goodbyes.say(self.se)
        self.assertEqual([said.reason for said in self.heard_goodbye()], ["quarantined"])
        self.clock.advance(GOODBYE_S)
        self.assertEqual(self.dropped, [self.se])

    def test_one_that_is_pardoned_meanwhile_is_not_cut_and_may_come_back(self):
        run(self.commands.quarantine(self.se, "a test"))
        self.goodbyes.say(self.se)
        run(self.commands.enable(self.se))
        self.clock.advance(GOODBYE_S)
        self.assertEqual(self.dropped, [])
        self.assertFalse(self.goodbyes.sent_away(self.se))

    def test_one_that_nobody_knows_is_cut(self):
        self.assertFalse(self.goodbyes.sent_away("nobody"))
        self.goodbyes.say("nobody")
        self.clock.advance(GOODBYE_S)
        self.assertEqual(self.dropped, ["nobody"])
