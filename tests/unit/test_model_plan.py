"""What documents may leave out."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.model.config import Pool
from avinet.model.configuration import Configuration
from avinet.model.plan import plan_change
from avinet.model.problems import InvalidConfigError


class Ports(SynchronousTestCase):
    def ports(self, **document):
        (pool,) = plan_change(Configuration(), [{"kind": "Pool", "name": "web", **document}]).puts
        assert isinstance(pool, Pool)
        return [server.port for server in pool.servers]

    def test_a_server_without_a_port_has_the_pools(self):
        servers = [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2", "port": 81}]
        self.assertEqual(self.ports(servers=servers, default_server_port=8080), [8080, 81])

    def test_a_pool_that_says_nothing_means_80(self):
        self.assertEqual(self.ports(servers=[{"ip": "10.0.0.1"}]), [80])

    def test_a_wrong_default_is_blamed_where_it_stands(self):
        failure = self.assertRaises(
            InvalidConfigError, self.ports, servers=[{"ip": "10.0.0.1"}], default_server_port="x"
        )
        self.assertIn("default_server_port", [problem.path for problem in failure.problems])
