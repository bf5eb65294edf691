"""Questions to the log store: the language that operators write, as expressions and as SQL of one engine each."""
