"""The first module that the fork server imports: from here on it goes when its parent does."""

import os

from a3c.runtimes.child_process import begin_of_imports

begin_of_imports(os.getppid())
