"""Which SEs serve which virtual service."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.model.config import (
    DEFAULT_GROUP,
    IpAddr,
    Pool,
    Service,
    ServiceEngineGroup,
    Vip,
    VirtualService,
)
from avinet.model.configuration import Configuration, Stored
from avinet.model.ids import ConfigVersion, ObjectId, SeId
from avinet.model.placement import Engine, place, short_of


def group(name=DEFAULT_GROUP, least=1, most=2):
    return ServiceEngineGroup(
        uuid=ObjectId(f"serviceenginegroup-{name}"),
        name=name,
        min_scaleout_per_vs=least,
        max_scaleout_per_vs=most,
    )


def service(number, group_name=DEFAULT_GROUP, enabled=True):
    return VirtualService(
        uuid=ObjectId(f"virtualservice-{number}"),
        name=f"v{number}",
        enabled=enabled,
        vip=(Vip(ip_address=IpAddr(addr="192.0.2.1")),),
        services=(Service(port=number + 1),),
        pool_ref=ObjectId("pool-1"),
        se_group_ref=ObjectId(f"serviceenginegroup-{group_name}"),
    )


def configuration(*things):
    pool = Pool(uuid=ObjectId("pool-1"), name="web")
    return Configuration(ConfigVersion(1), {t.uuid: Stored(t, 1) for t in (pool, *things)})


def engines(count, name=DEFAULT_GROUP, usable=True, first=0):
    return [Engine(SeId(f"se-{n}"), name, usable) for n in range(first, first + count)]


def counts(placement):
    found = {}
    for services in placement.values():
        for uuid in services:
            found[uuid] = found.get(uuid, 0) + 1
    return found


class Placement(SynchronousTestCase):
    def test_a_virtual_service_goes_to_as_many_engines_as_its_group_allows(self):
        for most in (1, 2, 3):
            placement = place(configuration(group(most=most), service(1)), engines(5))
            self.assertEqual(counts(placement), {"virtualservice-1": most})

    def test_every_engine_is_in_the_answer(self):
        placement = place(configuration(group()), [*engines(2), *engines(1, usable=False, first=7)])
        self.assertEqual(placement, {"se-0": frozenset(), "se-1": frozenset(), "se-7": frozenset()})

    def test_fewer_engines_take_what_they_can(self):
        placement = place(configuration(group(most=4), service(1)), engines(2))
        self.assertEqual(counts(placement), {"virtualservice-1": 2})
        self.assertEqual(place(configuration(group(), service(1)), []), {})

    def test_engines_that_are_not_usable_or_of_another_group_get_nothing(self):
        there = [*engines(2, usable=False), *engines(2, "other", first=2)]
        self.assertEqual(counts(place(configuration(group(), service(1)), there)), {})

    def test_a_disabled_virtual_service_is_nowhere(self):
        self.assertEqual(counts(place(configuration(group(), service(1, enabled=False)), engines(3))), {})

    def test_each_group_serves_its_own(self):
        things = (group(), group("other"), service(1), service(2, "other"))
        there = [*engines(2), *engines(2, "other", first=2)]
        placement = place(configuration(*things), there)
        self.assertEqual(placement["se-0"], {"virtualservice-1"})
        self.assertEqual(placement["se-3"], {"virtualservice-2"})

    def test_many_services_are_spread(self):
        things = [group(most=1), *(service(n) for n in range(400))]
        loads = [len(found) for found in place(configuration(*things), engines(4)).values()]
        self.assertEqual(sum(loads), 400)
        self.assertLess(max(loads), 150)
        self.assertGreater(min(loads), 60)

    @settings(max_examples=50, deadline=None)
    @given(st.permutations(range(6)), st.integers(1, 3), st.integers(0, 5))
    def test_the_answer_depends_on_who_is_there_alone_and_a_loss_moves_only_its_own(self, order, most, lost):
        things = configuration(group(most=most), *(service(n) for n in range(10)))
        there = engines(6)
        whole = place(things, there)
        self.assertEqual(place(things, [there[n] for n in order]), whole)
        less = place(things, [engine for engine in there if engine.se != f"se-{lost}"])
        for se, services in less.items():
            self.assertGreaterEqual(services, whole[se])
            self.assertLessEqual(services - whole[se], whole[SeId(f"se-{lost}")])
        self.assertEqual(set(counts(less).values()), {most})


class Shortage(SynchronousTestCase):
    def short(self, count, *things):
        made = configuration(*things)
        return short_of(made, place(made, engines(count)))

    def test_services_on_fewer_engines_than_the_minimum_are_named_with_their_number(self):
        things = (group(least=2, most=3), service(1), service(2))
        self.assertEqual(self.short(0, *things), {"v1": 0, "v2": 0})
        self.assertEqual(self.short(1, *things), {"v1": 1, "v2": 1})
        self.assertEqual(self.short(2, *things), {})

    def test_disabled_ones_are_not_missed(self):
        self.assertEqual(self.short(0, group(), service(1, enabled=False)), {})
