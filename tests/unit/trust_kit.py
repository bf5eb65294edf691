"""Folders, clusters and lists for the tests of trust."""

import shutil
import tempfile
from pathlib import Path

from avinet.model.ids import ClusterId, ControllerName
from avinet.model.membership import Controller, Membership
from avinet.trust.keys import generate, public_line

CLUSTER = ClusterId("7c9e6679-7425-40de-944b-e07fc1f90ae7")
OTHER_CLUSTER = ClusterId("11111111-2222-4333-8444-555555555555")


def folder(case):
    """A folder that goes with the test."""
    path = Path(tempfile.mkdtemp(prefix="avinet-trust-"))
    case.addCleanup(shutil.rmtree, path, ignore_errors=True)
    return path


def controller(name="controller-1"):
    return Controller(
        name=ControllerName(name),
        addresses=("192.0.2.1",),
        node_certificate="PEM",
        ssh_host_key=public_line(generate().public_key()),
        id_se=public_line(generate().public_key()),
    )


def membership(number=1, cluster=CLUSTER, controllers=None):
    return Membership(
        cluster=cluster, number=number, controllers=(controller(),) if controllers is None else controllers
    )


def mode(path):
    return path.stat().st_mode & 0o7777
