"""a3c: asynchronous advantage actor-critic."""
