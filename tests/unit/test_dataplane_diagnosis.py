"""Why servers fail their checks: which questions are asked, how many at once, and what is kept of the answers."""

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.envoy_cluster import render_cluster
from avinet.dataplane.envoy_diagnosis import AGAIN_S, MAX_LOOKS, Diagnoses, questions_of
from avinet.dataplane.envoy_health import endpoints_of
from avinet.dataplane.interface import Failure, ServerStatus
from avinet.dataplane.look import Finding, Http, Question, Tls
from avinet.model.config import (
    HealthMonitor,
    HealthMonitorType,
    HttpMonitor,
    IpAddr,
    Pool,
    Server,
    SslProfile,
)


def cluster(count=1, *, monitors=None, hostname="", **pool):
    checks = monitors or [HealthMonitor(uuid="healthmonitor-1", name="m")]
    servers = tuple(
        Server(ip=IpAddr(addr=f"10.0.0.{n}"), port=80, hostname=hostname) for n in range(1, count + 1)
    )
    named = {f"healthmonitor/{n}": m for n, m in enumerate(checks)}
    digests = {"pool/pool-1": "d", **dict.fromkeys(named, "d")}
    return render_cluster(
        Pool(uuid="pool-1", name="p", servers=servers, **pool), "pool/pool-1", named, digests
    )


def failing(number=1, failure=Failure.CHECK_FAILED):
    return ServerStatus("pool/pool-1", f"10.0.0.{number}:80", up=False, reason="fails", failure=failure)


class Questions(SynchronousTestCase):
    def asked(self, thing):
        (endpoint,) = endpoints_of(thing)
        return questions_of(thing, endpoint)

    def test_they_are_what_envoy_asks(self):
        http = HttpMonitor(
            http_request="GET /up", http_response_code=("204",), http_response="ok", host="a.example"
        )
        one = HealthMonitor(uuid="healthmonitor-1", name="m", http_monitor=http, monitor_port=99)
        two = HealthMonitor(uuid="healthmonitor-2", name="m", type=HealthMonitorType.TCP, monitor_port=99)
        self.assertEqual(
            self.asked(cluster(monitors=[one, two])),
            [
                Question("10.0.0.1", 99, 4.0, None, Http("GET", "/up", "a.example", ((204, 205),), b"ok")),
                Question("10.0.0.1", 99, 4.0, None, None),
            ],
        )

    def test_they_speak_tls_as_the_pool_and_the_monitor_do(self):
        def tls(kind, **pool):
            monitor = HealthMonitor(uuid="healthmonitor-1", name="m", type=kind)
            return self.asked(cluster(monitors=[monitor], **pool))[0].tls

        secure = {"ssl_profile_ref": SslProfile.MODERN, "ca_certs": ("A",)}
        self.assertEqual(tls(HealthMonitorType.TCP, **secure), None)
        self.assertEqual(tls(HealthMonitorType.TLS), Tls())
        self.assertEqual(tls(HealthMonitorType.TLS, hostname="a.example"), Tls(name="a.example"))
        proved = Tls(name="a.example", ca="A\n", verify_name=True, at_least_1_3=True)
        self.assertEqual(tls(HealthMonitorType.TLS, hostname="a.example", **secure), proved)
        self.assertEqual(tls(HealthMonitorType.TLS, server_name="a.example", **secure), proved)
        self.assertEqual(tls(HealthMonitorType.TLS, **secure), Tls(ca="A\n", at_least_1_3=True))


class Looking(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.looks = []
        self.diagnoses = Diagnoses(self.in_thread, self.clock.seconds)

    def in_thread(self, function, questions):
        done = Deferred()
        self.looks.append((questions[0].address, done))
        return done

    def explain(self, *statuses, **more):
        found = self.diagnoses.explain(statuses, [cluster(9, **more)])
        return [(s.failure, s.reason) for s in found]

    def answer(self, index, failure=Failure.WRONG_STATUS, reason="status 500"):
        self.looks[index][1].callback(Finding(failure, reason))

    def test_what_was_seen_is_told_from_the_next_time_on(self):
        self.assertEqual(self.explain(failing()), [(Failure.CHECK_FAILED, "fails")])
        self.answer(0)
        self.assertEqual(self.explain(failing()), [(Failure.WRONG_STATUS, "status 500")])
        self.assertEqual(len(self.looks), 1)

    def test_a_few_at_a_time_and_each_once(self):
        statuses = [failing(n) for n in range(1, 6)]
        self.explain(*statuses)
        self.explain(*statuses)
        self.assertEqual(len(self.looks), MAX_LOOKS)
        self.answer(0)
        self.assertEqual(len(self.looks), MAX_LOOKS + 1)
        self.assertEqual(len({address for address, _ in self.looks}), MAX_LOOKS + 1)

    def test_a_look_that_breaks_makes_room_for_the_next(self):
        self.explain(*(failing(n) for n in range(1, 4)))
        self.looks[0][1].errback(RuntimeError("broken"))
        self.assertEqual(len(self.looks), MAX_LOOKS + 1)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_only_checks_that_fail_without_a_word_are_looked_at(self):
        self.explain(
            failing(failure=Failure.TIMEOUT), attrs.evolve(failing(2), up=True, failure=Failure.NONE)
        )
        self.assertEqual(self.looks, [])

    def test_what_is_old_is_looked_at_again_and_told_meanwhile(self):
        self.explain(failing())
        self.answer(0)
        self.clock.advance(AGAIN_S + 1)
        self.assertEqual(self.explain(failing()), [(Failure.WRONG_STATUS, "status 500")])
        self.assertEqual(len(self.looks), 2)

    def test_a_server_that_was_well_meanwhile_is_looked_at_anew(self):
        self.explain(failing())
        self.answer(0)
        self.explain(attrs.evolve(failing(), up=True, failure=Failure.NONE, reason=""))
        self.assertEqual(self.explain(failing()), [(Failure.CHECK_FAILED, "fails")])
        self.assertEqual(len(self.looks), 2)

    def test_another_question_is_another_matter(self):
        self.explain(failing())
        self.answer(0)
        other = [HealthMonitor(uuid="healthmonitor-1", name="m", type=HealthMonitorType.TCP)]
        self.assertEqual(self.explain(failing(), monitors=other), [(Failure.CHECK_FAILED, "fails")])
        self.assertEqual(len(self.looks), 2)

    def test_after_the_end_none_begins(self):
        self.explain(*(failing(n) for n in range(1, 6)))
        self.diagnoses.stop()
        self.answer(0)
        self.assertEqual(len(self.looks), MAX_LOOKS)
