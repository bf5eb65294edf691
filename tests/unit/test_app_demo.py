"""``avinet demo``: what it tells to do in another terminal, and how its controllers are kept apart."""

import os
import shlex
import sys
from io import StringIO
from pathlib import Path

import attrs
from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.demo import namespaces
from avinet.app.demo.main import DemoOptions, DemoOptionsError
from avinet.app.demo.namespaces import Namespaces, NoNamespacesError
from avinet.app.demo.plan import DemoPlan, controller_plans
from avinet.app.demo.ports import DemoPorts, choose_ports
from avinet.app.demo.screen import Screen, exported
from avinet.app.settings import load_controller_settings


class TheOtherTerminal(SynchronousTestCase):
    BIN = str(Path(sys.executable).parent)

    def test_finds_the_program_of_the_demo_when_its_shell_does_not(self):
        self.patch(os, "environ", {**os.environ, "PATH": "/usr/bin:/bin"})
        state = Path("/tmp/a folder/controller-1")
        line = exported(state)
        words = shlex.split(line)
        self.assertEqual(words[1:], [f"PATH={self.BIN}:$PATH", f"AVINET_STATE={state}"])

    def test_is_not_told_of_a_path_that_it_has(self):
        self.patch(os, "environ", {**os.environ, "PATH": f"{self.BIN}:/bin"})
        self.assertEqual(exported(Path("/d/c")), "export AVINET_STATE=/d/c")

    def told(self, plans):
        ports = DemoPorts(tuple(plan.ports for plan in plans), 1, (2, 3))
        console = Console(file=StringIO(), width=200)
        Screen(DemoPlan(Path("/d"), tuple(plans), ports, ()), None, console).open()
        return console.file.getvalue()

    def test_is_told_the_namespace_from_which_engines_are_reached(self):
        plans = controller_plans(Path("/d"), choose_ports(0, 3))
        self.assertNotIn("netns", self.told(plans))
        plans = [attrs.evolve(plan, namespace=f"demo-{plan.name}") for plan in plans]
        line = f"ip netns exec demo-{plans[0].name} avinet se exec se-1 uptime"
        self.assertIn(line, self.told(plans))


class SeveralControllers(SynchronousTestCase):
    def test_each_has_ports_and_a_folder_of_its_own_and_settings_that_load(self):
        folder = Path(self.mktemp())
        folder.mkdir()
        plans = controller_plans(folder, choose_ports(2, 3))
        self.assertEqual(len({port for plan in plans for port in vars_of(plan.ports)}), 18)
        for plan in plans:
            plan.settings.write_text(plan.settings_text())
            settings = load_controller_settings(plan.settings)
            self.assertEqual((settings.name, settings.store.engine), (plan.name, "etcd"))
        self.assertEqual(len({plan.state for plan in plans}), 3)

    def test_one_keeps_its_state_without_an_engine(self):
        (plan,) = controller_plans(Path("/d"), choose_ports(0))
        self.assertNotIn("etcd", plan.settings_text())
        self.assertEqual(plan.inside("id"), ("id",))

    def test_two_are_no_cluster(self):
        with self.assertRaises(DemoOptionsError):
            DemoOptions(controllers=2).validate()


class ARecordingIp:
    """In place of ``ip``: what it was asked, and what there is."""

    def __init__(self, *left):
        self.asked, self.left = [], list(left)

    def __call__(self, *arguments):
        self.asked.append(" ".join(arguments))
        if arguments == ("netns", "list"):
            return "".join(f"{name} (id: 0)\n" for name in self.left)
        if arguments[:2] == ("netns", "delete"):
            self.left.remove(arguments[2])
        if self.refuses and self.refuses in self.asked[-1]:
            raise NoNamespacesError(why="no")
        return ""

    refuses = ""


class TheNamespaces(SynchronousTestCase):
    def setUp(self):
        self.patch(os, "geteuid", lambda: 0)

    def ip(self, *left, refuses=""):
        ip = ARecordingIp(*left)
        ip.refuses = refuses
        self.patch(namespaces, "_ip", ip)
        return ip

    def test_each_has_a_loopback_and_an_address_on_one_bridge(self):
        ip = self.ip()
        made = Namespaces.make(3)
        for number in (1, 2, 3):
            self.assertIn(f"-n {made.name(number)} link set lo up", ip.asked)
        self.assertEqual(len({made.address(number) for number in (1, 2, 3)}), 3)

    def test_what_cannot_be_made_whole_is_taken_down(self):
        mine = f"avinet-demo-{os.getpid()}-1"
        ip = self.ip(mine, refuses="link set lo up")
        with self.assertRaises(NoNamespacesError):
            Namespaces.make(1)
        self.assertEqual(ip.left, [])

    def test_those_of_demos_that_are_no_more_are_removed_and_no_others(self):
        alive = f"avinet-demo-{os.getppid()}-1"
        ip = self.ip("avinet-demo-999999999-1", alive, "avinet-demo-x-1", "somebody")
        namespaces.remove_left()
        self.assertEqual(ip.left, [alive, "avinet-demo-x-1", "somebody"])

    def test_without_root_there_are_none(self):
        self.patch(os, "geteuid", lambda: 1000)
        with self.assertRaises(NoNamespacesError):
            Namespaces.make(1)


def vars_of(ports):
    return [getattr(ports, name) for name in ("ssh", "registration", "api", "reverse", "client", "peer")]
