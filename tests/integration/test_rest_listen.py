"""The HTTP surfaces on real sockets: TLS with the SE's checks, the UNIX socket, and clients that do nothing."""

import http.client
import json
import socket
import ssl
import stat

import pytest
import pytest_twisted
import treq
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.web.client import Agent, ResponseNeverReceived
from twisted.web.iweb import IPolicyForHTTPS

from avinet.ports import PortTakenError
from avinet.rest.connections import Limits
from avinet.rest.listen import Place, listen_tls, listen_unix
from avinet.rest.router import Auth, Response, Route, Router
from avinet.rest.site import BoundedSite
from avinet.rest.tls import (
    CertificateForeignError,
    ControllerPolicy,
    controller_client_options,
    node_context_factory,
)
from avinet.units import MIB
from tests.unit.test_rest_tls import CLUSTER, Root, key_pem, pem


def site():
    async def big(request):
        return Response(body=b"x" * 5_000_000, content_type="application/octet-stream")

    async def echo(request):
        return Response(body=request.body, content_type="x/y")

    anyone = {"summary": "s", "auth": Auth.ANYONE}
    routes = [
        Route(method="GET", path="/big", handler=big, **anyone),
        Route(method="POST", path="/echo", handler=echo, request=bytes, consumes=("x/y",), **anyone),
    ]
    return BoundedSite(Router(routes, reactor), reactor)


def agent(root):
    policy = ControllerPolicy(controller_client_options(pem(root.certificate), CLUSTER, None, listed=False))
    assert IPolicyForHTTPS.providedBy(policy)
    return Agent(reactor, policy, connectTimeout=5)


@pytest_twisted.ensureDeferred
async def test_an_se_talks_to_its_controller_and_to_no_other():
    root = Root()
    key, certificate = root.node()
    options = node_context_factory(key_pem(key), pem(certificate))
    port = listen_tls(reactor, Place(0, "x", "127.0.0.1"), site(), options)
    url = f"https://127.0.0.1:{port.getHost().port}"
    try:
        client = treq.client.HTTPClient(agent(root))
        assert len(await (await client.get(f"{url}/big", timeout=10)).content()) == 5_000_000
        answer = await client.post(f"{url}/echo", data=b"abc", headers={"Content-Type": "x/y"}, timeout=10)
        assert (answer.code, await answer.content()) == (200, b"abc")
        answer = await client.post(
            f"{url}/echo", data=bytes(70_000), headers={"Content-Type": "x/y"}, timeout=10
        )
        assert (answer.code, (await answer.json())["reason"]) == (413, "body-too-large")
        with pytest.raises(ResponseNeverReceived) as caught:
            await treq.client.HTTPClient(agent(Root())).get(url, timeout=10)
        assert isinstance(caught.value.reasons[0].value, CertificateForeignError)
        with pytest.raises(PortTakenError, match=r"pid \d+"):
            listen_tls(reactor, Place(port.getHost().port, "x", "127.0.0.1"), site(), options)
    finally:
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_connections_over_the_bound_are_cut_and_places_come_back():
    root = Root()
    key, certificate = root.node()
    options = node_context_factory(key_pem(key), pem(certificate))
    limits = Limits(most=20, most_a_source=10)
    port = listen_tls(reactor, Place(0, "x", "127.0.0.1"), site(), options, limits)
    try:
        held = [socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(12)]
        await deferLater(reactor, 0.1)
        for one in held[10:]:
            assert one.recv(1) == b""
        for one in held:
            one.close()
        await deferLater(reactor, 0.1)
        client = treq.client.HTTPClient(agent(root))
        answer = await client.get(f"https://127.0.0.1:{port.getHost().port}/big", timeout=10)
        assert len(await answer.content()) == 5_000_000
    finally:
        await port.stopListening()


def send_first_and_read_then(port, size):
    """A client like most: it looks for the answer once its whole body is sent."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
    try:
        connection.request("POST", "/echo", bytes(size), {"Content-Type": "x/y"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["reason"]
    finally:
        connection.close()


@pytest_twisted.ensureDeferred
async def test_the_sender_of_far_too_much_learns_why_it_was_refused():
    key, certificate = Root().node()
    options = node_context_factory(key_pem(key), pem(certificate))
    port = listen_tls(reactor, Place(0, "x", "127.0.0.1"), site(), options)
    try:
        told = await deferToThread(send_first_and_read_then, port.getHost().port, 64 * MIB)
        assert told == (413, "body-too-large")
    finally:
        await port.stopListening()


def told_of_a_long_target(port, length):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
    try:
        connection.request("GET", "/big?q=" + "a" * length)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], json.loads(answer.read())["reason"]
    finally:
        connection.close()


@pytest_twisted.ensureDeferred
async def test_the_sender_of_a_first_line_that_is_too_long_learns_why_it_was_refused():
    key, certificate = Root().node()
    options = node_context_factory(key_pem(key), pem(certificate))
    port = listen_tls(reactor, Place(0, "x", "127.0.0.1"), site(), options)
    try:
        for length in (16_400, 500_000):
            told = await deferToThread(told_of_a_long_target, port.getHost().port, length)
            assert told == (414, "application/problem+json", "target-too-long")
    finally:
        await port.stopListening()


def ask(path):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        size = 0
        while data := connection.recv(65536):
            size += len(data)
        return size


@pytest_twisted.ensureDeferred
async def test_the_unix_socket_serves_its_owner(tmp_path):
    path = tmp_path / "api.sock"
    port = listen_unix(reactor, path, site())
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await deferToThread(ask, path) > 5_000_000
    finally:
        await port.stopListening()
