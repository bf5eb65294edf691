"""Enrolment over real TLS on the loopback: who is believed, and what a wrong controller looks like."""

import tempfile
from functools import partial
from pathlib import Path

import msgspec
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from avinet.controller.registration_api import RegistrationApi
from avinet.model.ids import ClusterId, new_cluster_id
from avinet.model.membership import Controller, Membership
from avinet.rest.listen import Place, listen_tls
from avinet.rest.router import Router
from avinet.rest.site import BoundedSite
from avinet.rest.tls import (
    CertificateForeignError,
    CertificateNameError,
    CertificateUnlistedError,
    node_context_factory,
)
from avinet.se.enroller import Enroller
from avinet.se.membership import MembershipFile
from avinet.se.paths import SePaths
from avinet.se.registration_client import RegistrationClient, causes
from avinet.trust import keys
from avinet.trust.ca import RootCa
from avinet.trust.files import private_dir, write_private, write_public
from avinet.trust.membership import sign_membership
from avinet.wire.registration import MetaInfo
from tests.unit.enrolment_kit import CLUSTER, IMAGE, Site, run


def folder():
    return Path(tempfile.mkdtemp(prefix="avinet-test-"))


class Node:
    """A controller's 8443 on some free port, with a certificate from ``root`` for ``cluster``."""

    def __init__(self, root, cluster=CLUSTER):
        self.site, self.root = Site(), root
        key = keys.generate()
        self.certificate = root.issue_node(key.public_key(), cluster, "controller-1")
        self.document = ""
        api = RegistrationApi(self.site.enrolment, lambda: self.document, {"control": 5025})
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.port = listen_tls(
            reactor,
            Place(0, "registration_port", "127.0.0.1"),
            BoundedSite(Router(api.routes(), reactor), reactor),
            node_context_factory(pem, self.certificate),
        )
        self.number = self.port.getHost().port
        self.document = self.membership(2)

    @property
    def address(self):
        return f"127.0.0.1:{self.number}"

    def membership(self, number, certificate=None):
        member = Controller(
            name="controller-1",
            addresses=("127.0.0.1",),
            registration_port=self.number,
            node_certificate=(certificate or self.certificate).decode(),
            ssh_host_key="",
            id_se="",
        )
        return sign_membership(
            self.root.key, Membership(cluster=ClusterId(CLUSTER), number=number, controllers=(member,))
        )


class Machine:
    def __init__(self, node, root=None, document=None, token=""):
        self.paths = SePaths(folder() / "state")
        for path in (self.paths.state, self.paths.image, self.paths.enrolment):
            private_dir(path)
        write_public(self.paths.root_certificate, (root or node.root).pem)
        write_public(self.paths.membership, (document or node.membership(1)).encode())
        keys.save(self.paths.image_key, node.site.image_key)
        meta = MetaInfo(cluster=CLUSTER, controllers=(node.address,), token=token)
        write_private(self.paths.meta_info, msgspec.json.encode(meta))
        self.members = MembershipFile.load(self.paths)
        self.http = RegistrationClient(reactor, reactor, partial(self.members.tls_options, dates="strict"))

    def enrol(self):
        done = Enroller(self.paths, IMAGE, self.http, self.members, reactor).enrol()
        return done.addTimeout(20, reactor)


async def closed(node):
    await node.port.stopListening()
    await deferLater(reactor, 0.01, lambda: None)


async def causes_of(deferred):
    try:
        await deferred
    except Exception as failure:
        return causes(failure)
    raise AssertionError("it succeeded")


@pytest_twisted.ensureDeferred
async def test_a_machine_enrols_over_tls_and_gets_the_list_of_now():
    node = Node(RootCa.create(folder() / "trust", CLUSTER))
    made, token = run(node.site.engines.create("se-1", "web"))
    machine = Machine(node, token=token.text)
    facts = await machine.enrol()
    assert (facts.se, facts.loopback, facts.services) == (made.uuid, made.loopback, {"control": 5025})
    assert machine.members.current.number == 2
    node.document = node.membership(3)
    assert await machine.members.refresh(machine.http)
    assert machine.members.current.number == 3
    await closed(node)


@pytest_twisted.ensureDeferred
async def test_a_certificate_newer_than_the_image_is_learnt_from_a_newer_list():
    node = Node(RootCa.create(folder() / "trust", CLUSTER))
    _, token = run(node.site.engines.create("se-1", "web"))
    old = node.root.issue_node(keys.generate().public_key(), CLUSTER, "controller-1")
    machine = Machine(node, document=node.membership(1, old), token=token.text)
    found = await causes_of(machine.http.enrol(node.address, b"{}"))
    assert [type(cause) for cause in found] == [CertificateUnlistedError]
    assert (await machine.enrol()).name == "se-1"
    await closed(node)


@pytest_twisted.ensureDeferred
async def test_another_root_or_another_clusters_name_is_not_believed():
    node = Node(RootCa.create(folder() / "trust", CLUSTER))
    stranger = RootCa.create(folder() / "trust", CLUSTER)
    document = sign_membership(stranger.key, Membership(cluster=CLUSTER, number=1, controllers=()))
    machine = Machine(node, root=stranger, document=document)
    assert [type(c) for c in await causes_of(machine.http.membership(node.address))] == [
        CertificateForeignError
    ]
    other = Node(node.root, new_cluster_id())
    machine = Machine(other)
    assert [type(c) for c in await causes_of(machine.http.membership(other.address))] == [
        CertificateNameError
    ]
    await closed(node)
    await closed(other)


@pytest_twisted.ensureDeferred
async def test_nobody_listening_is_tried_again_until_somebody_does():
    node = Node(RootCa.create(folder() / "trust", CLUSTER))
    machine = Machine(node)
    await closed(node)
    done = machine.enrol()
    await deferLater(reactor, 0.3, lambda: None)
    assert not done.called
    done.addErrback(lambda _: None)
    done.cancel()
    assert isinstance(done, Deferred)
