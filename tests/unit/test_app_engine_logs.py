"""What an SE keeps of its logs: what the configuration says, unless the machine's own settings do."""

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.engine_logs import spool_choices
from avinet.app.settings import SpoolSection
from avinet.logs.spool import SpoolLimits
from avinet.logs.throttle import Throttle, Throttles
from avinet.model.config import AnalyticsPolicy, FullClientLogs, ServiceEngineGroup, VirtualService
from avinet.model.log_settings import resource_of_group
from avinet.model.projection import resource_of
from avinet.units import DAY_S, MIB
from tests.unit.log_lines import service


class Choices(SynchronousTestCase):
    def state(self, *resources):
        return {resource.name: resource for resource in resources}

    def test_without_a_word_the_spool_keeps_its_defaults(self):
        self.assertEqual(spool_choices(SpoolSection(), {}), (SpoolLimits(), Throttles()))
        self.assertEqual(SpoolLimits().max_bytes, 10_000 * MIB)
        self.assertEqual(SpoolLimits().max_age_s, 7 * DAY_S)

    def test_the_groups_limits_and_each_services_throttles_hold(self):
        group = ServiceEngineGroup(
            uuid="serviceenginegroup-1", name="g", log_disksz=200, log_age_h=1, full_log_throttle=50
        )
        policy = AnalyticsPolicy(significant_log_throttle=7, full_client_logs=FullClientLogs(throttle=9))
        policies = (policy, AnalyticsPolicy(), msgspec.structs.replace(policy, significant_log_throttle=0))
        services = [
            VirtualService(
                uuid=service(n),
                name=f"{n}",
                vip=(),
                services=(),
                pool_ref="pool-1",
                se_group_ref="serviceenginegroup-1",
                analytics_policy=each,
            )
            for n, each in enumerate(policies)
        ]
        limits, throttles = spool_choices(
            SpoolSection(), self.state(resource_of_group(group), *map(resource_of, services))
        )
        self.assertEqual(limits, SpoolLimits(max_bytes=200 * MIB, max_age_s=3600))
        self.assertEqual(throttles.significant, Throttle(0, {service(0): 7}))
        self.assertEqual(throttles.full, Throttle(50, {service(0): 9, service(2): 9}))

    def test_the_machines_own_limit_wins(self):
        limits, _ = spool_choices(SpoolSection(max_mib=123), {})
        self.assertEqual(limits.max_bytes, 123 * MIB)
