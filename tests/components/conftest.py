"""What tests of kinds share."""

from __future__ import annotations

import pytest

from lossweights import Schedule, Shape
from lossweights.components import declaration


@pytest.fixture
def registries_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in (Schedule, Shape):
        monkeypatch.setattr(family, "_registry", dict(family._registry))
    monkeypatch.setattr(declaration, "_loaded", set(declaration._loaded))
