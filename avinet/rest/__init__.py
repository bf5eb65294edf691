"""HTTP surfaces: router, schemas, problem documents, TLS, event streams."""
