"""What creates machines for service engines: one interface, one module a cloud."""
