"""Enrolment on the controller: policies, refusals, idempotence, and a store that fails at each step."""

import base64
import contextlib
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.engine_commands import EngineCommands
from avinet.controller.engine_errors import EngineDeletedError
from avinet.controller.enrolment import (
    EnrolmentBusyError,
    RegistrationConflictError,
    RegistrationMalformedError,
    RegistrationRefusedError,
    TooManyFailuresError,
)
from avinet.controller.failure_budget import FailureBudget, source_of
from avinet.controller.registration_api import RegistrationApi
from avinet.errors import AvinetError
from avinet.model.config import EnrolmentPolicy
from avinet.model.engine import Lifecycle
from avinet.model.ids import ImageId
from avinet.rest.router import Router
from avinet.rest.site import BoundedSite
from avinet.store.interface import StoreUnavailableError
from tests.unit.enrolment_kit import CLUSTER, IMAGE, NOW, Machine, Site, run
from tests.unit.rest_client import Connection, request_bytes


class Registered(SynchronousTestCase):
    def setUp(self):
        self.site = Site()

    def created(self, name="se-1"):
        return run(self.site.engines.create(name, "web"))

    def refused(self, body, reason, error=RegistrationRefusedError, source="10.0.0.7"):
        with self.assertRaises(error):
            self.site.enrol(body, source)
        facts = self.site.events.last("ENROLMENT_REFUSED")[4]
        self.assertEqual(reason, facts["reason"])
        return facts


class WithToken(Registered):
    def test_a_machine_with_its_token_becomes_the_engine_it_was_made_for(self):
        made, token = self.created()
        machine = self.site.machine()
        record = self.site.enrol(machine.request(token.text))
        self.assertEqual(
            (made.uuid, made.loopback, Lifecycle.ENROLLED, token.record.id, IMAGE, "10.0.0.7", NOW),
            (
                record.uuid,
                record.loopback,
                record.lifecycle,
                record.token,
                record.image,
                record.source,
                record.enrolled_at,
            ),
        )
        self.assertEqual(record.se_key, self.site.permits.keys.by_se(record.uuid).key)
        self.assertEqual("SE_ENROLLED", self.site.events.codes()[-1])

    def test_it_takes_one_round_trip_to_the_store(self):
        _, token = self.created()
        calls = self.site.store.calls
        self.site.enrol(self.site.machine().request(token.text))
        self.assertEqual(1, self.site.store.calls - calls)

    def test_the_same_bytes_again_get_the_facts_as_they_are_now(self):
        made, token = self.created()
        body = self.site.machine().request(token.text)
        first = self.site.enrol(body)
        calls = self.site.store.calls
        self.assertEqual(first, self.site.enrol(body))
        self.assertEqual(calls, self.site.store.calls)
        run(EngineCommands(self.site.engines).disable(made.uuid))
        self.assertEqual(Lifecycle.DISABLED, self.site.enrol(body).lifecycle)

    def test_they_do_so_after_the_token_expired_the_image_was_revoked_and_a_restart(self):
        _, token = self.created()
        body = self.site.machine().request(token.text)
        first = self.site.enrol(body)
        run(self.site.images.revoke(IMAGE))
        self.site.clock.advance(30 * 86400)
        self.site.restart()
        self.assertEqual(first, self.site.enrol(body))
        self.assertEqual(1, self.site.events.codes().count("SE_ENROLLED"))

    def test_a_spent_token_with_another_key_is_a_conflict(self):
        _, token = self.created()
        self.site.enrol(self.site.machine().request(token.text))
        self.refused(self.site.machine().request(token.text), "token-spent", RegistrationConflictError)
        self.site.restart()
        self.refused(self.site.machine().request(token.text), "token-spent", RegistrationConflictError)

    def test_a_bound_key_with_another_token_is_a_conflict_and_the_token_stays_good(self):
        _, token = self.created()
        _, other = self.created("se-2")
        machine = self.site.machine()
        self.site.enrol(machine.request(token.text))
        self.refused(machine.request(other.text), "key-bound", RegistrationConflictError)
        self.assertEqual("se-2", self.site.enrol(self.site.machine().request(other.text)).name)

    def test_a_deleted_engine_is_told_that_it_is_gone(self):
        made, token = self.created()
        body = self.site.machine().request(token.text)
        self.site.enrol(body)
        run(self.site.engines.delete(made.uuid))
        for _ in range(2):
            self.refused(body, "engine-deleted", EngineDeletedError)
            self.site.restart()

    def test_a_token_of_an_engine_deleted_before_it_enrolled_is_gone_too(self):
        made, token = self.created()
        run(self.site.engines.delete(made.uuid))
        self.refused(self.site.machine().request(token.text), "engine-deleted", EngineDeletedError)

    def test_an_expired_token_is_refused_by_the_stores_word(self):
        _, token = self.created()
        self.site.clock.advance(3601)
        self.refused(self.site.machine().request(token.text), "token-expired")

    def test_a_revoked_token_is_refused(self):
        _, token = self.created()
        run(self.site.tokens.revoke(token.record.id))
        self.refused(self.site.machine().request(token.text), "token-revoked")

    def test_a_foreign_token_is_refused(self):
        _, token = Site().tokens, run(Site().tokens.issue("web"))
        self.refused(self.site.machine().request(token.text), "token-unknown")

    def test_no_token_is_refused_where_the_policy_wants_one(self):
        self.refused(self.site.machine().request(), "token-missing")

    def test_a_clock_off_by_decades_is_a_warning(self):
        for number, issued_at in enumerate((0, NOW + 20 * 365 * 86400)):
            _, token = self.created(f"se-{number}")
            self.site.enrol(self.site.machine().request(token.text, issued_at=issued_at))
            facts = self.site.events.last("SE_CLOCK_SKEW")[4]
            self.assertEqual(round(issued_at - NOW), facts["skew_s"])

    def test_a_clock_off_by_a_minute_is_not(self):
        _, token = self.created()
        self.site.enrol(self.site.machine().request(token.text, issued_at=NOW - 60))
        self.assertNotIn("SE_CLOCK_SKEW", self.site.events.codes())


class Forged(Registered):
    def test_another_clusters_request_is_refused(self):
        _, token = self.created()
        other = "00000000-0000-4000-8000-000000000000"
        self.refused(self.site.machine().request(token.text, cluster=other), "foreign-cluster")

    def test_an_unknown_images_request_is_refused(self):
        _, token = self.created()
        self.refused(Machine(self.site.image_key, ImageId("other")).request(token.text), "image-unknown")

    def test_a_request_signed_by_the_wrong_image_key_is_refused_and_the_token_stays_good(self):
        _, token = self.created()
        with self.assertRaises(AvinetError):
            self.site.enrol(Machine(Ed25519PrivateKey.generate()).request(token.text))
        self.assertEqual("se-1", self.site.enrol(self.site.machine().request(token.text)).name)

    def test_a_request_with_one_signature_taken_away_is_refused(self):
        _, token = self.created()
        for index in (0, 1):
            body = json.loads(self.site.machine().request(token.text))
            del body["signatures"][index]
            with self.assertRaises(AvinetError):
                self.site.enrol(json.dumps(body).encode())
        self.assertNotIn("SE_ENROLLED", self.site.events.codes())

    def test_a_request_altered_after_signing_is_refused(self):
        _, token = self.created()
        body = json.loads(self.site.machine().request(token.text))
        claims = json.loads(base64.urlsafe_b64decode(body["payload"] + "=="))
        claims["nonce"] = "another-nonce-entirely"
        body["payload"] = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
        with self.assertRaises(AvinetError):
            self.site.enrol(json.dumps(body).encode())
        self.assertNotIn("SE_ENROLLED", self.site.events.codes())

    def test_a_revoked_or_expired_image_enrols_nobody_new(self):
        _, _token = self.created()
        machine = self.site.machine()
        self.site.clock.advance(91 * 86400)
        _, late = self.created("se-2")
        self.refused(machine.request(late.text), "image-expired")
        run(self.site.images.revoke(IMAGE))
        self.refused(machine.request(late.text), "image-revoked")

    def test_garbage_is_refused_and_reported_without_harm(self):
        for body in (
            b"",
            b"\xff\xfe",
            b"{}",
            b"[]",
            b'{"payload": 5}',
            b"[" * 60_000,
            b'{"payload":"e30"}',
            b"null",
        ):
            with self.assertRaises((RegistrationMalformedError, RegistrationRefusedError)):
                self.site.enrol(body)
        self.assertEqual(8, self.site.events.codes().count("ENROLMENT_REFUSED"))

    def test_a_report_names_the_token_by_its_id_alone(self):
        _, token = self.created()
        self.site.enrol(self.site.machine().request(token.text))
        facts = self.refused(
            self.site.machine().request(token.text), "token-spent", RegistrationConflictError
        )
        self.assertEqual(token.record.id, facts["claimed_token"])
        self.assertNotIn(token.text.rpartition(".")[2], repr(self.site.events.all))

    def test_strangers_learn_neither_the_check_nor_the_names(self):
        _, _token = self.created()
        texts = set()
        for body in (self.site.machine().request("avt1.x.y"), self.site.machine().request()):
            with self.assertRaises(RegistrationRefusedError) as caught:
                self.site.enrol(body)
            texts.add(str(caught.exception))
        self.assertEqual(1, len(texts))


class Policies(Registered):
    def test_under_approve_a_machine_waits_and_the_same_bytes_succeed_after_approval(self):
        self.site.set_group(enrolment_policy=EnrolmentPolicy.APPROVE)
        made, token = self.created()
        body = self.site.machine().request(token.text)
        self.assertEqual(Lifecycle.PENDING, self.site.enrol(body).lifecycle)
        self.assertEqual("SE_PENDING", self.site.events.codes()[-1])
        self.refused(self.site.machine().request(token.text), "token-spent", RegistrationConflictError)
        self.site.restart()
        self.assertEqual(Lifecycle.PENDING, self.site.enrol(body).lifecycle)
        run(EngineCommands(self.site.engines).approve(made.uuid))
        self.assertEqual(Lifecycle.ENROLLED, self.site.enrol(body).lifecycle)

    def by_image(self, count=2):
        self.site.set_group(
            enrolment_policy=EnrolmentPolicy.IMAGE, enrolment_networks=("10.0.0.0/8",), enrolment_count=count
        )

    def test_by_image_alone_a_machine_from_the_network_enrols_unplaced_and_is_counted(self):
        self.by_image()
        bodies = [self.site.machine().request() for _ in range(3)]
        records = [self.site.enrol(body) for body in bodies[:2]]
        self.assertEqual([False, False], [record.placeable for record in records])
        self.refused(bodies[2], "image-count")
        self.assertEqual(records[0], self.site.enrol(bodies[0]))
        self.site.restart()
        self.refused(bodies[2], "image-count")
        run(self.site.engines.delete(records[0].uuid))
        self.assertEqual(Lifecycle.ENROLLED, self.site.enrol(bodies[2]).lifecycle)

    def test_by_image_alone_from_elsewhere_is_refused(self):
        self.by_image()
        self.refused(self.site.machine().request(), "source-network", source="192.0.2.1")
        self.refused(self.site.machine().request(), "source-network", source="2001:db8::1")
        self.site.enrol(self.site.machine().request(), "::ffff:10.1.2.3")

    def test_a_placed_engine_may_carry_virtual_services(self):
        self.by_image()
        record = self.site.enrol(self.site.machine().request())
        run(EngineCommands(self.site.engines).place(record.uuid))
        self.assertTrue(self.site.engines.find(record.uuid).placeable)

    def test_a_group_token_makes_a_record_a_use_up_to_its_count(self):
        token = run(self.site.tokens.issue("web", 3))
        records = [self.site.enrol(self.site.machine().request(token.text)) for _ in range(3)]
        self.assertEqual(3, len({record.uuid for record in records}))
        self.assertEqual(3, len({record.loopback for record in records}))
        self.refused(self.site.machine().request(token.text), "token-spent", RegistrationConflictError)
        self.site.restart()
        self.refused(self.site.machine().request(token.text), "token-spent", RegistrationConflictError)
        self.assertEqual([(3, "spent")], [(v.used, v.state) for v in run(self.site.tokens.list())])

    def test_a_group_tokens_use_is_one_round_trip_and_a_repetition_none(self):
        token = run(self.site.tokens.issue("web", 3))
        body = self.site.machine().request(token.text)
        calls = self.site.store.calls
        first = self.site.enrol(body)
        self.assertEqual(first, self.site.enrol(body))
        self.assertEqual(1, self.site.store.calls - calls)

    def test_a_group_that_is_gone_takes_nobody(self):
        token = run(self.site.tokens.issue("web", 3))
        del self.site.groups["web"]
        self.refused(self.site.machine().request(token.text), "group-missing")


class FailingAtEachStep(SynchronousTestCase):
    """The store fails at every call in turn, with its work done or not; the machine asks again."""

    def tokens(self, site):
        yield lambda: run(site.engines.create("se-1", "web"))[1].text
        yield lambda: run(site.tokens.issue("web", 4)).text

    def test_an_enrolment_happens_exactly_once(self):
        for kind in (0, 1):
            for committed in (False, True):
                for restart in (False, True):
                    self.one(kind, committed, restart)

    def one(self, kind, committed, restart):
        call = 0
        while True:
            site = Site()
            text = list(self.tokens(site))[kind]()
            machine = site.machine()
            body = machine.request(text)
            site.store.fail_call(call, committed=committed)
            calls = site.store.calls
            try:
                site.enrol(body)
            except StoreUnavailableError:
                failed = True
            else:
                failed = False
            site.store.heal()
            if restart:
                site.restart()
            record = site.enrol(body)
            self.assertEqual(record, site.enrol(body))
            self.assertEqual([record], [r for r in site.engines.all() if r.se_key])
            site.restart()
            self.assertEqual([record], [r for r in site.engines.all() if r.se_key])
            uses = run(site.store.list("token-use/")).entries
            self.assertEqual(kind, len(uses))
            if not failed:
                self.assertGreater(call, 0)
                self.assertGreaterEqual(call, site.store.calls - calls - 20)
                return
            call += 1

    def test_a_repair_that_fails_too_is_repaired_by_the_next_request(self):
        for second in range(6):
            for committed in (False, True):
                site = Site()
                token = run(site.tokens.issue("web", 4))
                body = site.machine().request(token.text)
                site.store.fail_call(0, committed=True)
                with self.assertRaises(StoreUnavailableError):
                    site.enrol(body)
                site.store.fail_call(second, committed=committed)
                with contextlib.suppress(StoreUnavailableError):
                    site.enrol(body)
                site.store.heal()
                record = site.enrol(body)
                site.restart()
                self.assertEqual((record,), site.engines.all())

    def test_no_failure_of_ours_costs_the_caller_or_is_reported_as_a_refusal(self):
        site = Site()
        _, token = run(site.engines.create("se-1", "web"))
        body = site.machine().request(token.text)
        for _ in range(100):
            site.store.fail_call(0, committed=False)
            with self.assertRaises(StoreUnavailableError):
                site.enrol(body)
        site.store.heal()
        self.assertEqual("se-1", site.enrol(body).name)
        self.assertNotIn("ENROLMENT_REFUSED", site.events.codes())


class SlowStore:
    """Holds every transaction until told."""

    def __init__(self, store):
        self._store = store
        self.held = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    def transact(self, compares, operations):
        done = Deferred()
        self.held.append((done, compares, operations))
        return done

    def go(self):
        held, self.held = self.held, []
        for done, compares, operations in held:
            self._store.transact(compares, operations).chainDeferred(done)


class AtOnce(SynchronousTestCase):
    def setUp(self):
        self.site = Site()
        self.slow = SlowStore(self.site.store)

    def begin(self, bodies):
        self.site.engines.store = self.site.tokens.store = self.slow
        results = []
        for body in bodies:
            done = Deferred.fromCoroutine(self.site.enrolment.enrol(body, "10.0.0.7"))
            done.addBoth(results.append)
        return results

    def finish(self):
        while self.slow.held:
            self.slow.go()

    def test_the_same_request_twice_at_once_is_one_engine(self):
        token = run(self.site.tokens.issue("web", 9))
        results = self.begin([self.site.machine().request(token.text)] * 1 * 2)
        self.assertEqual(2, len(self.slow.held))
        self.finish()
        self.assertEqual(results[0], results[1])
        self.assertEqual(1, len(self.site.engines.all()))
        self.assertEqual(1, len(run(self.site.store.list("token-use/")).entries))

    def test_two_machines_with_one_token_at_once_one_wins(self):
        _, token = run(self.site.engines.create("se-1", "web"))
        results = self.begin([self.site.machine().request(token.text) for _ in range(2)])
        self.finish()
        self.assertEqual("se-1", results[0].name)
        results[1].trap(RegistrationConflictError)

    def test_many_on_one_group_token_share_a_commit_and_get_an_address_each(self):
        token = run(self.site.tokens.issue("web", 20))
        results = self.begin([self.site.machine().request(token.text) for _ in range(20)])
        self.assertEqual(20, len(self.slow.held))
        self.slow.go()
        self.assertEqual(20, len({record.loopback for record in results}))

    def test_more_than_a_tokens_count_at_once_do_not_get_in(self):
        token = run(self.site.tokens.issue("web", 3))
        results = self.begin([self.site.machine().request(token.text) for _ in range(5)])
        self.finish()
        self.assertEqual(3, len(self.site.engines.all()))
        self.assertEqual(5, len(results))

    def test_more_than_a_groups_count_by_image_at_once_do_not_get_in(self):
        self.site.set_group(
            enrolment_policy=EnrolmentPolicy.IMAGE, enrolment_networks=("10.0.0.0/8",), enrolment_count=2
        )
        self.begin([self.site.machine().request() for _ in range(4)])
        self.finish()
        self.assertEqual(2, len(self.site.engines.all()))

    def test_two_controllers_on_one_store_bind_a_key_once(self):
        other = Site()
        other.store, other.image_key = self.site.store, self.site.image_key
        token = run(self.site.tokens.issue("web", 9))
        other.restart()
        body = self.site.machine().request(token.text)
        first = self.site.enrol(body)
        self.assertEqual(first.uuid, other.enrol(body).uuid)
        second = other.enrol(self.site.machine().request(token.text))
        self.assertNotEqual(first.loopback, second.loopback)
        self.assertEqual(2, len(run(self.site.store.list("token-use/")).entries))

    def test_requests_under_way_are_bounded(self):
        self.site.enrolment.max_in_flight = 3
        token = run(self.site.tokens.issue("web", 9))
        results = self.begin([self.site.machine().request(token.text) for _ in range(4)])
        results[0].trap(EnrolmentBusyError)
        self.finish()
        self.assertEqual(3, len(self.site.engines.all()))


class Limits(Registered):
    def test_failures_cost_a_source_and_successes_do_not(self):
        token = run(self.site.tokens.issue("web", 100))
        for _ in range(100):
            self.site.enrol(self.site.machine().request(token.text))
        bad = self.site.machine().request()
        for _ in range(60):
            with self.assertRaises(RegistrationRefusedError):
                self.site.enrol(bad)
        with self.assertRaises(TooManyFailuresError) as caught:
            self.site.enrol(bad)
        self.assertAlmostEqual(1.0, caught.exception.retry_after_s)
        self.site.clock.advance(1)
        with self.assertRaises(RegistrationRefusedError):
            self.site.enrol(bad)

    def test_a_machine_with_a_token_enrols_from_a_source_that_is_over_its_limit(self):
        _, token = self.created()
        for _ in range(100):
            with self.assertRaises(AvinetError):
                self.site.enrol(b"garbage")
        self.assertEqual("se-1", self.site.enrol(self.site.machine().request(token.text)).name)

    def test_another_source_is_not_limited(self):
        for _ in range(100):
            with self.assertRaises(AvinetError):
                self.site.enrol(b"garbage", "10.0.0.7")
        with self.assertRaises(RegistrationMalformedError):
            self.site.enrol(b"garbage", "10.0.0.8")

    def test_sources_are_addresses_and_ipv6_networks(self):
        self.assertEqual("192.0.2.1", source_of("::ffff:192.0.2.1"))
        self.assertEqual(source_of("2001:db8::1"), source_of("2001:db8::ffff:2"))
        self.assertNotEqual(source_of("2001:db8::1"), source_of("2001:db8:0:1::1"))
        self.assertTrue(source_of("fe80::1%eth0"))

    def test_the_table_of_sources_is_bounded(self):
        budget = FailureBudget(Clock(), burst=1, max_sources=10)
        for number in range(100):
            budget.failed(f"10.0.0.{number}")
        self.assertEqual(0.0, budget.wait_s("10.0.0.1"))
        self.assertGreater(budget.wait_s("10.0.0.99"), 0.0)


class OverHttp(Registered):
    def setUp(self):
        super().setUp()
        api = RegistrationApi(self.site.enrolment, lambda: "the.membership.list", {"control": 5025})
        self.web = BoundedSite(Router(api.routes(), self.site.clock), self.site.clock)

    def ask(self, method, path, body=None, content_type="application/jose+json"):
        connection = Connection(self.web, "10.0.0.7")
        connection.send(request_bytes(method, path, body, content_type=content_type))
        return connection.answer()

    def post(self, body):
        return self.ask("POST", "/v1/service-engines", body)

    def test_an_enrolled_machine_is_told_its_facts(self):
        made, token = self.created()
        answer = self.post(self.site.machine().request(token.text))
        self.assertEqual(200, answer.status)
        self.assertEqual(
            {
                "se": made.uuid,
                "name": "se-1",
                "group": "web",
                "cluster": CLUSTER,
                "loopback": "127.1.0.1",
                "membership": "the.membership.list",
                "services": {"control": 5025},
            },
            answer.json,
        )

    def test_a_machine_that_waits_is_told_when_to_ask_again(self):
        self.site.set_group(enrolment_policy=EnrolmentPolicy.APPROVE)
        _, token = self.created()
        answer = self.post(self.site.machine().request(token.text))
        self.assertEqual((202, "15"), (answer.status, answer.headers["retry-after"]))
        self.assertTrue(answer.json["fingerprint"].startswith("SHA256:"))

    def test_each_refusal_has_its_status(self):
        made, token = self.created()
        machine = self.site.machine()
        body = machine.request(token.text)
        self.assertEqual(400, self.post(b"garbage").status)
        self.assertEqual(403, self.post(self.site.machine().request()).status)
        self.site.store.fail_call(0, committed=False)
        self.assertEqual(503, self.post(body).status)
        self.site.store.heal()
        self.assertEqual(200, self.post(body).status)
        self.assertEqual(409, self.post(self.site.machine().request(token.text)).status)
        run(self.site.engines.delete(made.uuid))
        self.assertEqual(410, self.post(body).status)
        for _ in range(60):
            self.post(b"garbage")
        answer = self.post(b"garbage")
        self.assertEqual((429, "1"), (answer.status, answer.headers["retry-after"]))

    def test_a_body_over_64_kib_or_of_another_type_is_refused(self):
        self.assertEqual(413, self.post(b"x" * (64 * 1024 + 1)).status)
        self.assertEqual(415, self.ask("POST", "/v1/service-engines", b"{}", "text/plain").status)

    def test_anyone_may_fetch_the_membership_list(self):
        answer = self.ask("GET", "/v1/membership")
        self.assertEqual((200, b"the.membership.list"), (answer.status, answer.body))
        self.assertEqual("application/jose", answer.headers["content-type"])

    def test_the_openapi_document_has_every_route_and_status(self):
        paths = self.ask("GET", "/v1/openapi.json").json["paths"]
        self.assertEqual({"/v1/service-engines", "/v1/membership"}, set(paths))
        self.assertLessEqual(
            {"200", "202", "403", "409", "410", "503"}, set(paths["/v1/service-engines"]["post"]["responses"])
        )
