"""What a follower is asked to change is done by the leader, once, for who asked; and said plainly when it is not."""

import io
import json
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.peer_api import PeerApi
from avinet.controller.api_images import IMAGE_HEADER
from avinet.controller.forwarding import FOR, MAX_FORWARDED, Forwarding
from avinet.controller.leadership import Role as Seating
from avinet.controller.peers import PEER_API
from avinet.controller.peers_memory import PeerHub
from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ControllerName
from avinet.rest.access import Principal, Role
from avinet.rest.file_body import FileBody
from avinet.rest.route import Auth, Response, Route
from avinet.rest.router import Router
from tests.unit.rest_client import Client, Connection, Known, request_bytes

LEADER = ControllerName("a")


@error
class TakenError(AvinetError):
    """It is taken."""

    kind = Kind.CONFLICT


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class Turns:
    """What a link carries arrives in a turn of the reactor of its own, as with a real one."""

    def __init__(self, clock):
        self.clock = clock

    def run(self, call):
        self.clock.callLater(0, call)


class Waiting(Client):
    """A client that waits for its answer."""

    def __call__(self, method, path, body=None, headers=None, **kwargs):
        connection = self.connect()
        connection.send(request_bytes(method, path, body, headers, **kwargs))
        self.clock.pump([0] * 12)
        if not connection.transport.value():
            self.clock.pump([0.5, *[0] * 12] * 8)  # longer than anybody waits for a leader
        answer = connection.answer()
        connection.lose()
        return answer


class Seat:
    def __init__(self, role):
        self.role = role
        self.stale_s, self.silent = 0.0, False
        self.revision = 77
        self.waited = []

    async def caught_up(self, revision):
        self.waited.append(revision)


class Controller:
    """Routes, a surface of operators, and what the others ask."""

    def __init__(self, name, hub, clock):
        self.name, self.clock = name, clock
        self.seat = Seat(Seating(leads=name == LEADER, leader=LEADER, term=1))
        self.requests: list[Any] = []
        self.answer: Any = None
        self.guard = Known("anna", Role.OPERATOR)
        self.guard.principal = Principal(user="anna", role=Role.OPERATOR, token="ci", whole=Role.ADMIN)
        self.audited = []
        self.forwarding = Forwarding(self.seat, hub.peers(name), clock)
        self.peer_api = PeerApi(clock)
        hub.peers(name).offer(PEER_API, self.peer_api.build)
        self.client = Waiting(Router(self.routes(), clock, self.guard, self.forwarding), clock)

    def serve(self):
        self.peer_api.serve(self.routes(), self.seat, self.audited.append)

    async def handle(self, request):
        self.requests.append(request)
        if isinstance(self.answer, AvinetError):
            raise self.answer
        if isinstance(self.answer, Deferred):
            return await self.answer
        return self.answer or Response(status=201, body={"name": "x"}, headers={"ETag": '"7"', "X-Odd": "no"})

    def routes(self):
        def route(method, path, **more):
            return Route(method=method, path=path, handler=self.handle, summary="s", **more)

        return (
            route("GET", "/api/pool"),
            route("POST", "/api/pool", request=Wish),
            route("DELETE", "/api/pool/{uuid}", role=Role.ADMIN),
            route("PUT", "/api/pool/{uuid}", request=bytes),
            route("POST", "/logout", leader=False),
            route("POST", "/v1/service-engines", request=bytes, auth=Auth.ANYONE, leader=True),
        )


class Case(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.clock.advance(1e9)
        self.hub = PeerHub("a", "b", "c")
        self.hub.turns = Turns(self.clock)
        self.leader, self.other, self.third = (Controller(name, self.hub, self.clock) for name in "abc")
        for one in (self.leader, self.other, self.third):
            one.serve()

    def post(self, at=None, body=None, **headers):
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return (at or self.other).client("POST", "/api/pool", body or {"name": "x"}, given)


class HandedOn(Case):
    def test_the_leader_does_it_and_its_answer_comes_back_as_it_is(self):
        answer = self.post()
        self.assertEqual((answer.status, answer.json), (201, {"name": "x"}))
        self.assertEqual(answer.headers["etag"], '"7"')
        self.assertNotIn("x-odd", answer.headers)
        self.assertEqual((self.other.requests, len(self.leader.requests)), ([], 1))

    def test_with_who_asked_from_where_and_under_one_request_id(self):
        answer = self.post()
        (request,) = self.leader.requests
        self.assertEqual(request.login, self.other.guard.principal)
        self.assertEqual(request.peer, "192.0.2.7")
        self.assertEqual(request.body, Wish("x"))
        here, there = self.other.guard.accesses[-1], self.leader.audited[-1]
        self.assertEqual({here.request_id, there.request_id}, {answer.headers["x-request-id"]})
        self.assertEqual((here.done_by, there.asked_at, there.peer), ("a", "b", "192.0.2.7"))

    def test_a_refusal_is_the_leaders_and_both_audits_have_its_reason(self):
        self.leader.answer = TakenError()
        answer = self.post()
        self.assertEqual((answer.status, answer.json["reason"]), (409, "taken"))
        self.assertEqual(answer.headers["content-type"], "application/problem+json")
        self.assertEqual(
            [self.other.guard.accesses[-1].reason, self.leader.audited[-1].reason], ["taken"] * 2
        )

    def test_what_the_route_refuses_is_refused_before_it_goes_anywhere(self):
        self.assertEqual(self.post(body={"name": 7}).status, 400)
        self.assertEqual(self.other.client("DELETE", "/api/pool/1").status, 403)
        self.assertEqual(self.leader.requests, [])

    def test_headers_that_prove_who_asks_stay_here_and_others_go_on(self):
        self.other.client(
            "PUT", "/api/pool/a%20b?", b"\xff" * 100, {"If-Match": "*", "Cookie": "c", "Authorization": "Basic x", FOR: "{}"}
        )  # fmt: skip
        (request,) = self.leader.requests
        self.assertEqual(
            (request.headers["if-match"], request.params, request.body), ("*", {"uuid": "a b"}, b"\xff" * 100)
        )
        self.assertFalse({"cookie", "authorization"} & set(request.headers))
        self.assertEqual(json.loads(request.headers[FOR])["asked_at"], "b")

    def test_reads_and_what_is_this_controllers_own_stay_here(self):
        self.assertEqual(self.other.client("GET", "/api/pool").status, 201)
        self.assertEqual(self.other.client("POST", "/logout").status, 201)
        self.assertEqual((len(self.other.requests), self.leader.requests), (2, []))

    def test_the_leader_does_its_own(self):
        self.assertEqual(self.post(self.leader).status, 201)
        self.assertEqual(self.leader.guard.accesses[-1].done_by, "")

    def test_a_registration_is_handed_on_with_its_source_and_without_a_login(self):
        answer = self.other.client("POST", "/v1/service-engines", b"{}")
        self.assertEqual(answer.status, 201)
        (request,) = self.leader.requests
        self.assertEqual((request.peer, request.login, request.body), ("192.0.2.7", None, b"{}"))
        self.assertEqual(self.leader.audited, [])

    def test_whoever_wrote_reads_it_here_too(self):
        self.post()
        self.assertEqual(self.other.seat.waited, [77])

    def test_a_file_in_the_answer_is_passed_on(self):
        self.leader.answer = Response(
            body=FileBody(io.BytesIO(b"f" * 300_000), 300_000, self.clock),
            content_type="x/y",
            headers={IMAGE_HEADER: "i-1"},
        )
        connection = self.other.client.connect()
        connection.send(request_bytes("POST", "/api/pool", {"name": "x"}))
        self.clock.pump([0] * 10)
        answer = connection.answer()
        self.assertEqual((answer.body, answer.headers["content-length"]), (b"f" * 300_000, "300000"))
        self.assertEqual(answer.headers["content-type"], "x/y")
        self.assertEqual(answer.headers["x-avinet-image"], "i-1")


class NotDone(Case):
    def refused(self, answer, status, reason):
        self.assertEqual((answer.status, answer.json["reason"]), (status, reason))
        return answer.json["detail"]

    def test_without_a_leader_the_answer_says_that_there_is_no_quorum(self):
        self.other.seat.role = Seating(why="nobody leads")
        answer = self.post()
        said = self.refused(answer, 503, "no-quorum")
        self.assertIn("no quorum", said)
        self.assertIn("Nothing was done", said)
        self.assertEqual(answer.headers["retry-after"], "2")
        answer = self.other.client("POST", "/v1/service-engines", b"{}")
        self.refused(answer, 503, "no-quorum")

    def test_where_the_store_is_silent_nobody_waits_for_a_leader(self):
        self.other.seat.role, self.other.seat.silent = Seating(why="silence"), True
        before = self.clock.seconds()
        self.refused(self.post(), 503, "no-quorum")
        self.assertEqual(self.clock.seconds(), before)

    def waits(self):
        connection = self.other.client.connect()
        connection.send(request_bytes("POST", "/api/pool", {"name": "x"}))
        self.clock.pump([0.5, *[0] * 12])
        self.assertEqual(connection.transport.value(), b"")
        return connection

    def test_between_two_leaders_a_request_waits_for_the_next(self):
        self.other.seat.role = Seating(why="nobody leads")
        connection = self.waits()
        self.third.seat.role = Seating(leads=True, leader=ControllerName("c"), term=2)
        self.other.seat.role = Seating(leader=ControllerName("c"), term=2)
        self.clock.pump([0.1, *[0] * 12])
        self.assertEqual(connection.answer().status, 201)
        self.assertEqual((len(self.third.requests), self.leader.requests), (1, []))

    def test_and_is_done_here_where_that_is_this_controller(self):
        self.leader.seat.role = Seating(leader=ControllerName("b"), term=2)
        connection = self.waits()
        self.other.seat.role = Seating(leads=True, leader=ControllerName("b"), term=2)
        self.clock.pump([0.1, *[0] * 12])
        self.assertEqual(connection.answer().status, 201)
        self.assertEqual((len(self.other.requests), self.leader.requests), (1, []))
        self.assertEqual(self.other.forwarding._under_way, 0)

    def test_a_client_that_leaves_meanwhile_leaves_its_request(self):
        self.other.seat.role = Seating(why="nobody leads")
        self.waits().lose()
        self.other.seat.role = Seating(leader=LEADER, term=1)
        self.clock.pump([0.1, *[0] * 12])
        self.assertEqual(self.leader.requests[0].body, Wish("x"))

    def test_reads_go_on_and_say_how_old_they_are(self):
        self.other.seat.role = Seating(why="nobody leads")
        self.other.seat.stale_s = 12.7
        self.assertEqual(self.other.client("GET", "/api/pool").headers["x-avinet-stale-seconds"], "12")
        self.other.seat.stale_s = 0.9
        self.assertNotIn("x-avinet-stale-seconds", self.other.client("GET", "/api/pool").headers)

    def test_a_leader_that_cannot_be_reached_has_done_nothing(self):
        self.hub.cut("a", "b")
        self.clock.pump([0] * 3)
        said = self.refused(self.post(), 503, "leader-unreachable")
        self.assertIn("nothing was done", said)
        self.assertEqual((said.count("cannot be reached"), ".." in said), (1, False), said)

    def test_one_that_does_not_lead_any_more_asks_no_third(self):
        self.leader.seat.role = Seating(leader=ControllerName("c"), term=2)
        self.refused(self.post(), 503, "leader-moved")
        self.assertEqual(self.third.requests, [])

    def test_one_that_is_starting_has_done_nothing(self):
        self.leader.peer_api = PeerApi(self.clock)
        self.hub.peers("a").offer(PEER_API, self.leader.peer_api.build)
        self.refused(self.post(), 503, "leader-moved")

    def test_an_answer_that_was_lost_may_have_been_done_and_is_not_asked_for_again(self):
        self.leader.answer = Deferred()
        connection = self.other.client.connect()
        connection.send(request_bytes("POST", "/api/pool", {"name": "x"}))
        self.assertEqual(connection.transport.value(), b"")
        self.clock.pump([0] * 12)
        self.hub.cut("a", "b")
        self.clock.pump([0] * 12)
        said = self.refused(connection.answer(), 502, "forward-lost")
        self.assertIn("may have been done", said)
        self.assertIn("avinet config history", said)
        self.assertEqual(len(self.leader.requests), 1)

    def test_there_is_a_bound_to_what_is_under_way(self):
        self.other.forwarding._under_way = MAX_FORWARDED
        self.refused(self.post(), 503, "too-many-forwarded")

    def test_only_controllers_are_believed_for_whom_they_ask(self):
        told = json.dumps(
            {"request_id": "r", "peer": "", "asked_at": "b", "principal": {"user": "root", "role": "admin"}}
        )
        self.post(self.leader, **{FOR: told})
        self.assertEqual(self.leader.requests[-1].login.user, "anna")

    def test_a_channel_without_a_word_for_whom_is_refused(self):
        connection = Connection(self.leader.peer_api._site)
        connection.send(request_bytes("POST", "/api/pool", {"name": "x"}))
        self.assertEqual(connection.answer().status, 401)
        self.assertEqual(self.leader.requests, [])
