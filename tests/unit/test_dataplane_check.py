"""What is given to the second Envoy that only checks: all that is new, with what it refers to, and no more."""

import json

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.envoy_binary import EnvoyBinary, validate_with
from avinet.dataplane.envoy_check import WORTH_A_PROCESS, EnvoyCheck
from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_memory import Memory
from avinet.dataplane.envoy_render import CARRIER, render
from avinet.dataplane.envoy_settings import EnvoySettings
from avinet.dataplane.interface import RejectedError
from tests.unit.test_dataplane_process import new_folder
from tests.unit.test_dataplane_render import FOLDER, certificate, pool, service, state_of


class Checking(SynchronousTestCase):
    def setUp(self):
        files = EnvoyFiles(new_folder(self))
        files.prepare_folders()
        if files.secrets is None:
            self.skipTest("no memory file system")
        self.addCleanup(files.secrets.remove)
        self.binary = EnvoyBinary(FOLDER / "envoy", "1.40.0")
        self.said = []
        self.looked_at = []
        self.check = EnvoyCheck(files, EnvoySettings(), self.in_thread)
        self.memory = Memory()

    def in_thread(self, call, *arguments):
        if call is not validate_with:
            return succeed(None)  # the addresses
        found = json.loads(arguments[1].read_bytes())["static_resources"]
        self.looked_at.append(
            {
                name
                for kind in ("clusters", "listeners", "secrets")
                for name in (one["name"].partition("|")[0] for one in found.get(kind, ()))
            }
        )
        return succeed(self.said.pop(0) if self.said else "")

    def looks(self, *resources):
        """Each look's clusters, virtual services and secrets, by name."""
        self.looked_at.clear()
        wanted = render(state_of(*resources), FOLDER, None, self.memory)
        self.successResultOf(Deferred.fromCoroutine(self.check.check(wanted, self.binary)))
        return self.looked_at

    def refused(self, *resources):
        wanted = render(state_of(*resources), FOLDER, None, self.memory)
        asked = Deferred.fromCoroutine(self.check.check(wanted, self.binary))
        return self.failureResultOf(asked, RejectedError).value

    def two(self, **more):
        return (
            service("1", ports=(81,), pool="pool-1"),
            service("2", ports=(82,), pool="pool-2", **more),
            pool("1"),
            pool("2"),
        )

    def test_everything_at_first_and_then_what_is_new_with_its_pools(self):
        everything = {"virtualservice-1", "virtualservice-2", "pool-1", "pool-2", CARRIER}
        self.assertEqual(self.looks(*self.two()), [everything])
        self.assertEqual(self.looks(*self.two()), [])
        self.assertEqual(self.looks(*self.two(http2=False)), [{"virtualservice-2", "pool-2", CARRIER}])
        changed = (*self.two(http2=False)[:3], pool("2", servers=("10.0.0.9",)))
        self.assertEqual(self.looks(*changed), [{"pool-2"}])

    def test_what_is_in_force_needs_no_look(self):
        self.check.found_good(render(state_of(*self.two()), FOLDER))
        self.assertEqual(self.looks(*self.two()), [])

    def test_what_was_refused_is_looked_at_again(self):
        self.looks(*self.two())
        bad = (*self.two()[:3], pool("2", servers=("10.0.0.9",)))
        for _ in range(2):
            # Of those that were looked at it is the first.
            self.said = ["StaticResourcesValidationError.Clusters[0]: no"]
            self.assertEqual(self.refused(*bad).resource, "pool/pool-2")
        self.assertEqual(self.looks(*bad), [{"pool-2"}])

    def test_a_new_certificate_is_looked_at_with_those_that_show_it(self):
        old, new = certificate("1"), certificate("1", "new.test")
        services = (
            service("1", ports=(), ssl=(81,), certificates=("1",)),
            service("2", ports=(), ssl=(82,), certificates=("2",)),
            pool("1"),
            certificate("2"),
        )
        self.looks(*services, old)
        found = self.looks(*services, new)
        self.assertEqual(found, [{"virtualservice-1", "pool-1", "sslkeyandcertificate-1"}])

    def many(self, **more):
        numbers = range(1, 2 * WORTH_A_PROCESS + 1)
        services = [
            service(str(n), ports=(), ssl=(1000 + n,), certificates=(f"{n % 2}",), pool=f"pool-{n}")
            for n in numbers
        ]
        pools = [pool(str(n), **more) for n in numbers]
        return (*services, *pools, certificate("0"), certificate("1"))

    def test_many_are_looked_at_beside_each_other_and_none_is_left_out(self):
        one, two = self.looks(*self.many())
        kinds = (*(f"{kind}-{n}" for kind in ("virtualservice", "pool") for n in range(1, 201)), CARRIER)
        self.assertEqual(one | two, {*kinds, "sslkeyandcertificate-0", "sslkeyandcertificate-1"})
        for found in (one, two):
            services = {name.partition("-")[2] for name in found if name.startswith("virtualservice-")}
            self.assertEqual(len(services), WORTH_A_PROCESS)
            self.assertEqual(services, {n.partition("-")[2] for n in found if n.startswith("pool-")})
        left = [path.name for path in self.check.files.folder.glob("validate*")]
        self.assertLessEqual(set(left), {"validate.json"})

    def test_what_the_second_part_says_is_of_the_second_part(self):
        self.said = ["", "StaticResourcesValidationError.Clusters[0]: no"]
        wanted = render(state_of(*self.many()), FOLDER)
        blamed = self.refused(*self.many()).resource
        position = [str(c["name"]) for c in wanted.clusters].index(blamed.partition("/")[2])
        self.assertEqual(position, WORTH_A_PROCESS)
        self.assertEqual(len(self.looks(*self.many())), 2)
