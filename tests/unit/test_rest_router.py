"""The router, through the real Site."""

import io
from typing import ClassVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import FileBodyProducer

from avinet.errors import AvinetError, Kind, LocalProtocolError, error
from avinet.rest.access import Principal, Role
from avinet.rest.problem import STATUS_OF_KIND, UnauthenticatedError, problem_of
from avinet.rest.router import Auth, Info, Response, Route, Router, openapi
from tests.unit.rest_client import Client, Known


class Server(msgspec.Struct, forbid_unknown_fields=True):
    port: int


class Pool(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    servers: list[Server] = []


class Page(msgspec.Struct, forbid_unknown_fields=True):
    page: int = 1
    name: str = ""


class Lenient(msgspec.Struct):
    name: str


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    inner: list[Lenient]


@error
class ColourTakenError(AvinetError):
    """The colour {colour} is taken by {holder}."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    colour: str
    holder: str


@error
class BusyError(AvinetError):
    """Too much at once."""

    kind: ClassVar[Kind] = Kind.LIMITED
    retry_after_s: float


@error
class MissingVersionError(AvinetError):
    """Say which."""

    kind: ClassVar[Kind] = Kind.PRECONDITION
    http_status: ClassVar[int] = 428


class RouterTests(SynchronousTestCase):
    """One request, one answer."""

    def setUp(self):
        self.seen = []
        self.clock = Clock()
        self.waiting = Deferred()
        self.raises = None

        async def handler(request):
            self.seen.append(request)
            if self.raises is not None:
                raise self.raises
            return Response(body={"ok": True, "params": dict(request.params)})

        async def slow(request):
            await self.waiting
            return Response(body="late")

        async def download(request):
            return Response(
                body=FileBodyProducer(io.BytesIO(b"abc" * 1000), cooperator=_Now()),
                content_type="application/x-tar",
            )

        async def empty(request):
            return Response(status=204)

        def route(method, path, handler=handler, **kwargs):
            return Route(
                method=method, path=path, handler=handler, summary="s", **{"auth": Auth.ANYONE, **kwargs}
            )

        self.routes = [
            route("GET", "/api/pool", query=Page, response=dict),
            route("POST", "/api/pool", request=Pool, body_bytes=1000, response=Pool),
            route("GET", "/api/pool/{uuid}"),
            route("DELETE", "/api/pool/{uuid}", handler=empty, statuses={204: "Gone."}),
            route("GET", "/api/pool/{uuid}/runtime"),
            route("GET", "/slow", slow, timeout_s=5),
            route("POST", "/slow", slow, timeout_s=5),
            route("GET", "/file", download, produces="application/x-tar"),
            route("POST", "/raw", request=bytes, consumes=("application/jose+json",)),
            route("GET", "/secret", auth=Auth.OPERATOR),
            route("POST", "/secret", auth=Auth.OPERATOR),
            route("DELETE", "/secret", auth=Auth.OPERATOR, role=Role.ADMIN),
        ]

        class Guard(Known):
            refusal = None

            def admit(self, caller):
                if self.refusal is not None:
                    raise self.refusal

            async def authenticate(self, caller):
                if caller.headers.get("authorization") != "Basic good":
                    raise UnauthenticatedError(what="who are you")
                return self.principal

        self.guard = Guard("anna", Role.OPERATOR)
        self.router = Router(self.routes, self.clock, self.guard)
        self.client = Client(self.router, self.clock)

    def problem(self, answer, status, reason):
        self.assertEqual(answer.headers["content-type"], "application/problem+json")
        self.assertEqual(
            (answer.status, answer.json["status"], answer.json["reason"]), (status, status, reason)
        )
        return answer.json

    def test_a_request_reaches_its_handler_and_the_answer_is_json(self):
        answer = self.client("GET", "/api/pool/p%2F1")
        self.assertEqual((answer.status, answer.json["params"]), (200, {"uuid": "p/1"}))
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.headers["server"], "avinet")
        self.assertEqual(self.seen[0].peer, "192.0.2.7")

    def test_an_unknown_path_is_not_found(self):
        for path in ("/", "/api", "/api/pool/", "/api/pool/a/b", "/api/pool//runtime"):
            self.problem(self.client("GET", path), 404, "no-such-path")

    def test_an_unknown_method_names_those_allowed(self):
        answer = self.client("PUT", "/api/pool")
        self.problem(answer, 405, "method-not-allowed")
        self.assertEqual(answer.headers["allow"], "GET, HEAD, OPTIONS, POST")

    def test_head_is_get_without_the_body(self):
        answer = self.client("HEAD", "/api/pool/a")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertGreater(int(answer.headers["content-length"]), 0)

    def test_options_names_the_methods(self):
        answer = self.client("OPTIONS", "/api/pool/a")
        self.assertEqual((answer.status, answer.headers["allow"]), (204, "DELETE, GET, HEAD, OPTIONS"))

    def test_an_empty_answer_has_no_body_and_no_type(self):
        answer = self.client("DELETE", "/api/pool/a")
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertNotIn("content-type", answer.headers)

    def test_a_body_is_decoded_into_its_type(self):
        self.client("POST", "/api/pool", {"name": "p", "servers": [{"port": 80}]})
        self.assertEqual(self.seen[0].body, Pool("p", [Server(80)]))

    def test_a_wrong_field_is_named_by_its_path(self):
        answer = self.client("POST", "/api/pool", {"name": "p", "servers": [{"port": "80"}]})
        body = self.problem(answer, 400, "invalid-body")
        self.assertEqual(body["where"], "servers[0].port")
        self.assertIn("int", body["what"])

    def test_an_unknown_field_is_refused(self):
        body = self.problem(self.client("POST", "/api/pool", {"name": "p", "nam": 1}), 400, "invalid-body")
        self.assertIn("nam", body["what"])

    def test_a_body_that_is_not_json_is_refused(self):
        for raw in (b"", b"{", b"\xff", b'{"name": "\xff"}', b"[" * 900):
            self.problem(self.client("POST", "/api/pool", raw), 400, "invalid-body")
        self.assertEqual(self.seen, [])

    def test_another_media_type_is_refused(self):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            answer = self.client("POST", "/api/pool", b"name=p", content_type=kind)
            self.problem(answer, 415, "media-type")

    def test_a_charset_after_the_media_type_does_not_matter(self):
        answer = self.client(
            "POST", "/api/pool", {"name": "p"}, content_type="Application/JSON; charset=utf-8"
        )
        self.assertEqual(answer.status, 200)

    def test_a_raw_body_arrives_as_sent(self):
        self.client("POST", "/raw", b"\x00\xff", content_type="application/jose+json")
        self.assertEqual(self.seen[0].body, b"\x00\xff")

    def test_a_body_where_none_is_taken_is_refused_unless_it_says_nothing(self):
        self.assertEqual(self.client("GET", "/api/pool/a", b"{}").status, 200)
        self.problem(self.client("GET", "/api/pool/a", b'{"a":1}'), 400, "invalid-body")

    def test_a_query_is_converted(self):
        self.client("GET", "/api/pool?page=3&name=a%20b")
        self.assertEqual(self.seen[0].query, Page(3, "a b"))

    def test_a_wrong_query_is_named(self):
        for query, where in (("page=x", "page"), ("x=1", "the top"), ("page=1&page=2", "page")):
            body = self.problem(self.client("GET", f"/api/pool?{query}"), 400, "invalid-query")
            self.assertEqual(body["where"], where)
        self.problem(self.client("GET", "/api/pool/a?x=1"), 400, "invalid-query")

    def test_null_is_text_or_nothing_at_all(self):
        class Query(msgspec.Struct, forbid_unknown_fields=True):
            name: str | None = None
            page: int | None = None

        async def handler(request):
            return Response(body={"name": request.query.name})

        route = Route(method="GET", path="/", handler=handler, summary="", query=Query, auth=Auth.ANYONE)
        client = Client(Router([route], self.clock), self.clock)
        self.assertEqual(client("GET", "/?name=null").json, {"name": "null"})
        self.assertEqual(self.problem(client("GET", "/?page=null"), 400, "invalid-query")["where"], "page")

    def test_a_path_that_is_not_utf8_is_refused(self):
        self.problem(self.client("GET", "/api/pool/%ff"), 400, "malformed-request")

    def test_a_handlers_error_becomes_its_problem_with_its_facts(self):
        self.raises = ColourTakenError(colour="red", holder="pool-1")
        body = self.problem(self.client("GET", "/api/pool"), 409, "colour-taken")
        self.assertEqual(body["detail"], "The colour red is taken by pool-1.")
        self.assertEqual((body["colour"], body["holder"]), ("red", "pool-1"))
        self.assertEqual(body["type"], "urn:avinet:problem:colour-taken")

    def test_a_wait_is_given_in_whole_seconds_rounded_up(self):
        self.raises = BusyError(retry_after_s=1.2)
        self.assertEqual(self.client("GET", "/api/pool").headers["retry-after"], "2")

    def test_an_error_class_may_have_a_status_of_its_own(self):
        self.raises = MissingVersionError()
        self.problem(self.client("GET", "/api/pool"), 428, "missing-version")

    def test_a_defect_is_a_500_that_names_an_incident_and_nothing_else(self):
        self.raises = ZeroDivisionError("the secret")
        answer = self.client("GET", "/api/pool")
        body = self.problem(answer, 500, "unexpected")
        self.assertIn(body["incident"], body["detail"])
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_an_answer_that_cannot_be_encoded_is_a_defect_and_not_a_hanging_request(self):
        async def odd(request):
            return Response(body={"odd": object()})

        route = Route(method="GET", path="/odd", handler=odd, summary="", auth=Auth.ANYONE)
        self.problem(Client(Router([route], self.clock), self.clock)("GET", "/odd"), 500, "unexpected")
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_a_slow_handler_is_answered_for(self):
        connection = self.client.connect()
        connection.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(connection.transport.value(), b"")
        self.clock.advance(5)
        self.problem(connection.answer(), 504, "slow-answer")
        connection.lose()

    def test_a_read_stops_when_its_client_leaves(self):
        cancelled = []
        self.waiting = Deferred(cancelled.append)
        connection = self.client.connect()
        connection.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.lose()
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_read_by_post_stops_when_its_client_leaves(self):
        cancelled = []
        waiting = Deferred(cancelled.append)

        async def asked(request):
            await waiting
            return Response()

        route = Route(method="POST", path="/query", handler=asked, summary="", auth=Auth.ANYONE, reads=True)
        connection = Client(Router([route], self.clock), self.clock).connect()
        connection.send(b"POST /query HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        connection.lose()
        self.assertEqual(len(cancelled), 1)

    def test_a_write_goes_on_when_its_client_leaves(self):
        cancelled = []
        self.waiting = Deferred(cancelled.append)
        connection = self.client.connect()
        connection.send(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        connection.lose()
        self.assertEqual(cancelled, [])
        self.waiting.callback(None)
        self.assertEqual(connection.transport.value(), b"")

    def test_a_slow_write_is_answered_for_and_goes_on(self):
        cancelled = []
        self.waiting = Deferred(cancelled.append)
        connection = self.client.connect()
        connection.send(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        self.clock.advance(5)
        self.problem(connection.answer(), 504, "slow-answer")
        self.assertEqual(cancelled, [])
        self.waiting.errback(ValueError("it went wrong in the end"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        connection.lose()

    def test_a_login_is_asked_for(self):
        answer = self.client("GET", "/secret")
        self.problem(answer, 401, "unauthenticated")
        self.assertIn("Basic", answer.headers["www-authenticate"])
        self.assertEqual(self.seen, [])

    def test_a_login_names_the_principal(self):
        self.client("GET", "/secret", headers={"Authorization": "Basic good"})
        self.assertEqual(self.seen[0].principal, "anna")
        self.assertEqual(self.guard.accesses[0].peer, "192.0.2.7")

    def test_who_is_calling_is_checked_before_what_is_sent(self):
        self.problem(self.client("GET", "/secret?x=1"), 401, "unauthenticated")

    def test_a_role_that_is_not_enough_is_told_which_one_is(self):
        good = {"Authorization": "Basic good"}
        body = self.problem(self.client("DELETE", "/secret", headers=good), 403, "role-needed")
        self.assertEqual((body["needed"], body["role"], body["user"]), ("admin", "operator", "anna"))
        self.guard.principal = Principal(user="anna", role=Role.READ_ONLY)
        self.problem(self.client("POST", "/secret", headers=good), 403, "role-needed")
        self.assertEqual(self.seen, [])
        self.assertEqual(self.client("GET", "/secret", headers=good).status, 200)

    def test_how_each_request_ended_is_told_under_the_id_that_its_caller_got(self):
        answers = [
            self.client("POST", "/secret", headers={"Authorization": "Basic good"}),
            self.client("POST", "/secret?x=1", headers={"Authorization": "Basic good"}),
            self.client("PUT", "/api/pool"),
        ]
        told = [
            (a.method, a.path, a.status, a.reason, a.principal and a.principal.user)
            for a in self.guard.accesses
        ]
        self.assertEqual(
            told,
            [
                ("POST", "/secret", 200, "", "anna"),
                ("POST", "/secret", 400, "invalid-query", "anna"),
                ("PUT", "/api/pool", 405, "method-not-allowed", None),
            ],
        )
        ids = [a.request_id for a in self.guard.accesses]
        self.assertEqual(ids, [answer.headers["x-request-id"] for answer in answers])
        self.assertEqual(len(set(ids)), 3)

    def test_a_source_that_is_not_admitted_costs_no_look_at_what_it_sent(self):
        self.guard.refusal = BusyError(retry_after_s=2.0)
        self.assertEqual(self.problem(self.client("GET", "/nowhere"), 429, "busy")["retry_after_s"], 2.0)

    def test_cookies_have_a_field_each(self):
        async def baker(request):
            return Response(body={}, cookies=("a=1; Secure", "b=2; Secure"))

        route = Route(method="GET", path="/", handler=baker, summary="", auth=Auth.ANYONE)
        connection = Client(Router([route], self.clock), self.clock).connect()
        connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        raw = connection.transport.value()
        self.assertIn(b"Set-Cookie: a=1; Secure\r\nSet-Cookie: b=2; Secure\r\n", raw)

    def test_a_producer_is_streamed(self):
        answer = self.client("GET", "/file")
        self.assertEqual(answer.body, b"abc" * 1000)
        self.assertEqual(answer.headers["content-type"], "application/x-tar")

    def test_an_operator_cannot_be_let_in_by_forgetting_to_say_how(self):
        client = Client(Router(self.routes, self.clock), self.clock)
        self.problem(client("GET", "/secret"), 401, "unauthenticated")

    def test_one_method_on_one_path_twice_is_a_defect(self):
        with self.assertRaises(LocalProtocolError):
            Router([*self.routes, self.routes[0]], self.clock)

    def test_a_route_cannot_take_a_type_that_drops_unknown_fields(self):
        for kind in (Lenient, Outer, list[Lenient], dict[str, Lenient], Lenient | None):
            with self.assertRaises(LocalProtocolError):
                Route(method="POST", path="/x", handler=None, summary="", request=kind)

    def test_the_body_limit_of_a_first_line_is_its_routes_and_small_where_there_is_none(self):
        self.assertEqual(self.router.body_limit("POST", "/api/pool?x"), 1000)
        self.assertEqual(self.router.body_limit("PUT", "/api/pool"), 65536)
        self.assertEqual(self.router.body_limit("POST", "/nothing"), 65536)

    # the document

    def test_the_document_has_every_route_and_its_statuses(self):
        document = openapi(self.routes, Info("t", "1"))
        self.assertEqual(set(document["paths"]["/api/pool"]), {"get", "post"})
        post = document["paths"]["/api/pool"]["post"]
        self.assertEqual(
            post["requestBody"]["content"],
            {"application/json": {"schema": {"$ref": "#/components/schemas/Pool"}}},
        )
        self.assertLessEqual({"200", "400", "413", "415", "500"}, set(post["responses"]))
        secret = document["paths"]["/secret"]
        self.assertEqual(secret["get"]["security"], [{"basic": []}, {"bearer": []}, {"session": []}])
        self.assertEqual(secret["post"]["security"][2], {"session": [], "csrf": []})
        self.assertLessEqual({"401", "403", "429"}, set(secret["get"]["responses"]))
        roles = [secret[method]["x-role"] for method in ("get", "post", "delete")]
        self.assertEqual(roles, ["read-only", "operator", "admin"])
        self.assertEqual(post["security"], [])

    def test_the_document_describes_parameters(self):
        document = openapi(self.routes, Info("t", "1"))
        path = document["paths"]["/api/pool/{uuid}"]["get"]["parameters"]
        self.assertEqual([(p["name"], p["in"], p["required"]) for p in path], [("uuid", "path", True)])
        query = document["paths"]["/api/pool"]["get"]["parameters"]
        self.assertEqual(
            [(p["name"], p["in"], p["required"]) for p in query],
            [("page", "query", False), ("name", "query", False)],
        )
        self.assertNotIn("Page", document["components"]["schemas"])

    def test_the_document_has_every_media_type_that_a_route_answers_with(self):
        async def handler(request):
            raise NotImplementedError

        route = Route(method="GET", path="/x", handler=handler, summary="s", produces=("text/csv", "x/y"))
        answers = openapi([route], Info("t", "1"))["paths"]["/x"]["get"]["responses"]
        self.assertEqual(set(answers["200"]["content"]), {"text/csv", "x/y"})

    def test_operation_ids_are_unique(self):
        document = openapi(self.routes, Info("t", "1"))
        ids = [o["operationId"] for path in document["paths"].values() for o in path.values()]
        self.assertEqual(len(ids), len(set(ids)))

    def test_the_document_is_json(self):
        msgspec.json.encode(openapi(self.routes, Info("t", "1")))


class ProblemTests(SynchronousTestCase):
    """Errors as answers."""

    def test_every_kind_has_a_status(self):
        self.assertEqual(set(STATUS_OF_KIND), set(Kind))

    def test_facts_do_not_hide_the_standard_members(self):
        @error
        class OddError(AvinetError):
            """{detail}"""

            detail: str
            status: int
            path: str

        problem = msgspec.json.decode(problem_of(OddError(detail="d", status=7, path="p")).body())
        self.assertEqual((problem["status"], problem["detail"], problem["path"]), (500, "d", "p"))

    def test_a_fact_of_any_type_can_be_answered(self):
        @error
        class OddError(AvinetError):
            """Odd."""

            what: object

        self.assertIn(b"<object", problem_of(OddError(what=object())).body())


class _Now:
    """A cooperator that does all the work at once."""

    def cooperate(self, iterator):
        for step in iterator:
            if isinstance(step, Deferred):
                raise NotImplementedError
        return self

    def whenDone(self):
        done = Deferred()
        done.callback(None)
        return done

    def stop(self):
        pass
