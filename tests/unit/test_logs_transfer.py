"""Logs on their way: pushed and pulled over a real secure channel, broken off anywhere, and each line there once."""

from avinet.logs.incoming import IntakeLimits
from avinet.units import KIB, MIB
from tests.unit.log_kit import FULL, SIGNIFICANT, Fleet
from tests.unit.log_lines import BASE_US, line


class Pushed(Fleet):
    def test_significant_segments_come_by_themselves_and_leave_the_spool(self):
        self.engine.log(SIGNIFICANT, line(1, status=500), line(2, status=503))
        self.engine.spooled()
        self.attach()
        self.pump()
        self.assertEqual(sorted(self.received()[SIGNIFICANT]), sorted(self.engine.written[SIGNIFICANT]))
        self.assertEqual(self.engine.heads(), [])
        self.engine.log(SIGNIFICANT, line(1, BASE_US + 9, status=500))
        self.engine.spooled()
        self.pump()
        self.assertEqual(sorted(self.received()[SIGNIFICANT]), sorted(self.engine.written[SIGNIFICANT]))
        self.assertEqual(self.received()[FULL], [])

    def test_full_segments_stay_until_somebody_asks(self):
        self.engine.log(FULL, line(1))
        self.engine.spooled()
        self.attach()
        self.pump()
        self.assertEqual(len(self.engine.heads()), 1)


class Pulled(Fleet):
    def test_everything_up_to_the_request_comes_and_the_pull_says_so(self):
        self.engine.log_bulk(FULL, 2 * MIB)
        self.attach()
        self.pump()
        self.engine.log(FULL, line(2, BASE_US + 7))  # in no segment yet
        pull = self.pull()
        self.pump()
        self.assert_all_here(FULL)
        view = self.pulls.get(pull)
        self.assertEqual(view.state, "done")
        (share,) = view.shares
        self.assertEqual((share.records, share.records_in_all), (len(self.engine.written[FULL]),) * 2)
        self.assertEqual((share.segments, share.size), (share.segments_in_all, share.size_in_all))
