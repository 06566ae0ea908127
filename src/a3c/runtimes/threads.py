"""How many threads torch and NumPy compute with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch and NumPy compute in one thread meanwhile, as a worker process does.

    The networks are small, so that threads would mostly wait for one another; and one thread's sums come out the same
    to the bit on any number of cores.
    """
    import torch  # noqa: PLC0415  (the caller may have to start other processes before it pays for torch)
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):  # NumPy's, and what an environment computes with
            yield
    finally:
        torch.set_num_threads(threads)
