"""Settings that all tests share."""

from __future__ import annotations

import torch
from hypothesis import settings

# No test may depend on the speed of the machine.
settings.register_profile("lossweights", deadline=None)
settings.load_profile("lossweights")

# The tests run in as many processes as there are cores: `make test`.
torch.set_num_threads(1)
