"""Where a controller keeps what it decided: one interface, several engines."""
