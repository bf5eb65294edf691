"""Certificates that expire are told ahead of time, once a step."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.expiry import LOOK_S, CertificateExpiry
from avinet.model.events import Level
from avinet.units import DAY_S
from tests.unit.certificate_kit import certificate, key, key_and_certificate
from tests.unit.config_kit import NOW, World, pool, run, service

PORTS = [{"port": 443, "enable_ssl": True}]


class Expiry(SynchronousTestCase):
    def setUp(self):
        self.world = World()
        self.now = NOW
        self.told = []
        self.begin()

    def begin(self):
        self.clock = Clock()
        self.expiry = CertificateExpiry(
            self.world.config, self.world.store, self.emit, self.clock, lambda: self.now
        )
        run(self.expiry.start())
        self.addCleanup(self.expiry.stop)

    def restart(self):
        self.expiry.stop()
        self.world.restart()
        self.begin()

    def emit(self, code, level, subject, text, **facts):
        self.assertEqual(code, "SSL_CERTIFICATE_EXPIRES")
        self.told.append((level, text, facts))

    def days(self, days):
        self.now += days * DAY_S
        self.clock.advance(LOOK_S)
        told, self.told = self.told, []
        return [(level, facts["days_left"]) for level, _, facts in told]

    def used(self, pem=None, **more):
        self.world.apply(
            key_and_certificate(pem=pem or certificate(days=(-1, 40)), **more),
            pool(),
            service(services=PORTS, ssl_key_and_certificate_refs=["tls"]),
        )

    def test_each_step_is_told_once(self):
        self.used()
        self.assertEqual(self.days(5), [])
        self.assertEqual(self.days(6), [(Level.WARNING, 29)])
        self.assertEqual(self.days(1), [])
        self.assertEqual(self.days(22), [(Level.WARNING, 6)])
        self.assertEqual(self.days(5.5), [(Level.ERROR, 0)])
        self.assertEqual(self.days(1), [(Level.ERROR, -1)])
        self.assertEqual(self.days(9), [])

    def test_one_that_comes_late_is_told_once_for_all_steps(self):
        self.used(certificate(days=(-1, 3)))
        self.assertEqual([level for level, _, _ in self.told], [Level.WARNING])
        self.used(certificate(days=(-9, -1)))
        self.assertEqual([level for level, _, _ in self.told], [Level.WARNING, Level.ERROR])
        self.assertIn("expired on", self.told[-1][1])

    def test_a_restart_tells_nothing_again(self):
        self.used(certificate(days=(-1, 3)))
        self.told.clear()
        self.restart()
        self.assertEqual(self.days(0), [])
        self.assertEqual(self.days(2.5), [(Level.ERROR, 0)])

    def test_a_renewed_one_begins_anew(self):
        self.used(certificate(days=(-1, 3)))
        self.used(certificate(days=(0, 90)))
        self.told.clear()
        self.assertEqual(self.days(2), [])
        self.assertEqual(self.days(59), [(Level.WARNING, 29)])

    def test_the_virtual_services_that_use_it_are_named_those_of_pools_too(self):
        self.world.apply(
            key_and_certificate(pem=certificate(days=(-1, 3))),
            pool("db", ssl_profile_ref="System-Modern", ssl_key_and_certificate_ref="tls"),
            pool(),
            service("front", services=PORTS, ssl_key_and_certificate_refs=["tls"]),
            service("back", 81, routes=[{"path": "/db", "pool_ref": "db"}]),
            service("other", 82),
        )
        ((_, text, facts),) = self.told
        self.assertIn("Virtual services that use it: back, front.", text)
        self.assertEqual(facts["virtual_services"], ["back", "front"])

    def test_one_that_nothing_uses_is_a_warning_at_most(self):
        self.world.apply(key_and_certificate(pem=certificate(days=(-9, -1))))
        ((level, text, _),) = self.told
        self.assertEqual((level, "No virtual service uses it" in text), (Level.WARNING, True))

    def test_a_full_disk_keeps_nothing_from_being_told(self):
        from twisted.internet.defer import fail

        from avinet.store.interface import StoreFullError

        self.used()
        self.world.store.transact = lambda *args: fail(StoreFullError(where="here", detail="full"))
        self.assertEqual(self.days(35), [(Level.WARNING, 5)])
        self.assertEqual(self.days(5.5), [(Level.ERROR, -1)])

    def test_what_is_kept_is_bounded_by_what_there_is(self):
        for n in range(3):
            self.used(certificate(private=key(n), days=(-1, 3)), private=key(n))
        self.assertEqual(len(self.expiry._told), 1)
