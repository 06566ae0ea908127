"""For all tests: one torch thread, as in a worker; and no deadline for Hypothesis, for machines are shared."""

import torch
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("a3c", deadline=None)
settings.load_profile("a3c")
