"""What carries the traffic: one interface, Envoy behind it, and a recording fake."""
