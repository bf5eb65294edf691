"""The one place for what Twisted keeps to itself and this package reads all the same.

``tests/unit/test_ssh_upstream.py`` fails when Twisted changes it, and also when it changes the meaning of what is
public but documented nowhere: the attributes and message names of Conch that the classes here build on.
"""

from twisted.internet.interfaces import IStreamClientEndpoint


def address_of(endpoint: IStreamClientEndpoint) -> str:
    """``host:port`` as an operator knows it; an endpoint of another make is shown as it shows itself."""
    host = getattr(endpoint, "_hostText", None) or getattr(endpoint, "_host", None)
    return f"{host}:{getattr(endpoint, '_port', '')}" if host else repr(endpoint)
