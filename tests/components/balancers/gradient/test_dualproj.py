"""DualProj; test_dual_cone holds what it shares with UPGrad."""

from __future__ import annotations

import numpy as np
import pytest

from lossweights.components.balancers import DualProj
from tests.components.balancers.gradient.gramians import weights_of


def test_weights_by_hand() -> None:
    """(2, 0) and (-1, 1): their mean is (0.5, 0.5)."""
    first = weights_of(DualProj(), np.array([[2.0, 0.0], [-1.0, 1.0]]))
    assert first.tolist() == pytest.approx([0.5, 0.5])
    second = weights_of(DualProj(), np.array([[1.0, 0.0], [-3.0, 1.0]]))
    assert second.tolist() == pytest.approx([1.5, 0.5])
