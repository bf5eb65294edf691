"""The control protocol: bytes to messages and back, without I/O; one codec for both roles."""
