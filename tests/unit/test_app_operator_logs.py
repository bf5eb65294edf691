"""The routes for request logs, put together from a controller's parts."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.operator_logs import _Known, log_routes
from avinet.controller.log_questions import LogAnswers
from avinet.controller.log_sets import NoCopySets
from avinet.controller.peers import NoPeers
from avinet.controller.pull_records import PullOrder, PullState, PullView, ShareView
from avinet.logs.entries import Dropped
from avinet.model.engine import Lifecycle
from avinet.model.ids import ControllerName, ObjectId, SeId
from avinet.model.logs import Drop, DropReason, LogClass, Selection

WEB = ObjectId("virtualservice-00000000-0000-7000-8000-000000000001")
ONE, TWO, GONE = SeId("se-1"), SeId("se-2"), SeId("se-3")


def engine(uuid, name, lifecycle=Lifecycle.ENROLLED, *, connected_once=True):
    return SimpleNamespace(uuid=uuid, name=name, lifecycle=lifecycle, connected_once=connected_once)


class KnownTests(SynchronousTestCase):
    def setUp(self):
        records = {
            ONE: engine(ONE, "b"),
            TWO: engine(TWO, "a", connected_once=False),
            GONE: engine(GONE, "c", Lifecycle.DELETED),
        }
        thing = SimpleNamespace(thing=SimpleNamespace(uuid=WEB, name="web"))
        self.records = SimpleNamespace(
            engines=SimpleNamespace(all=lambda: tuple(records.values()), find=records.get, named=records.get),
            config=SimpleNamespace(
                current=SimpleNamespace(find=lambda kind, name: thing if name in {"web", WEB} else None)
            ),
            name_of=lambda se: records[se].name,
        )
        self.pulls, self.drops = [], []
        run = maybeDeferred
        self.logs = SimpleNamespace(
            ledger=SimpleNamespace(newest_drops=lambda limit: self.drops[:limit]),
            intake=SimpleNamespace(
                threads=SimpleNamespace(commits=SimpleNamespace(run=run)),
                bulk_link=lambda se: SimpleNamespace(ready=True) if se == ONE else None,
                spools={},
                add_listener=lambda listener: None,
            ),
            pulls=SimpleNamespace(all=lambda: self.pulls, get=None, pause=None, resume=None, cancel=None),
            store=SimpleNamespace(),
            exports=None,
            copies=NoCopySets(),
        )
        self.known = _Known(self.logs, self.records)

    def test_engines_are_those_that_are_not_deleted_by_name(self):
        self.assertEqual(self.known.engines(), [(TWO, "a"), (ONE, "b")])
        self.assertEqual(self.known.with_logs(), [(ONE, "b")])
        self.assertEqual((self.known.connected(ONE), self.known.connected(TWO)), (True, False))

    def test_services_have_names_as_long_as_they_are_configured(self):
        self.assertEqual((self.known.service("web"), self.known.service("none")), (WEB, None))
        self.assertEqual((self.known.service_name(WEB), self.known.service_name("gone")), ("web", "gone"))

    def test_a_pull_is_under_way_until_the_engines_part_has_ended(self):
        for state, expected in ((PullState.WAITING, True), (PullState.PAUSED, True), (PullState.DONE, False)):
            order = PullOrder(by="", engines=(ONE,), selection=Selection(since_us=7))
            self.pulls = [
                PullView(id=1, order=order, at=0.0, state=state, shares=(ShareView(se=ONE, state=state),))
            ]
            self.assertEqual(self.known.pulled(), {ONE} if expected else set(), state)
        self.assertEqual(self.known.selection(1), Selection(since_us=7))
        self.assertIsNone(self.known.selection(2))

    def test_what_was_lost_is_told_by_name_and_time(self):
        drop = Drop(
            reason=DropReason.TORN, log_class=LogClass.FULL, service=WEB, first_us=1_000_000, records=2
        )
        self.drops = [Dropped(1, ONE, 2_000_000, drop)]
        [lost] = self.successResultOf(Deferred.fromCoroutine(self.known.drops()))
        self.assertEqual((lost.se, lost.vs, lost.reason, lost.records), ("b", "web", "torn", 2))
        self.assertEqual((lost.since, lost.until), ("1970-01-01T00:00:01.000000Z", ""))

    def test_the_store_tells_tails_of_its_new_files(self):
        peers = SimpleNamespace(
            links=NoPeers(ControllerName("a")), logs=LogAnswers(), parts=SimpleNamespace()
        )
        routes = log_routes(self.logs, self.records, peers, SimpleNamespace(ask=None), Clock())
        self.assertEqual(len({(route.method, route.path) for route in routes}), len(routes))
        self.logs.store.stored("a file")
