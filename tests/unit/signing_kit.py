"""Folders that go away, roots and lists for tests of trust."""

import shutil
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avinet.model.ids import ClusterId, ControllerName
from avinet.model.membership import Controller, Membership
from avinet.trust import keys
from avinet.trust.ca import RootCa

CLUSTER = ClusterId("7c9e6679-7425-40de-944b-e07fc1f90ae7")
OTHER_CLUSTER = ClusterId("11111111-7425-40de-944b-e07fc1f90ae7")


def folder(case):
    """A private folder for one test."""
    made = Path(tempfile.mkdtemp(prefix="avinet-test-"))
    case.addCleanup(shutil.rmtree, made, ignore_errors=True)
    return made


def root_in_memory(cluster=CLUSTER):
    """A root that no file holds."""
    made = Path(tempfile.mkdtemp(prefix="avinet-test-"))
    try:
        return RootCa.create(made, cluster)
    finally:
        shutil.rmtree(made)


def line():
    """A fresh public key."""
    return keys.public_line(Ed25519PrivateKey.generate().public_key())


def membership(root, number=1, cluster=CLUSTER, address="192.0.2.1"):
    """A list of one controller."""
    node = Ed25519PrivateKey.generate().public_key()
    controller = Controller(
        name=ControllerName("c1"),
        addresses=(address,),
        node_certificate=root.issue_node(node, cluster, "c1").decode(),
        ssh_host_key=line(),
        id_se=line(),
    )
    return Membership(cluster=cluster, number=number, controllers=(controller,))


def certificate(pem):
    """A PEM certificate, parsed."""
    return x509.load_pem_x509_certificate(pem)
