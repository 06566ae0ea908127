"""The last module that the fork server imports: from here on its own loop notices that its parent has gone."""

from a3c.runtimes.child_process import end_of_imports

end_of_imports()
