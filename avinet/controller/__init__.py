"""The controller's services."""
