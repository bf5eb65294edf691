"""The settings of the store: the embedded one, an etcd of the controller's own, or one that others run."""

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from avinet.controller.state_engine_config import QUOTA_BYTES
from avinet.units import MIB

_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Namespace = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{0,200}\Z")]


class StoreSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the controller keeps what it decided."""

    engine: Literal["sqlite", "etcd"] = "sqlite"
    """``etcd`` can be shared by several controllers.  What is in a file moves into it, and does not move back."""
    etcd: str = ""
    """The binary; empty: the one in PATH."""
    client_port: _Port = 2379
    """Of the controller's own etcd, on 127.0.0.1; every controller of a cluster needs two of its own."""
    peer_port: _Port = 2380
    quota_mib: Annotated[int, msgspec.Meta(ge=64, le=8192)] = QUOTA_BYTES // MIB
    """Beyond it etcd refuses writes; 8 GiB is the most that its makers advise."""
    endpoints: tuple[str, ...] = ()
    """Of an etcd that others run: ``https://host:port`` each.  Empty: the controller runs its own."""
    ca: str = ""
    """PEM files: whom to believe, and this controller's certificate and key.  For ``endpoints`` alone, as all below."""
    certificate: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""
    """Must be its owner's alone."""
    namespace: _Namespace = ""
    """Put before every key, in an etcd that is not for this cluster alone."""


def wrong_in(store: StoreSection) -> tuple[str, str] | None:
    """(setting, why) of the first that contradicts another; None when nothing does."""
    return next(_wrongs(store), None)


def _wrongs(store: StoreSection) -> Iterator[tuple[str, str]]:
    if store.client_port == store.peer_port:
        yield "peer_port", "it is client_port, too"
    if not store.endpoints:
        for name in ("ca", "certificate", "key", "user", "password_file", "namespace"):
            if getattr(store, name):
                yield name, "it is for endpoints alone"
        return
    if store.engine != "etcd":
        yield "endpoints", 'they are for engine = "etcd" alone'
    for number, url in enumerate(store.endpoints):
        if why := _wrong_url(url):
            yield f"endpoints[{number}]", why
    encrypted = any(url.startswith("https:") for url in store.endpoints)
    if encrypted and not (store.ca and store.certificate and store.key):
        yield "ca", "https needs ca, certificate and key"
    if store.user and not store.password_file:
        yield "password_file", "a user needs one"


def _wrong_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or port is None or parts.path.strip("/") or parts.query:
        return "it is not of the form https://host:port"
    if parts.scheme == "http" and not _is_loopback(host):
        return "http shows password and data to the network; use https"
    return "" if parts.scheme in {"http", "https"} else "it is not of the form https://host:port"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
