"""The log store: segments become columns, columns become files, files answer queries.

``interface`` is what the rest of avinet knows.  Behind it stand child processes (``worker``), one that takes segments in
and one that answers, so that neither waits for the other and neither can take the controller's memory.
"""
