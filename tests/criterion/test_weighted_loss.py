"""The total: what is checked, combined, recorded and reported."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lossweights import (
    AdaptiveKL,
    ConfigError,
    Constant,
    Cyclical,
    HorizonError,
    LossConfig,
    Ramp,
    Term,
    Warmup,
    WeightedLoss,
)


def leaf(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(value, dtype=dtype, requires_grad=True)


# The sum


def test_total_is_the_weighted_sum_with_its_gradient() -> None:
    criterion = WeightedLoss(terms={"nll": 2.0, "kl": Ramp(start=0.0, stop=1.0, over="4 steps")})
    criterion.set_step(1)
    nll, kl = leaf(3.0), leaf(5.0)
    total = criterion({"nll": nll, "kl": kl})
    total.backward()
    assert total.item() == 2.0 * 3.0 + 0.25 * 5.0
    assert (nll.grad, kl.grad) == (torch.tensor(2.0), torch.tensor(0.25))


def test_base_weight_multiplies_the_schedule() -> None:
    criterion = WeightedLoss(terms={"kl": Term(weight=3.0, schedule=Constant(value=0.5))})
    assert criterion.weights == {"kl": 1.5}


@pytest.mark.parametrize("count", [1, 2, 3, 17, 300])
def test_any_number_of_terms_agrees_with_the_loop_by_hand(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    weights = torch.randn(count, generator=generator).tolist()
    values = torch.randn(count, generator=generator).tolist()
    names = [f"term-{index}" for index in range(count)]
    criterion = WeightedLoss(terms=dict(zip(names, weights, strict=True)))
    total = criterion({n: torch.tensor(v) for n, v in zip(names, values, strict=True)})
    by_hand = math.fsum(w * v for w, v in zip(weights, values, strict=True))
    assert total.item() == pytest.approx(by_hand, rel=1e-4, abs=1e-4)


def test_order_of_terms_never_matters() -> None:
    terms = {"b": 0.1, "a": 0.7, "c": 1e-3}
    values = {"a": leaf(0.3), "b": leaf(1e4), "c": leaf(7.7)}
    totals = {
        WeightedLoss(terms=dict(order))(dict(given)).item()
        for order in (terms.items(), list(reversed(terms.items())))
        for given in (values.items(), list(reversed(values.items())))
    }
    assert len(totals) == 1


def test_names_may_be_anything_a_string_can_be() -> None:
    names = ["a.b", "keys", "train/kl", "ignore", "größe", " "]
    criterion = WeightedLoss(terms=names)
    assert criterion({name: leaf(1.0) for name in names}).item() == 6.0
    assert set(criterion.metrics(include=["raw"])) == {f"raw/{name}" for name in names}
    other = WeightedLoss(terms=names)
    other.load_state_dict(criterion.state_dict())


def test_mappings_that_are_no_dicts_will_do() -> None:
    class Output(Mapping[str, Tensor]):
        def __init__(self, **values: Tensor) -> None:
            self.values_by_name = values

        def __getitem__(self, name: str) -> Tensor:
            return self.values_by_name[name]

        def __iter__(self) -> Any:
            return iter(self.values_by_name)

        def __len__(self) -> int:
            return len(self.values_by_name)

    criterion = WeightedLoss(terms=["a", "b"])
    assert criterion(Output(a=leaf(1.0), b=leaf(2.0))).item() == 3.0


def test_numbers_stand_for_branches_that_are_off() -> None:
    criterion = WeightedLoss(terms=["a", "b"])
    assert criterion({"a": leaf(1.0), "b": 0.0}).item() == 1.0


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_combined_in_float32(dtype: torch.dtype) -> None:
    criterion = WeightedLoss(terms={"a": 1.0, "b": 1e-4})
    a, b = leaf(256.0, dtype), leaf(1.0, dtype)
    total = criterion({"a": a, "b": b})
    assert total.dtype is torch.float32
    assert total.item() == pytest.approx(256.0001, abs=2e-5)
    total.backward()
    assert a.grad is not None
    assert a.grad.dtype is dtype


def test_float64_stays_float64() -> None:
    total = WeightedLoss(terms={"a": 0.5})({"a": leaf(1 + 1e-12, torch.float64)})
    assert total.dtype is torch.float64
    assert total.item() == 0.5 * (1 + 1e-12)


def test_mixed_precision_is_promoted() -> None:
    total = WeightedLoss(terms=["a", "b"])(
        {"a": leaf(1.0, torch.bfloat16), "b": leaf(2.0, torch.float64)}
    )
    assert (total.dtype, total.item()) == (torch.float64, 3.0)


@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
def test_converting_the_module_leaves_weights_alone(
    convert: Callable[[nn.Module], nn.Module],
) -> None:
    criterion = WeightedLoss(terms={"a": 1e-4})
    before = criterion({"a": leaf(1.0)})
    convert(criterion)
    assert criterion({"a": leaf(1.0)}) == before
    criterion.step(5000)
    assert criterion({"a": leaf(1.0)}) == before


def test_autocast_leaves_the_sum_in_float32() -> None:
    criterion = WeightedLoss(terms={"a": 1.0, "b": 1e-3})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = criterion({"a": leaf(256.0), "b": leaf(1.0)})
    assert total.dtype is torch.float32
    assert total.item() == pytest.approx(256.001)


def test_integers_do_not_drag_the_sum_into_low_precision() -> None:
    total = WeightedLoss(terms=["a", "b"])({"a": leaf(1.0, torch.float16), "b": 100_000})
    assert total.item() == 100_001.0
    total = WeightedLoss(terms=["a", "b"])(
        {"a": leaf(1.0, torch.float16), "b": torch.tensor(100_000)}
    )
    assert total.item() == 100_001.0


# Names


def test_misspelt_term_is_told_with_the_nearest() -> None:
    criterion = WeightedLoss(terms=["reconstruction", "kl"])
    with pytest.raises(ValueError, match="'recontruction' is not a term.*did you mean 'reconstr"):
        criterion({"recontruction": leaf(1.0), "kl": leaf(1.0)})


def test_missing_term_is_named() -> None:
    with pytest.raises(ValueError, match="term 'kl' is missing.*optional: true at terms.kl"):
        WeightedLoss(terms=["nll", "kl"])({"nll": leaf(1.0)})


def test_extra_term_is_named() -> None:
    with pytest.raises(ValueError, match=r"'accuracy' is not a term.*ignore: \[accuracy\]"):
        WeightedLoss(terms=["nll"])({"nll": leaf(1.0), "accuracy": torch.tensor(0.9)})


def test_ignored_names_and_patterns_are_passed_over() -> None:
    criterion = WeightedLoss(terms=["nll"], ignore=["acc*", "boxes"])
    given = {"nll": leaf(1.0), "accuracy": torch.tensor(5), "boxes": torch.ones(3)}
    assert criterion(given).item() == 1.0


def test_optional_term_may_be_missing_or_none() -> None:
    criterion = WeightedLoss(terms={"nll": 1.0, "mask": Term(optional=True)})
    assert criterion({"nll": leaf(2.0)}).item() == 2.0
    assert criterion({"nll": leaf(2.0), "mask": None}).item() == 2.0
    assert criterion({"nll": leaf(2.0), "mask": leaf(3.0)}).item() == 5.0


def test_none_for_a_term_that_is_wanted_is_missing() -> None:
    with pytest.raises(ValueError, match="term 'kl' is missing"):
        WeightedLoss(terms=["nll", "kl"])({"nll": leaf(1.0), "kl": None})


@pytest.mark.parametrize("given", [[leaf(1.0)], leaf(1.0), torch.ones(1), None, "nll"])
def test_terms_without_names_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"by name: write criterion\({'nll': nll}\), found"):
        WeightedLoss(terms=["nll"])(given)


# Values


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 2)])
def test_a_vector_where_a_scalar_is_due(shape: tuple[int, ...]) -> None:
    criterion = WeightedLoss(terms=["nll", "kl"])
    with pytest.raises(ValueError, match=r"term 'kl' has shape \(.*a scalar is needed"):
        criterion({"nll": leaf(1.0), "kl": torch.ones(shape)})
    with pytest.raises(ValueError, match=r"term 'kl' has shape \(.*a scalar is needed"):
        criterion({"nll": torch.ones(shape), "kl": torch.ones(shape)})


@pytest.mark.parametrize(
    ("reduction", "expected"), [("mean", 2.5), ("sum", 15.0), ("batch_mean", 7.5)]
)
def test_declared_reductions(reduction: Any, expected: float) -> None:
    criterion = WeightedLoss(terms={"kl": Term(reduction=reduction)})
    value = torch.arange(6.0).reshape(2, 3).requires_grad_()
    total = criterion({"kl": value})
    total.backward()
    assert total.item() == expected
    assert criterion.metrics()["raw/kl"] == expected
    assert value.grad is not None
    assert value.grad.sum().item() == pytest.approx(expected / 2.5)


def test_low_precision_is_reduced_in_float32() -> None:
    criterion = WeightedLoss(terms={"kl": Term(reduction="sum")})
    assert criterion({"kl": torch.ones(513, dtype=torch.bfloat16)}).item() == 513.0


def test_batch_mean_of_a_scalar_is_refused() -> None:
    with pytest.raises(ValueError, match="term 'kl' has no batch axis"):
        WeightedLoss(terms={"kl": Term(reduction="batch_mean")})({"kl": leaf(1.0)})


@pytest.mark.parametrize("value", ["0.5", [1.0], object(), True])
def test_what_is_no_tensor_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="term 'kl' must be a tensor, found"):
        WeightedLoss(terms=["kl"])({"kl": value})


def test_a_list_of_values_is_told_how_to_become_one() -> None:
    with pytest.raises(ValueError, match=r"found list of 2: give one value, such as its sum"):
        WeightedLoss(terms=["kl"])({"kl": [leaf(1.0), leaf(2.0)]})


def test_a_misspelt_name_is_told_the_nearest_that_was_not_given() -> None:
    criterion = WeightedLoss(terms={"loss_ce": 1.0, "loss_giou": Term(optional=True)})
    with pytest.raises(ValueError, match="did you mean 'loss_giou'"):
        criterion({"loss_gious": leaf(1.0)})


@pytest.mark.parametrize("others", [{}, {"a": torch.tensor(1.0)}])
def test_complex_values_are_refused(others: dict[str, Tensor]) -> None:
    criterion = WeightedLoss(terms=["kl", *others])
    with pytest.raises(ValueError, match="term 'kl' must be real, found torch.complex64"):
        criterion({"kl": torch.tensor(1j), **others})


def test_different_devices_are_named() -> None:
    criterion = WeightedLoss(terms=["a", "b"])
    with pytest.raises(ValueError, match="'a' on cpu, 'b' on meta"):
        criterion({"a": leaf(1.0), "b": torch.tensor(1.0, device="meta")})


def test_the_criterion_goes_where_the_losses_are() -> None:
    criterion = WeightedLoss(terms={"a": 0.5, "b": Warmup(over="2 steps")})
    given = {name: torch.tensor(1.0, device="meta") for name in "ab"}
    for _ in range(3):
        assert criterion(given).device.type == "meta"
        criterion.step()
    assert criterion({"a": leaf(1.0), "b": leaf(1.0)}).item() == 1.5


def test_evaluation_elsewhere_leaves_training_where_it_is() -> None:
    criterion = WeightedLoss(terms={"a": 0.5})
    with torch.no_grad():
        assert criterion({"a": torch.tensor(1.0, device="meta")}).device.type == "meta"
    assert criterion({"a": leaf(1.0)}).item() == 0.5
    assert criterion.to("meta").to_empty(device="cpu")({"a": leaf(1.0)}).item() == 0.5


# Values that are not finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nonfinite_propagates_by_default(bad: float) -> None:
    total = WeightedLoss(terms=["a", "b"])({"a": leaf(1.0), "b": leaf(bad)})
    assert not math.isfinite(total.item())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nonfinite_raises_where_asked(bad: float) -> None:
    criterion = WeightedLoss(terms={"a": 1.0, "b": 0.5}, on_nonfinite="raise")
    criterion.set_step(7)
    with pytest.raises(FloatingPointError, match="term 'b' is .* at step 7.*weight is 0.5"):
        criterion({"a": leaf(1.0), "b": leaf(bad)})
    assert criterion({"a": leaf(1.0), "b": leaf(2.0)}).item() == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nonfinite_term_is_skipped_where_asked(bad: float) -> None:
    criterion = WeightedLoss(terms=["a", "b"], on_nonfinite="skip_term")
    a, b = leaf(2.0), leaf(bad)
    total = criterion({"a": a, "b": b})
    total.backward()
    assert total.item() == 2.0
    assert b.grad is None
    assert set(criterion.metrics(include=["raw"])) == {"raw/a"}


@pytest.mark.parametrize("rule", ["raise", "skip_term"])
def test_a_term_left_out_of_the_sum_may_be_anything(rule: Any) -> None:
    terms: dict[str, Any] = {"a": 1.0, "b": Term(weight=0.0, when_zero="skip")}
    criterion = WeightedLoss(terms=terms, on_nonfinite=rule)
    assert criterion({"a": leaf(1.0), "b": leaf(math.nan)}).item() == 1.0
    assert math.isnan(criterion.metrics()["raw/b"])


def test_a_batch_of_nothing_but_nan_can_be_stepped_over() -> None:
    criterion = WeightedLoss(terms=["a"], on_nonfinite="skip_term")
    total = criterion({"a": leaf(math.nan)})
    total.backward()
    assert total.item() == 0.0


# Terms of weight 0 and dormant terms


def test_weight_zero_keeps_the_graph_by_default() -> None:
    value = leaf(3.0)
    WeightedLoss(terms={"a": 1.0, "b": 0.0})({"a": leaf(1.0), "b": value}).backward()
    assert value.grad == torch.tensor(0.0)


def test_weight_zero_is_left_out_where_asked_and_still_reported() -> None:
    criterion = WeightedLoss(
        terms={"a": 1.0, "b": Term(schedule=Warmup(over="1 steps"), when_zero="skip")}
    )
    value = leaf(math.nan)
    total = criterion({"a": leaf(1.0), "b": value})
    total.backward()
    assert total.item() == 1.0
    assert value.grad is None
    metrics = criterion.metrics()
    assert math.isnan(metrics["raw/b"])
    assert metrics["weight/b"] == metrics["weighted/b"] == metrics["share/b"] == 0.0
    assert not criterion.is_active("b")
    assert criterion({"a": leaf(1.0)}).item() == 1.0
    criterion.step()
    assert criterion.is_active("b")
    assert criterion({"a": leaf(1.0), "b": leaf(2.0)}).item() == 3.0


def test_every_term_left_out_gives_a_zero_that_can_go_backward() -> None:
    criterion = WeightedLoss(terms={"a": Term(weight=0.0, when_zero="skip")})
    total = criterion({"a": leaf(5.0)})
    total.backward()
    assert total.item() == 0.0


def test_a_dormant_term_need_not_be_given_until_it_wakes() -> None:
    criterion = WeightedLoss(
        terms={
            "a": 1.0,
            "gan": Term(schedule=Ramp(start=0.5, stop=1.0, over="2 steps"), after="3 steps"),
        }
    )
    for _ in range(3):
        assert not criterion.is_active("gan")
        assert criterion({"a": leaf(1.0)}).item() == 1.0
        assert criterion({"a": leaf(1.0), "gan": leaf(9.0)}).item() == 1.0
        criterion.step()
    assert criterion.is_active("gan")
    with pytest.raises(ValueError, match="term 'gan' is missing"):
        criterion({"a": leaf(1.0)})
    assert criterion({"a": leaf(1.0), "gan": leaf(2.0)}).item() == 2.0


def test_only_dormant_terms_give_a_zero_that_can_go_backward() -> None:
    criterion = WeightedLoss(terms={"gan": Term(after="3 steps")})
    criterion({}).backward()


def test_is_active_knows_its_terms() -> None:
    with pytest.raises(ValueError, match="no term is called 'kL'; did you mean 'kl'"):
        WeightedLoss(terms=["kl"]).is_active("kL")


# Evaluation


@pytest.fixture
def annealed() -> WeightedLoss:
    terms: dict[str, Any] = {
        "nll": 1.0,
        "kl": Term(weight=0.5, schedule=Warmup(over="10 steps")),
    }
    return WeightedLoss(terms=terms, total_steps=20)


GIVEN = {"nll": torch.tensor(2.0), "kl": torch.tensor(4.0)}


def test_evaluation_has_one_yardstick(annealed: WeightedLoss) -> None:
    annealed.eval()
    for _ in range(3):
        assert annealed(GIVEN).item() == 2.0 + 0.5 * 4.0
        annealed.step(4)


def test_disabled_gradients_are_evaluation_too(annealed: WeightedLoss) -> None:
    with torch.no_grad():
        assert annealed(GIVEN).item() == 4.0
    with torch.inference_mode():
        assert annealed(GIVEN).item() == 4.0


def test_current_freezes_training(annealed: WeightedLoss) -> None:
    config = annealed.config.override({"eval_weights": "current"})
    criterion = WeightedLoss.from_config(config).eval()
    criterion.set_step(5)
    assert criterion(GIVEN).item() == 2.0 + 0.25 * 4.0


@pytest.mark.parametrize(
    ("rule", "expected"),
    [({"nll": 1, "kl": 1}, 6.0), ({"kl": 3.0}, 14.0), ({"nll": 0, "kl": 0}, 0.0)],
)
def test_other_rules_of_evaluation(annealed: WeightedLoss, rule: Any, expected: float) -> None:
    config = annealed.config.override({"eval_weights": rule})
    assert WeightedLoss.from_config(config).eval()(GIVEN).item() == expected


def test_a_schedule_without_end_has_no_final_weight_before_the_end_is_known() -> None:
    criterion = WeightedLoss(terms={"kl": lambda step: 1.0 + step})
    assert criterion({"kl": leaf(1.0)}).item() == 1.0
    with pytest.warns(
        UserWarning, match="evaluation does not yet: term 'kl'.*eval_weights: current"
    ):
        criterion.step()
    criterion.step()
    criterion.eval()
    with pytest.raises(HorizonError, match="term 'kl'.*total_steps.*bind.*eval_weights: current"):
        criterion({"kl": leaf(1.0)})
    assert criterion.bind(total_steps=9)({"kl": leaf(1.0)}).item() == 9.0


def test_evaluation_records_nothing(annealed: WeightedLoss) -> None:
    annealed({"nll": leaf(1.0), "kl": leaf(1.0)})
    before = annealed.metrics()
    annealed.eval()
    annealed(GIVEN)
    assert annealed.metrics() == before


def test_a_term_that_sleeps_counts_for_the_yardstick_all_the_same() -> None:
    criterion = WeightedLoss(terms={"a": 1.0, "gan": Term(after="5 steps")}).eval()
    assert criterion.is_active("gan")
    assert criterion({"a": leaf(1.0), "gan": leaf(2.0)}).item() == 3.0
    with pytest.raises(ValueError, match="term 'gan' is missing"):
        criterion({"a": leaf(1.0)})


def test_a_term_that_sleeps_may_be_missing_from_evaluation_as_in_training() -> None:
    terms: dict[str, Any] = {"a": 1.0, "gan": Term(after="5 steps")}
    criterion = WeightedLoss(terms=terms, eval_weights="current").eval()
    assert not criterion.is_active("gan")
    assert criterion({"a": leaf(1.0)}).item() == 1.0


# What is reported


def test_metrics_add_up() -> None:
    criterion = WeightedLoss(terms={"nll": 1.0, "kl": -0.25})
    total = criterion({"nll": leaf(3.0), "kl": leaf(2.0)})
    assert criterion.metrics("train/") == {
        "train/raw/nll": 3.0,
        "train/raw/kl": 2.0,
        "train/value/nll": 3.0,
        "train/value/kl": 2.0,
        "train/weight/nll": 1.0,
        "train/weight/kl": -0.25,
        "train/weighted/nll": 3.0,
        "train/weighted/kl": -0.5,
        "train/share/nll": pytest.approx(3.0 / 3.5),
        "train/share/kl": pytest.approx(0.5 / 3.5),
        "train/total": 2.5,
    }
    assert total.item() == 2.5


def test_metrics_have_the_weight_of_their_step() -> None:
    criterion = WeightedLoss(terms={"kl": Ramp(start=0.0, stop=1.0, over="2 steps")})
    criterion.step()
    criterion({"kl": leaf(1.0)})
    criterion.step()
    assert criterion.metrics()["weight/kl"] == 0.5
    report = criterion.report()
    assert report is not None
    assert report.step == 1
    assert criterion.weights == {"kl": 1.0}


def test_metrics_choose() -> None:
    criterion = WeightedLoss(terms=["kl"])
    assert criterion.metrics() == {}
    assert "no forward pass yet" in str(criterion.report())
    criterion({"kl": leaf(1.0)})
    assert criterion.metrics(include=["weight"]) == {"weight/kl": 1.0}
    with pytest.raises(ValueError, match="no quantity 'wieght'; did you mean 'weight'"):
        criterion.metrics(include=["wieght"])


def test_metrics_as_tensors_have_no_graph() -> None:
    criterion = WeightedLoss(terms=["kl"])
    criterion({"kl": leaf(2.0)})
    metrics = criterion.metrics(tensors=True)
    assert metrics["raw/kl"] == torch.tensor(2.0)
    assert not any(tensor.requires_grad for tensor in metrics.values())


def test_all_zero_has_no_nan_share() -> None:
    criterion = WeightedLoss(terms=["a", "b"])
    criterion({"a": leaf(0.0), "b": leaf(0.0)})
    assert criterion.metrics()["share/a"] == 0.0


def test_report_is_a_table_in_the_order_of_the_config() -> None:
    criterion = WeightedLoss(terms={"nll": 1.0, "kl": 0.5})
    criterion({"nll": leaf(3.0), "kl": leaf(2.0)})
    lines = str(criterion.report()).splitlines()
    assert [line.split()[0] for line in lines] == ["step", "term", "nll", "kl", "total"]
    assert lines[3].split() == ["kl", "2", "2", "0.5", "1", "25.0%"]


def test_breakdown_has_graphs_and_no_side_effects() -> None:
    criterion = WeightedLoss(terms={"a": 2.0, "b": 3.0})
    a, b = leaf(1.0), leaf(1.0)
    parts = criterion.breakdown({"a": a, "b": b})
    assert criterion.metrics() == {}
    parts.weighted["b"].backward()  # type: ignore[no-untyped-call]
    assert (a.grad, b.grad) == (None, torch.tensor(3.0))
    assert parts.total.item() == 5.0
    assert parts.share["a"].item() == pytest.approx(0.4)


def test_nothing_keeps_the_graph_alive() -> None:
    import gc
    import weakref

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad

    criterion = WeightedLoss(terms=["a"])
    value = Node.apply(leaf(1.0))  # type: ignore[no-untyped-call]
    node = weakref.ref(value.grad_fn)
    criterion({"a": value})
    del value
    gc.collect()
    assert node() is None


# What looks wrong


def test_audit_is_quiet_when_all_is_well() -> None:
    criterion = WeightedLoss(terms={"a": 1.0, "b": Warmup(over="5 steps")}, total_steps=10)
    criterion({"a": leaf(1.0), "b": leaf(1.0)})
    criterion.step()
    assert criterion.audit() == []


def test_audit_names_a_term_that_was_never_given() -> None:
    criterion = WeightedLoss(
        terms={
            "a": 1.0,
            "b": Term(optional=True),
            "c": Term(optional=True),
            "d": Term(after="9 steps"),
        }
    )
    criterion({"a": leaf(1.0), "c": leaf(1.0)})
    criterion.step()
    criterion({"a": leaf(1.0)})
    (finding,) = criterion.audit()
    assert finding.startswith("term 'b' was never given")


@pytest.mark.parametrize("source", ["rollout_kl", "a"])
def test_audit_awaits_no_optional_term_whose_controller_watches_a_metric(source: str) -> None:
    kl = AdaptiveKL(target=1.0, source=source)  # the price of a KL within a reward
    criterion = WeightedLoss(terms={"a": 1.0, "kl": Term(controller=kl, optional=True)})
    if source != "a":
        criterion.observe(rollout_kl=1.0)
    criterion({"a": leaf(1.0)})
    criterion.step()
    told = [finding for finding in criterion.audit() if "'kl' was never given" in finding]
    assert bool(told) is (source == "a")


def test_a_penalty_has_no_part_in_the_shares() -> None:
    criterion = WeightedLoss(terms=["a", "b"], balancer="uncertainty")
    breakdown = criterion.breakdown({"a": leaf(3.0), "b": leaf(1.0)})
    sizes = {name: abs(breakdown.weight[name] * breakdown.value[name]) for name in ("a", "b")}
    assert breakdown.share["a"].item() == pytest.approx((sizes["a"] / sum(sizes.values())).item())
    criterion.load_state_dict(
        {**criterion.state_dict(), "adaptive.log_variance": torch.tensor([-1.0, -1.0])}
    )
    breakdown = criterion.breakdown({"a": leaf(3.0), "b": leaf(1.0)})
    assert breakdown.penalty["a"].item() != 0
    assert breakdown.share["a"].item() == pytest.approx(0.75)


def test_audit_tells_of_a_training_past_its_end() -> None:
    cycles = Cyclical(period="4 steps")  # which go on for ever
    criterion = WeightedLoss(terms={"a": 1.0, "b": cycles}, total_steps=10)
    criterion.set_step(10)  # all steps are done
    assert criterion.audit() == []
    with pytest.warns(UserWarning, match="past its end at 10"):
        criterion.set_step(11)
    (finding,) = criterion.audit()
    assert finding.startswith("training is at step 11, past its end at 10")
    assert "for which the schedules of 'b' were computed" in finding
    criterion = WeightedLoss(terms={"a": 1.0}, total_steps=10)  # nothing would move
    criterion.set_step(11)
    assert criterion.audit() == []


def test_audit_names_a_term_without_gradient() -> None:
    criterion = WeightedLoss(terms=["a", "b"])
    criterion({"a": leaf(1.0), "b": torch.tensor(2.0)})
    (finding,) = criterion.audit()
    assert finding.startswith("term 'b' carries no gradient")


def test_audit_knows_a_placeholder_from_a_term_without_gradient() -> None:
    criterion = WeightedLoss(terms={"a": 1.0, "b": Term(after="2 steps")})
    criterion({"a": leaf(1.0), "b": 0.0})
    assert criterion.audit() == []


def test_audit_of_an_unbound_criterion_says_so() -> None:
    (finding,) = WeightedLoss(terms={"kl": Cyclical()}).audit()
    assert "term 'kl' has no weight yet" in finding
    assert "total_steps" in finding


def test_audit_names_a_weight_that_is_always_zero() -> None:
    (finding,) = WeightedLoss(terms={"a": 1.0, "b": 0.0}).audit()
    assert finding.startswith("term 'b' has a weight of 0 for the whole training")


def test_a_clock_that_nobody_moves_is_reported_once_in_training() -> None:
    criterion = WeightedLoss(terms={"a": Warmup(over="5 steps")})
    for _ in range(199):
        criterion({"a": leaf(1.0)})
    with pytest.warns(
        UserWarning, match="200 forward passes in training, but the clock is at step 0"
    ):
        criterion({"a": leaf(1.0)})
    criterion({"a": leaf(1.0)})
    criterion.metrics()
    for _ in range(2):
        assert "clock is at step 0" in str(criterion.report())
        assert "clock is at step 0" in criterion.audit()[0]


def test_constant_weights_need_no_clock_but_metrics_of_a_step_do() -> None:
    criterion = WeightedLoss(terms={"a": 1.0, "b": 0.5})
    for _ in range(200):
        criterion({"a": leaf(1.0), "b": leaf(1.0)})
    with pytest.warns(UserWarning, match="at step 0, so metrics are means over all of them"):
        criterion.metrics()
    criterion.metrics()


def test_audit_counts_every_micro_batch_as_given() -> None:
    criterion = WeightedLoss(terms={"a": 1.0, "b": Term(optional=True)})
    for _ in range(3):
        criterion({"a": leaf(1.0), "b": leaf(1.0)})
        criterion({"a": leaf(1.0)})
        criterion.step()
    assert criterion.audit() == []


# The function around it


def test_wrap_calls_any_function_of_named_terms() -> None:
    def loss_fn(output: Tensor, *, target: Tensor) -> dict[str, Tensor]:
        return {"mse": ((output - target) ** 2).mean(), "l1": output.abs().mean()}

    wrapped = WeightedLoss(terms={"mse": 1.0, "l1": 0.1}).wrap(loss_fn)
    assert wrapped(torch.ones(2), target=torch.zeros(2)).item() == pytest.approx(1.1)


def test_wrap_carries_the_parameters_of_a_module() -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": self.scale * x}

    wrapped = WeightedLoss(terms=["a"]).wrap(Loss())
    assert [name for name, _ in wrapped.named_parameters()] == ["function.scale"]
    assert wrapped.eval().criterion.training is False


def test_wrap_says_what_the_function_must_return() -> None:
    with pytest.raises(TypeError, match="returns named terms.*found Tensor"):
        WeightedLoss(terms=["a"]).wrap(lambda x: x)(leaf(1.0))


# How it is built


def test_from_config_and_signature_build_the_same() -> None:
    terms: dict[str, Any] = {"nll": 1.0, "kl": {"kind": "cyclical", "cycles": 3}}
    config = LossConfig.read({"terms": terms, "total_steps": 100, "ignore": ["acc"]})
    built = WeightedLoss.from_config(config)
    assert built.config == config
    assert WeightedLoss(terms=terms, total_steps=100, ignore=["acc"]).config == config
    assert WeightedLoss.from_config(config.model_dump()).config == config


def test_an_unbound_criterion_says_what_to_type() -> None:
    criterion = WeightedLoss(terms={"kl": Warmup(over="10 epochs")})
    with pytest.raises(
        HorizonError, match=r"term 'kl': 10 epochs.*steps_per_epoch.*criterion.bind"
    ):
        criterion({"kl": leaf(1.0)})
    with pytest.raises(HorizonError, match="term 'kl'"):
        criterion.weights  # noqa: B018
    criterion.bind(steps_per_epoch=2).set_step(10)
    assert criterion.weights == {"kl": 0.5}


def test_percentages_need_the_total() -> None:
    criterion = WeightedLoss(terms={"kl": Warmup(over="25%")})
    with pytest.raises(HorizonError, match=r"term 'kl': 25% of training.*total_steps.*bind\("):
        criterion({"kl": leaf(1.0)})


def test_a_total_in_epochs_waits_for_the_length_of_an_epoch() -> None:
    criterion = WeightedLoss(terms={"kl": Cyclical()}, total_steps="4 epochs")
    with pytest.raises(HorizonError, match="term 'kl'.*before steps_per_epoch is known"):
        criterion({"kl": leaf(1.0)})
    criterion.bind(steps_per_epoch=10)
    criterion.set_step(39)
    assert criterion.weights == {"kl": 1.0}


def test_a_warmup_longer_than_the_run_is_reported() -> None:
    with pytest.warns(UserWarning, match=r"term 'kl' ends too late.*step 500.*weight of 0.2") as w:
        WeightedLoss.from_config({"terms": {"kl": Warmup(over="500 steps")}, "total_steps": 100})
    assert w[0].filename == __file__
    criterion = WeightedLoss(terms={"kl": Warmup(over="500 steps")})
    with pytest.warns(UserWarning, match=r"terms.kl.schedule") as w:
        criterion.bind(total_steps=100)
    assert w[0].filename == __file__


def test_a_term_that_never_wakes_is_reported() -> None:
    with pytest.warns(UserWarning, match="term 'gan' is dormant for the whole training"):
        WeightedLoss(terms={"a": 1.0, "gan": Term(after="100 steps")}, total_steps=100)


def test_a_wrong_declaration_names_every_place() -> None:
    with pytest.raises(ConfigError) as caught:
        WeightedLoss(terms={"nll": True, "kl": {"kind": "cyclical", "ratio": 2}}, total_steps=-1)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "terms.nll.weight",
        "terms.kl.schedule.ratio",
        "total_steps",
    ]


def test_a_file_in_place_of_terms_says_what_to_call() -> None:
    with pytest.raises(ConfigError, match="build it with WeightedLoss.from_config"):
        WeightedLoss("elbo.yaml")


def test_a_config_is_taken_as_it_is() -> None:
    config = LossConfig.read({"terms": {"a": 2.0}, "total_steps": 10})
    criterion = WeightedLoss(config)
    assert criterion.config is config
    assert WeightedLoss.from_config(config).config is config
    assert criterion.weights == {"a": 2.0}


@pytest.mark.parametrize(
    ("fields", "named"), [({"total_steps": 5}, "'total_steps'"), ({"ignore": ["x"]}, "'ignore'")]
)
def test_nothing_is_declared_beside_a_config(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"{named} cannot be passed with a LossConfig: .*config.override"
    ):
        WeightedLoss(LossConfig.read({"terms": ["a"]}), **fields)


def test_building_inside_inference_mode_is_refused() -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match="build it outside"):
        WeightedLoss(terms=["a"])


def test_moving_time_inside_inference_mode_does_no_harm() -> None:
    criterion = WeightedLoss(terms={"a": Warmup(over="50%")})
    with torch.inference_mode():
        criterion.bind(total_steps=10_000)
        criterion.set_step(2_500)
    value = leaf(1.0)
    criterion({"a": value}).backward()
    assert value.grad == torch.tensor(0.5)
    criterion.eval()({"a": value}).backward()
    assert value.grad == torch.tensor(1.5)


def test_torch_func_is_refused_in_training() -> None:
    criterion = WeightedLoss(terms=["a"])
    criterion({"a": leaf(1.0)})
    with pytest.raises(RuntimeError, match=r"torch.func.*breakdown\(terms\).total"):
        torch.func.grad(lambda x: criterion({"a": x}))(torch.tensor(1.0))
    gradient = torch.func.grad(lambda x: criterion.breakdown({"a": x * x}).total)(torch.tensor(3.0))
    assert gradient.item() == 6.0


def test_ten_thousand_terms() -> None:
    names = [f"t{index}" for index in range(10_000)]
    criterion = WeightedLoss(terms={name: Warmup(over="2 steps") for name in names})
    criterion.step()
    value = torch.tensor(1.0)
    assert criterion(dict.fromkeys(names, value)).item() == 5_000.0


def test_a_config_is_validated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    validate = LossConfig.model_validate

    def counted(data: Any) -> LossConfig:
        calls.append(data)
        return validate(data)

    monkeypatch.setattr(LossConfig, "model_validate", counted)
    config: dict[str, Any] = {"terms": {"kl": {"kind": "warmup", "over": "4 steps"}}}
    WeightedLoss.from_config(config)
    assert len(calls) == 1
    WeightedLoss(**config)
    assert len(calls) == 2
