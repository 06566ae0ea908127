"""The first module that the fork server imports: from here on it goes when its parent does."""

from a3c.runtimes.child_process import fork_server_begins

fork_server_begins()
