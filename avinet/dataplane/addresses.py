"""Whether a virtual service's address and port can be had on this host, asked before the data plane tries.

Service engines on one host share an address by SO_REUSEPORT; the kernel allows that among sockets of one user that
all ask for it, and refuses everybody else.  So the question is put to the kernel: bind the same way, and close.
A socket that never listens is given no connection.
"""

import errno
import socket

from avinet.dataplane.interface import RejectedError
from avinet.ports import holder_of


def check_address(address: str, port: int, resource: str) -> None:
    """``RejectedError`` about ``resource`` when a listener of ours cannot be had there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.bind((address, port))
        except OSError as failure:
            raise RejectedError(resource=resource, detail=_why(failure, address, port)) from failure


def _why(failure: OSError, address: str, port: int) -> str:
    where = f"{address} port {port}"
    if failure.errno == errno.EADDRINUSE:
        return f"{where} is held by {holder_of(port, address)}"
    if failure.errno == errno.EADDRNOTAVAIL:
        return f"{address} is not an address of this host"
    if failure.errno in {errno.EACCES, errno.EPERM}:
        return f"{where} needs a privilege (CAP_NET_BIND_SERVICE) that this user does not have"
    return f"{where} cannot be listened on: {failure.strerror}"
