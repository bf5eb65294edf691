"""Request logs: segments, the spool of a service engine, their transfer, the log store and its queries."""
