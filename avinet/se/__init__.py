"""The service engine's services."""
