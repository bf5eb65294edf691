"""What things are: identifiers, records, configuration objects, events.  Frozen, no I/O."""
