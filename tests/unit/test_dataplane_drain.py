"""Disabled servers finish what is under way: when their time begins, when it ends, and what survives a restart."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.envoy_cluster import render_cluster
from avinet.dataplane.envoy_drain import Drained, ended, settle
from avinet.model.config import IpAddr, Pool, Server

NOW = 1_000_000.0


def cluster(*enabled, drain_s=60.0, priority=0):
    """A pool of 10.0.0.1, 10.0.0.2, ..., each enabled or not."""
    servers = tuple(
        Server(ip=IpAddr(addr=f"10.0.0.{n}"), port=80, enabled=up, priority=priority)
        for n, up in enumerate(enabled, 1)
    )
    pool = Pool(uuid="pool-1", name="p", servers=servers, graceful_disable_timeout_s=drain_s)
    return render_cluster(pool, "pool/pool-1", {}, {"pool/pool-1": "d"})


def servers(clusters):
    """(last number of the address, end of its time or None) of each."""
    (found,) = clusters
    return [
        (
            int(e["endpoint"]["address"]["socket_address"]["address"][-1]),
            e.get("metadata", {}).get("filter_metadata", {}).get("avinet", {}).get("drain_until"),
        )
        for locality in found["load_assignment"]["endpoints"]
        for e in locality["lb_endpoints"]
    ]


class Draining(SynchronousTestCase):
    def disabled(self, now=NOW, **more):
        return settle([cluster(True, False, **more)], [cluster(True, True)], now)

    def test_a_server_that_was_enabled_begins_its_time(self):
        self.assertEqual(servers(self.disabled()), [(1, None), (2, NOW + 60)])

    def test_a_server_that_nobody_used_is_left_out(self):
        self.assertEqual(servers(settle([cluster(True, False)], [], NOW)), [(1, None)])
        self.assertEqual(servers(settle([cluster(True, False)], [cluster(True)], NOW)), [(1, None)])

    def test_another_change_does_not_begin_its_time_anew(self):
        again = settle([cluster(True, False, priority=1)], self.disabled(), NOW + 50)
        self.assertEqual(servers(again), [(1, None), (2, NOW + 60)])

    def test_a_shorter_time_counts_and_a_longer_one_does_not(self):
        shorter = settle([cluster(True, False, drain_s=5)], self.disabled(), NOW + 10)
        self.assertEqual(servers(shorter), [(1, None), (2, NOW + 15)])
        longer = settle([cluster(True, False, drain_s=500)], self.disabled(), NOW + 10)
        self.assertEqual(servers(longer), [(1, None), (2, NOW + 60)])

    def test_a_clock_set_back_does_not_keep_it_for_ever(self):
        back = settle([cluster(True, False)], self.disabled(), NOW - 10_000)
        self.assertEqual(servers(back), [(1, None), (2, NOW - 10_000 + 60)])

    def test_when_its_time_is_over_it_is_left_out_and_told_once(self):
        before, over = ended(self.disabled(), NOW + 59)
        self.assertEqual((servers(before), over), ([(1, None), (2, NOW + 60)], ()))
        after, over = ended(before, NOW + 60)
        self.assertEqual(servers(after), [(1, None)])
        self.assertEqual(over, (Drained("pool-1", "10.0.0.2", 80),))
        self.assertEqual(ended(after, NOW + 60), (after, ()))
        self.assertEqual(servers(settle([cluster(True, False)], after, NOW + 61)), [(1, None)])

    def test_no_time_at_all_is_over_at_once(self):
        self.assertEqual(ended(self.disabled(drain_s=0), NOW)[1], (Drained("pool-1", "10.0.0.2", 80),))

    def test_a_server_that_is_enabled_again_is_like_any_other(self):
        self.assertEqual(servers(settle([cluster(True, True)], self.disabled(), NOW)), [(1, None), (2, None)])

    def test_clusters_without_disabled_servers_stay_as_they_are(self):
        whole = cluster(True, True)
        self.assertEqual(settle([whole], [], NOW), (whole,))
