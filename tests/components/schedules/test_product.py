"""Products at their edges; test_properties compares them with their factors."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from lossweights import Cyclical, Exponential, Horizon, Product, Ramp, Warmup


def test_cycles_under_an_envelope() -> None:
    product = Product(
        factors=(Cyclical(period="4 steps"), Ramp(start=1.0, stop=0.5, over="8 steps"))
    )
    assert product(range(9)).tolist() == [
        *(0.0, 0.5 * 0.9375, 0.875, 0.8125),
        *(0.0, 0.5 * 0.6875, 0.625, 0.5625),
        0.0,
    ]


def test_a_product_ends_with_its_last_factor_if_each_one_does() -> None:
    short, long = Warmup(over="3 steps"), Warmup(over="9 steps")
    assert Product(factors=(short, long, 2.0)).ends(Horizon()) == 9
    assert Product(factors=(short, Exponential(rate=0.5))).ends(Horizon()) is None
    assert Product(factors=(2.0,)).ends(Horizon()) == 0


def test_a_product_ends_up_where_its_factors_do() -> None:
    product = Product(factors=(2.0, Cyclical(stop=0.5), Warmup(over="200%")))
    assert product.final(Horizon(10)) == 2.0 * 0.5 * 0.5


def test_a_product_has_a_factor() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        Product(factors=())
