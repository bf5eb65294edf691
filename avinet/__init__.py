"""avinet: the secure management plane of a load-balancer fleet."""
