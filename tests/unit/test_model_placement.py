"""Which SEs serve which virtual service."""

import msgspec
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
    WhenShort,
)
from avinet.model.configuration import Configuration, Stored
from avinet.model.ids import ConfigVersion, ObjectId, SeId, age_key, new_object_id
from avinet.model.placement import Engine, overloads, place, short_of


def group(name=DEFAULT_GROUP, least=1, most=2, **more):
    return ServiceEngineGroup(
        uuid=ObjectId(f"serviceenginegroup-{name}"),
        name=name,
        min_scaleout_per_vs=least,
        max_scaleout_per_vs=most,
        **more,
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


class Settling(SynchronousTestCase):
    def test_one_that_settles_gets_nothing_while_the_group_has_another(self):
        there = [*engines(1), Engine(SeId("se-1"), DEFAULT_GROUP, usable=True, settling=True)]
        self.assertEqual(place(configuration(group(), service(1)), there)["se-1"], frozenset())

    def test_one_that_settles_serves_rather_than_nobody(self):
        there = [*engines(1, usable=False), Engine(SeId("se-1"), DEFAULT_GROUP, usable=True, settling=True)]
        self.assertEqual(place(configuration(group(), service(1)), there)["se-1"], {"virtualservice-1"})


LEAVE, OVERLOAD = WhenShort.LEAVE, WhenShort.OVERLOAD


class Capacity(SynchronousTestCase):
    def placed(self, count, services, **limits):
        made = configuration(group(**limits), *(service(n) for n in range(services)))
        there = engines(count)
        placement = place(made, there)
        return made, there, placement

    def test_nobody_is_filled_beyond_the_limit_while_others_have_room(self):
        _, _, placement = self.placed(4, 40, most=1, max_vs_per_se=10)
        self.assertEqual({len(services) for services in placement.values()}, {10})

    def test_everybody_gets_one_before_anybody_gets_two(self):
        _, _, placement = self.placed(3, 9, most=3, max_vs_per_se=4)
        self.assertEqual((len(counts(placement)), sum(counts(placement).values())), (9, 12))

    def test_without_room_they_overload_up_to_the_minimum_where_the_group_says_so(self):
        made, there, placement = self.placed(2, 9, most=2, max_vs_per_se=3, when_short=OVERLOAD)
        self.assertEqual(set(counts(placement).values()), {1})
        self.assertEqual(len(counts(placement)), 9)
        [over] = overloads(made, placement, there)
        self.assertEqual((over.group, over.limit), (DEFAULT_GROUP, 3))
        self.assertEqual(over.most, max(map(len, placement.values())))

    def test_without_room_the_youngest_wait_where_the_group_says_so(self):
        uuids = sorted((new_object_id("virtualservice") for _ in range(5)), key=age_key)
        things = [service(n) for n in range(5)]
        # The creation's order, not that of names or of whoever was stored first.
        named = {
            uuid: msgspec.structs.replace(thing, uuid=uuid)
            for uuid, thing in zip(uuids, things[::-1], strict=True)
        }
        limits = group(max_vs_per_se=2, most=1, when_short=LEAVE)
        made = configuration(limits, *reversed(named.values()))
        there = engines(2)
        placement = place(made, there)
        self.assertEqual(set(counts(placement)), set(uuids[:4]))
        self.assertEqual(overloads(made, placement, there), [])
        [short] = short_of(made, placement, there)
        self.assertEqual((short.service, short.placed), (uuids[4], 0))
        self.assertIn("max_vs_per_se", short.why)

    def test_a_new_one_takes_no_place_from_an_older_one(self):
        limits = group(max_vs_per_se=2, most=1, when_short=LEAVE)
        old = [msgspec.structs.replace(service(n), uuid=f"virtualservice-{n}") for n in range(4)]
        young = msgspec.structs.replace(service(9), uuid=new_object_id("virtualservice"))
        before = place(configuration(limits, *old), engines(2))
        self.assertEqual(place(configuration(limits, young, *old), engines(2)), before)

    @settings(max_examples=40, deadline=None)
    @given(
        st.permutations(range(5)),
        st.integers(1, 3),
        st.integers(1, 3),
        st.integers(1, 12),
        st.sampled_from(WhenShort),
    )
    def test_limits_hold_whatever_they_are_and_whoever_comes_first(self, order, least, more, limit, when):
        made = configuration(
            group(least=least, most=least + more - 1, max_vs_per_se=limit, when_short=when),
            *(service(n) for n in range(12)),
        )
        there = engines(5)
        placement = place(made, there)
        self.assertEqual(place(made, [there[n] for n in order]), placement)
        found = counts(placement)
        if when is LEAVE:
            self.assertLessEqual(max(map(len, placement.values())), limit)
            self.assertEqual(len(found), min(12, 5 * limit))
        else:
            self.assertEqual(len(found), 12)
            self.assertGreaterEqual(min(found.values()), least)
        self.assertLessEqual(max(found.values()), least + more - 1)

    def test_a_loss_where_all_are_nearly_full_moves_little_more_than_what_was_lost(self):
        made, there, before = self.placed(20, 800, most=1, max_vs_per_se=50)
        after = place(made, there[1:])
        moved = sum(len(after[se] - before[se]) for se in after)
        self.assertLess(moved, 2.5 * len(before["se-0"]))


class Shortage(SynchronousTestCase):
    def short(self, count, *things):
        made, there = configuration(*things), engines(count)
        return {short.service: short.placed for short in short_of(made, place(made, there), there)}

    def test_services_on_fewer_engines_than_the_minimum_are_named_with_their_number(self):
        things = (group(least=2, most=3), service(1), service(2))
        self.assertEqual(self.short(0, *things), {"virtualservice-1": 0, "virtualservice-2": 0})
        self.assertEqual(self.short(1, *things), {"virtualservice-1": 1, "virtualservice-2": 1})
        self.assertEqual(self.short(2, *things), {})

    def test_the_reason_says_how_many_can_serve(self):
        made, there = configuration(group(least=2), service(1)), engines(1)
        [short] = short_of(made, place(made, there), there)
        self.assertEqual((short.least, "1 service engine that" in short.why), (2, True))

    def test_disabled_ones_are_not_missed(self):
        self.assertEqual(self.short(0, group(), service(1, enabled=False)), {})
