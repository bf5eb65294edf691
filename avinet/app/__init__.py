"""The two roles as processes, their settings, and the command line."""
