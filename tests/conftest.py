"""Settings that all tests share."""

from __future__ import annotations

from hypothesis import settings

# No test may depend on the speed of the machine.
settings.register_profile("lossweights", deadline=None)
settings.load_profile("lossweights")
