"""The ``avinet`` command: what an operator types, over the API's UNIX socket or TLS."""
