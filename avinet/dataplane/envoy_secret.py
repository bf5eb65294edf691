"""A certificate with its key as an Envoy secret.

Listeners and clusters name secrets, and Envoy reads each from a file of its own (SDS).  A secret is called after its
certificate object, whatever is in it, and the file's version is the resource's digest: a renewed certificate is taken
in place, by the next handshake, and no connection is touched (docs/decisions/0022).  Which version Envoy has *accepted*
its counters tell; its configuration dump names the one it was given last, refused or not.
"""

from pathlib import Path
from typing import Any

import attrs
import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from avinet.dataplane.interface import RejectedError
from avinet.model.config import SSLKeyAndCertificate

FETCH_TIMEOUT_S = 5
"""For a secret's file to be read: it is there before anything names it."""
SECRETS_PATTERN = r"sds\.[^.]+\.version_text"
"""RE2 of the stats that say which version of each secret is in use."""

_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type's name
_CONFIG = "sds_config"


@attrs.frozen
class Secret:
    """What Envoy is to have of one certificate resource."""

    resource: str
    digest: str
    chain: str
    """PEM."""
    key: str = attrs.field(repr=False)
    """PEM."""

    @property
    def name(self) -> str:
        """As listeners and clusters call it; also the file's."""
        return name_of(self.resource)

    @property
    def static(self) -> dict[str, Any]:
        """Envoy's ``Secret``."""
        certificate = {
            "certificate_chain": {"inline_string": self.chain},
            "private_key": {"inline_string": self.key},
        }
        return {"name": self.name, "tls_certificate": certificate}

    @property
    def content(self) -> bytes:
        """Of its SDS file."""
        content = {"version_info": self.digest, "resources": [{"@type": _SECRET, **self.static}]}
        return msgspec.json.encode(content)


def name_of(resource: str) -> str:
    """A secret's name from its certificate resource's."""
    return resource.partition("/")[2]


def secret_of(thing: SSLKeyAndCertificate, resource: str, digest: str) -> Secret:
    """The secret of a certificate; ``RejectedError`` when it or its key cannot be read or they do not belong together."""
    if "/" in thing.uuid or thing.uuid.startswith("."):
        raise RejectedError(resource=resource, detail="its UUID is none")
    chain, key = thing.certificate.certificate, thing.key
    try:
        leaf = x509.load_pem_x509_certificates(chain.encode())[0]
        public = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise RejectedError(resource=resource, detail="its certificate cannot be read") from None
    try:
        # Primes are not tested: with a key that is wrong in that way no handshake succeeds, and nothing else fails.
        private = serialization.load_pem_private_key(
            key.encode(), password=None, unsafe_skip_rsa_key_validation=True
        )
    except TypeError:
        raise RejectedError(resource=resource, detail="its key is encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise RejectedError(resource=resource, detail="its key cannot be read") from None
    if private.public_key() != public:
        raise RejectedError(resource=resource, detail="its key is not the one of its certificate")
    return Secret(resource, digest, chain, key)


def sds_config(resource: str, folder: Path) -> dict[str, Any]:
    """How listeners and clusters name a secret: ``SdsSecretConfig``."""
    name = name_of(resource)
    return {
        "name": name,
        _CONFIG: {
            "resource_api_version": "V3",
            "path_config_source": {"path": str(file_in(folder, name))},
            "initial_fetch_timeout": f"{FETCH_TIMEOUT_S}s",
        },
    }


def file_in(folder: Path, name: str) -> Path:
    """The file of the secret ``name``."""
    return folder / f"{name}.json"


def with_static_secrets(item: Any) -> Any:
    """A listener or cluster that takes its secrets by name from the same configuration: validation reads no SDS."""
    if isinstance(item, dict):
        return {key: with_static_secrets(value) for key, value in item.items() if key != _CONFIG}
    if isinstance(item, list | tuple):
        return [with_static_secrets(value) for value in item]
    return item
