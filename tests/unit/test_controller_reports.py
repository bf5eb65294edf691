"""What sessions and logins become as events."""

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.config_entries import VersionRecord
from avinet.controller.events import Events, MemoryLog
from avinet.controller.reports import (
    NOTICE_BURST,
    AttendanceEvents,
    ChannelEvents,
    ConfigEvents,
    SessionEvents,
)
from avinet.model.events import Event, Level
from avinet.model.ids import ConfigVersion
from avinet.wire.messages import Notice


class Session:
    """As much of a session as the reports look at."""

    se = "se-1"


class Reports(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.told: list[Event] = []
        events = Events(MemoryLog(), self.clock, wall=self.clock.seconds)
        events.follow(self.told.append)
        self.addCleanup(lambda: None)
        self.sessions = SessionEvents(events.emit, lambda se: "web-1", self.clock)
        self.channels = ChannelEvents(events.emit, lambda se: "web-1")
        self.attendance = AttendanceEvents(events.emit, lambda se: "web-1")

    def codes(self) -> list[str]:
        return [event.code for event in self.told]

    def notice(self, **facts: Any) -> None:
        self.sessions.received(
            Session(), Notice(code="COMMAND", level="info", text="'id' ended", facts=facts)
        )

    def test_an_engine_that_comes_back_within_a_minute_is_told_each_time(self) -> None:
        self.attendance.up("se-1")
        self.attendance.down("se-1", "gone")
        self.attendance.up("se-1")
        self.assertEqual(self.codes(), ["SE_UP", "SE_DOWN", "SE_UP"])

    def test_every_command_is_told_even_when_another_ran_a_second_ago(self) -> None:
        self.notice(command="id")
        self.notice(command="rm -rf /")
        self.assertEqual([event.facts["told"]["command"] for event in self.told], ["id", "rm -rf /"])

    def test_an_engine_that_floods_its_operator_is_cut_short_and_that_is_told_once(self) -> None:
        for n in range(1000):
            self.notice(command=str(n))
        self.assertEqual(self.codes().count("SE_COMMAND"), int(NOTICE_BURST))
        self.assertEqual(self.codes().count("SE_NOTICES_DROPPED"), 1)
        self.clock.advance(2)
        self.notice(command="later")
        self.assertEqual(self.told[-1].facts["told"]["command"], "later")

    def test_a_notice_cannot_choose_a_code_of_ours_or_fill_the_log_with_its_text(self) -> None:
        message = Notice(code="DELETED", level="loud", text="x" * 10_000, facts={"k": "y" * 10_000})
        self.sessions.received(Session(), message)
        event = self.told[0]
        self.assertEqual((event.code, event.level), ("SE_NOTICE", Level.WARNING))
        self.assertLess(len(event.text), 600)
        self.assertLess(len(event.facts["told"]["k"]), 600)

    def test_a_storm_of_refused_logins_is_one_line_and_a_count(self) -> None:
        for _ in range(500):
            self.channels.auth_failed("203.0.113.9", "root", "SHA256:x", "unknown-user")
        self.assertEqual(self.codes(), ["SSH_LOGIN_REFUSED"])
        self.clock.advance(61)
        self.assertEqual(self.told[-1].count, 499)

    def test_an_engine_that_was_sent_away_is_not_reported_down(self) -> None:
        away = AttendanceEvents(self.channels.emit, lambda se: "web-1", lambda se: True)
        away.down("se-1", "deleted")
        away.partly("se-1", "deleted", ("b",))
        self.assertEqual(self.codes(), [])

    def test_an_engine_that_others_have_is_a_warning_here_and_not_down(self) -> None:
        self.attendance.partly("se-1", "6 heartbeats missed", ("b", "c"))
        self.attendance.whole("se-1")
        self.assertEqual(self.codes(), ["SE_PARTLY_ATTACHED", "SE_PARTLY_OVER"])
        self.assertEqual(self.told[0].level, Level.WARNING)
        self.assertIn("to b, c", self.told[0].text)

    def test_a_change_of_configuration_is_told_with_who_made_it_and_what(self) -> None:
        record = VersionRecord(
            version=ConfigVersion(7),
            change="x",
            author="admin",
            at=0.0,
            created=tuple(f"pool/{n}" for n in range(50)),
            deleted=("virtualservice/www",),
        )
        ConfigEvents(self.channels.emit).committed(record)
        event = self.told[0]
        self.assertEqual(
            (event.code, event.facts["author"], event.facts["version"]), ("CONFIG_CHANGED", "admin", 7)
        )
        self.assertIn("pool/19 and more; deleted virtualservice/www.", event.text)
