"""A machine that registers by hand: a raw HTTPS client on 8443 whose every field a test may choose."""

import http.client
import json
import random
import secrets
import socket
import ssl
import time

import attrs

from avinet.model.ids import controller_dns_name
from avinet.trust import keys
from avinet.trust.image import open_image
from avinet.trust.node import read_cluster
from avinet.trust.registration import Claims, sign_request
from avinet.wire.registration import ENROL_PATH, REQUEST_CONTENT_TYPE


@attrs.frozen
class Answer:
    """What came back."""

    status: int
    body: dict
    headers: http.client.HTTPMessage


def tls_context(site):
    context = ssl.create_default_context(cafile=str(site.paths.root_pem))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class _Named(http.client.HTTPSConnection):
    """Dials loopback and checks the cluster's name."""

    def __init__(self, site, timeout, source):
        self._source = source
        super().__init__("127.0.0.1", site.ports.registration, timeout=timeout, context=tls_context(site))
        self._name = controller_dns_name(read_cluster(site.state)[0])

    def connect(self):
        plain = socket.create_connection((self.host, self.port), self.timeout, (self._source, 0))
        self.sock = self._context.wrap_socket(plain, server_hostname=self._name)


def ask(site, method, path, body=None, content_type=REQUEST_CONTENT_TYPE, timeout=20, source="127.0.0.1"):
    """One request from an address of one's own; ``body`` of a JSON answer is decoded."""
    connection = _Named(site, timeout, source)
    try:
        connection.request(method, path, body, {} if body is None else {"Content-Type": content_type})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    kind = answer.getheader("Content-Type", "")
    return Answer(answer.status, json.loads(text) if "json" in kind else {"text": text}, answer.headers)


class Machine:
    """One machine's keys, and the image it booted from."""

    def __init__(self, site, image, token=None):
        self.site = site
        self.image = open_image(image)
        self.image_key = self.image.image_key
        self.se_key, self.host_key = keys.generate(), keys.generate()
        self.token = token
        # Refusals are coalesced by source: an address of its own makes this machine's tell apart.
        self.source = ".".join(["127", *(str(random.randint(2, 250)) for _ in range(3))])

    def claims(self, **other):
        """What an honest machine would say, but for ``other``."""
        honest = {
            "cluster": self.image.cluster,
            "image": self.image.image_id,
            "se_key": keys.public_line(self.se_key.public_key()),
            "se_host_key": keys.public_line(self.host_key.public_key()),
            "token": self.token,
            "nonce": secrets.token_urlsafe(16),
            "issued_at": int(time.time()),
        }
        return Claims(**{**honest, **other})

    def body(self, **other):
        return sign_request(self.claims(**other), self.image_key, self.se_key)

    def enrol(self, body=None, **other):
        return ask(
            self.site, "POST", ENROL_PATH, self.body(**other) if body is None else body, source=self.source
        )

    @property
    def fingerprint(self):
        return keys.fingerprint(self.se_key.public_key())
