"""How many threads torch computes with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute in one thread meanwhile, as a worker process does.

    The networks are small, so that threads would mostly wait for one another; and one thread's sums come out the same
    to the bit on any number of cores.
    """
    import torch  # noqa: PLC0415  (the caller may have to start other processes before it pays for torch)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
