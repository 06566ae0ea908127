"""Importing PyTorch without the garbage collector.

Its modules are hundreds of thousands of objects, none of which is garbage. While they are made, the collector goes
through all that there are so far, again and again: that takes a twelfth of the whole import.
"""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Collect no garbage meanwhile, in a process that may be the user's.

    Whatever there is afterwards counts as old and is looked through rarely, as if the collector had gone through it.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # else somebody's own frozen objects would be thawed
            gc.freeze()
            gc.unfreeze()  # into the oldest generation
        gc.enable()
