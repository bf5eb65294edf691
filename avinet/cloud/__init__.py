"""Where service engines' machines come from: one interface, one module a driver."""
