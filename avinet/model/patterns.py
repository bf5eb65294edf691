"""Texts that must have a form: host names, what routes match hosts by, names of headers and cookies, URLs."""

import ipaddress
import re
from functools import lru_cache
from urllib.parse import urlsplit

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
"""RFC 9110 section 5.6.2; 128 is ours: longer names of headers and cookies are slips."""
_MEDIA_TYPE = re.compile(r"[!#$&^_.+0-9A-Za-z-]+/[!#$&^_.+0-9A-Za-z-]+(; ?[0-9A-Za-z_-]+=[\x21-\x7e]+)*")
_PATH = re.compile(r"/[\x21\x22\x24-\x3e\x40-\x7e]*")
"""Printable ASCII without ``#`` and ``?``: what follows those is no path."""
CANONICAL = 20_000
"""Addresses whose one spelling is remembered (4 MiB): each change is checked against every listener there is, and to
parse the addresses of 5,000 was two thirds of what that took."""
_URL = re.compile(r"[\x21-\x7e]+")


@lru_cache(maxsize=CANONICAL)
def canonical_address(address: str) -> str:
    """One spelling of an address or host name."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address.lower().rstrip(".")


def is_host_name(text: str) -> bool:
    """Whether ``text`` can be a host name; a dot at its end is allowed."""
    labels = text.removesuffix(".").split(".")
    # An address that is all digits and dots but no address is a slip, not a name.
    numeric = all(label.isdigit() for label in labels)
    return len(text) <= 253 and not numeric and all(_LABEL.fullmatch(label) for label in labels)


def is_address(text: str) -> bool:
    """Whether ``text`` is an IP address, without zone."""
    try:
        ipaddress.ip_address(text.replace("%", "/"))
    except ValueError:
        return False
    return True


def is_host_pattern(text: str) -> bool:
    """What a route takes for a host: a name, an address (an IPv6 one in brackets), or ``*.`` and a name."""
    if text.startswith("[") and text.endswith("]"):
        return ":" in text and is_address(text[1:-1])
    if is_address(text):
        return ":" not in text
    return is_host_name(text.removeprefix("*.")) and not text.endswith(".")


def is_token(text: str) -> bool:
    """Whether it can name a header or a cookie."""
    return _TOKEN.fullmatch(text) is not None


def is_media_type(text: str) -> bool:
    """``text/html; charset=utf-8``."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def is_path(text: str) -> bool:
    """The path of an URL, without query."""
    return _PATH.fullmatch(text) is not None


def is_whole_url(text: str) -> bool:
    """An ``http`` or ``https`` URL with a host, in printable ASCII, so that nothing of it can end a header."""
    if not _URL.fullmatch(text):
        return False
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and (is_address(host) or is_host_name(host))
