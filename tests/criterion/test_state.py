"""What adapts, saved, loaded, copied and moved."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lossweights import State, Term, WeightedLoss
from tests.small_components import Centred, Comparing, Counting, Recording, leaf, losses

TERMS: dict[str, Any] = {
    "b": Term(controller=Counting(source="m"), balanced=True),
    "a": Term(transform=Centred()),
    "c.d": 1.0,
}


def build(balancer: Any = "test-priced", terms: Any = TERMS) -> WeightedLoss:
    return WeightedLoss(terms=terms, balancer=balancer)


def train(
    criterion: WeightedLoss, steps: int, optimizer: torch.optim.Optimizer | None = None
) -> list[float]:
    """Steps that depend on the clock alone; every total."""
    optimizer = optimizer or torch.optim.SGD([nn.Parameter(torch.ones(()))])
    totals = []
    for _ in range(steps):
        step = criterion.current_step
        if criterion.adaptive.observations.metrics:
            criterion.observe(m=0.5 * step)
        names = criterion.config.terms
        given = {name: leaf(1.0 + step + len(name)) for name in names}
        totals.append(criterion(given))
        totals[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
        criterion.step()
    return [total.item() for total in totals]


def learner(criterion: WeightedLoss) -> torch.optim.Optimizer:
    return torch.optim.Adam([*criterion.param_groups(), {"params": [leaf(1.0)]}], lr=0.01)


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


# Saving and loading


@pytest.mark.parametrize("balancer", [None, "test-priced", "test-recording", "uncertainty"])
def test_going_on_from_a_file_is_going_on(balancer: Any) -> None:
    terms = TERMS if balancer else {**TERMS, "b": Counting(source="m")}
    whole, begun, resumed = (build(balancer, terms) for _ in range(3))
    optimizers = [learner(criterion) for criterion in (whole, begun, resumed)]
    expected = train(whole, 7, optimizers[0])
    found = train(begun, 3, optimizers[1])
    begun.observe(m=100.0)  # in the middle of a step
    state = through_a_file({"loss": begun.state_dict(), "adam": optimizers[1].state_dict()})
    resumed.load_state_dict(state["loss"])
    optimizers[2].load_state_dict(state["adam"])
    resumed.adaptive.observations.drop()
    found += train(resumed, 4, optimizers[2])
    assert found == expected
    assert same(whole.state_dict(), resumed.state_dict())


def test_what_was_seen_before_a_checkpoint_counts_after_it() -> None:
    criterion, resumed = build(), build()
    criterion.observe(m=3.0)
    resumed.load_state_dict(criterion.state_dict())
    resumed.observe(m=5.0)
    resumed.step()
    assert resumed.adaptive.slots["terms.b.controller"].state["observed"] == 4.0


def test_a_state_is_a_copy_of_everything() -> None:
    criterion = build()
    state = criterion.state_dict()
    before = {key: tensor.clone() for key, tensor in state.items()}
    train(criterion, 2, learner(criterion))
    assert same(state, before)
    for tensor in state.values():
        tensor.zero_()
    assert not same(criterion.state_dict(), state)
    kept = criterion.state_dict(keep_vars=True)["adaptive.learned"]
    assert kept is criterion.adaptive.learned


def test_weights_follow_from_what_was_loaded_at_once() -> None:
    for balancer in ("test-recording", "test-priced"):
        criterion, other = build(balancer), build(balancer)
        train(criterion, 3, learner(criterion))
        other.load_state_dict(criterion.state_dict())
        assert other.weights == criterion.weights
        assert other.weights["c.d"] != 1.0


def test_state_lies_in_the_order_of_names_not_of_the_declaration() -> None:
    criterion = build()
    backwards = build(terms=dict(reversed(TERMS.items())))
    train(criterion, 3, learner(criterion))
    backwards.load_state_dict(criterion.state_dict())
    assert backwards.weights == criterion.weights


# A checkpoint of something else


@pytest.mark.parametrize("balancer", ["test-recording", "test-priced"])
def test_terms_that_come_and_go_are_mapped_by_name(balancer: str) -> None:
    old = build(balancer, {"a": 1.0, "b": 1.0, "gone": 1.0})
    train(old, 2, learner(old))
    new = build(balancer, {"a": 1.0, "aa": 1.0, "b": Counting(), "c": Term(), "gone": 1.0})
    with pytest.raises(RuntimeError, match=r"terms.aa \(not a term of this checkpoint"):
        _load(new, old)
    fresh = build(balancer, {"a": 1.0, "b": 1.0, "c": 1.0})
    _load(fresh, old, strict=False)
    key = "learned" if balancer == "test-priced" else "weights"
    ours, theirs = (c.adaptive.slots["balancer"].state[key] for c in (fresh, old))
    assert ours.tolist() == [theirs[0], theirs[1], 1.0]
    assert fresh.current_step == 2
    assert fresh.state_dict()["adaptive.last_observed.values"].tolist()[2] == 1.0
    if balancer == "test-recording":
        assert fresh.adaptive.slots["balancer"].state["updates"] == 2
    train(fresh, 1)


def _load(criterion: WeightedLoss, other: WeightedLoss, *, strict: bool = True) -> None:
    state = other.state_dict()
    learns = [] if strict else [*criterion.parameters()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            criterion.load_state_dict(state, strict=strict)
        finally:
            told = [str(warning.message) for warning in caught]
            assert len(told) == len(learns)
            assert all("call criterion.drop_stale_moments(optimizer)" in text for text in told)


def test_what_was_seen_of_other_terms_is_dropped() -> None:
    old = build(terms={"a": Counting(), "b": 1.0})
    new = WeightedLoss(terms={"a": Counting(), "c": 1.0}, balancer="test-priced", clock=old.clock)
    old(losses(a=5.0, b=5.0))
    new(losses(a=1.0, c=1.0))
    with pytest.warns(UserWarning, match="learned is learned for other terms"):
        new.load_state_dict(old.state_dict(), strict=False)
    assert not new.state_dict()["adaptive.observed.totals"].any()


def test_a_component_that_is_declared_otherwise_is_refused() -> None:
    class Windowed(Recording, kind="test-windowed"):
        rows: int = 1

        def init(self, n: int) -> State:
            return {**super().init(n), "observed": torch.zeros(self.rows, n)}

    with pytest.raises(
        RuntimeError, match=r"observed has shape \(1, 3\).*and \(2, 3\) here: the co"
    ):
        build(Windowed(rows=2)).load_state_dict(build(Windowed()).state_dict())


def test_one_kind_takes_over_nothing_from_another() -> None:
    class Namesake(Recording, kind="test-namesake"):
        """Another kind, whose state has the same names."""

    old, new = build("test-recording"), build(Namesake())
    train(old, 2)
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*test-namesake.*Unexpected.*test-record"):
        _load(new, old)
    _load(new, old, strict=False)
    assert new.adaptive.slots["balancer"].state["updates"] == 0


@pytest.mark.parametrize(
    ("ours", "theirs", "problem"),
    [
        ("test-recording", "test-priced", r"Missing.*test-recording.observed.*Unexpected.*learned"),
        ("test-priced", None, r"Missing.*learned"),
        (None, "test-priced", r"Unexpected.*learned"),
    ],
)
def test_another_component_is_told_by_its_keys(ours: Any, theirs: Any, problem: str) -> None:
    terms = {"a": 1.0, "b": Counting()}
    with pytest.raises(RuntimeError, match=rf"(?s){problem}"):
        build(ours, terms).load_state_dict(build(theirs, terms).state_dict())


def test_a_checkpoint_without_our_keys_is_refused_and_changes_nothing() -> None:
    criterion = build()
    train(criterion, 2, learner(criterion))
    before = criterion.state_dict()
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*step.*adaptive.learned"):
        criterion.load_state_dict({})
    criterion.load_state_dict({}, strict=False)
    assert same(criterion.state_dict(), before)


@pytest.mark.parametrize("key", ["balanced_names", "channel_names"])
@pytest.mark.parametrize("bytes_", [[1, 2, 3], [255, 254]])
def test_a_damaged_checkpoint_is_refused(key: str, bytes_: list[int]) -> None:
    criterion = build()
    state = criterion.state_dict()
    state[f"adaptive.{key}"] = torch.tensor(bytes_, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match=f"{key} is not a list of different names"):
        criterion.load_state_dict(state)


def test_assigned_weights_are_the_ones_that_are_learned() -> None:
    criterion, other = build("uncertainty"), build("uncertainty")
    train(other, 2, learner(other))
    criterion.load_state_dict(other.state_dict(), assign=True)
    (learned,) = criterion.parameters()
    assert learned._post_accumulate_grad_hooks  # averages gradients over ranks
    assert train(criterion, 2, learner(criterion)) != train(build("uncertainty"), 2)


# Copies


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))],
    ids=["deepcopy", "pickle"],
)
@pytest.mark.parametrize("balancer", ["test-recording", "test-priced", "uncertainty"])
def test_a_copy_goes_on_alike_and_by_itself(copied: Any, balancer: str) -> None:
    criterion = build(balancer)
    train(criterion, 2, learner(criterion))
    criterion.observe(m=3.0)
    other = copied(criterion)
    assert same(criterion.state_dict(), other.state_dict())
    before = other.state_dict()
    optimizer = learner(other)
    totals = train(criterion, 3, learner(criterion))
    assert same(other.state_dict(), before)
    assert train(other, 3, optimizer) == totals
    assert same(criterion.state_dict(), other.state_dict())
    ours, theirs = set(map(id, criterion.parameters())), set(map(id, other.parameters()))
    assert not ours & theirs
    for parameter in other.parameters():
        assert len(parameter._post_accumulate_grad_hooks) == 1


def test_a_copy_awaits_the_losses_after_the_step_that_was_done() -> None:
    criterion = build(Comparing(), {"a": 1.0})
    train(criterion, 1)
    other = copy.deepcopy(criterion)
    for each in (criterion, other):
        each.observe_after({"a": leaf(3.0)})
    assert same(criterion.state_dict(), other.state_dict())


# Precision and places


@pytest.mark.parametrize(
    "convert", [nn.Module.half, nn.Module.bfloat16, nn.Module.double], ids=lambda f: f.__name__
)
def test_conversions_are_for_the_model(convert: Callable[[nn.Module], nn.Module]) -> None:
    criterion = build("uncertainty")
    optimizer = learner(criterion)
    train(criterion, 2, optimizer)
    before, learned = criterion.state_dict(), list(criterion.parameters())
    convert(nn.Sequential(criterion))
    assert same(criterion.state_dict(), before)
    assert next(criterion.parameters()) is learned[0]
    assert learned[0].dtype is torch.float32
    train(criterion, 1, optimizer)
    assert not torch.equal(learned[0], before["adaptive.log_variance"])


@pytest.mark.parametrize("balancer", ["test-recording", "test-priced"])
def test_everything_goes_to_another_device_together(balancer: str) -> None:
    criterion = build(balancer)
    train(criterion, 1)
    criterion.to("meta")
    given = {name: torch.ones((), device="meta", requires_grad=True) for name in TERMS}
    criterion(given).backward()
    criterion.step()
    placed = [*criterion.parameters(), *criterion.adaptive._saved().values()]
    assert {tensor.device.type for tensor in placed} == {"meta"}


def test_state_goes_where_the_losses_are_whatever_lies_beside_them() -> None:
    criterion = WeightedLoss(terms=["a", "b"], balancer=Recording(), ignore=["accuracy"])
    given = {name: torch.ones((), device="meta", requires_grad=True) for name in "ab"}
    criterion({**given, "accuracy": torch.ones(())})
    criterion.step()
    assert criterion.adaptive.device.type == "meta"


def test_learned_weights_that_lie_elsewhere_are_named() -> None:
    criterion = build("uncertainty", ["a"])
    message = r"\(log_variance\) are on cpu, the losses on meta: call criterion.to\('meta'\) before"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message):
            criterion({"a": torch.ones((), device="meta", requires_grad=True)})
    train(criterion, 1)


def test_what_was_built_without_memory_keeps_what_is_learned() -> None:
    with torch.device("meta"):
        criterion = build("uncertainty")
        model = nn.ModuleDict({"criterion": criterion, "head": nn.Linear(2, 2)})
    model.to_empty(device="cpu")
    assert set(criterion.weights.values()) == {0.5}


def test_state_stays_where_it_is_unless_the_device_changes() -> None:
    criterion = build("test-recording")
    before = criterion.adaptive.slots["balancer"].state["observed"].data_ptr()
    criterion.to("cpu").float()
    assert criterion.adaptive.slots["balancer"].state["observed"].data_ptr() == before


def test_two_values_of_two_terms_are_no_pairs() -> None:
    """A history as long as there are terms is mapped by its last axis alone."""
    old = WeightedLoss(terms=["a", "b"], balancer="softadapt")
    old.adaptive.slots["balancer"].state["points"].copy_(torch.tensor([[5.0, 10.0], [6.0, 12.0]]))
    new = WeightedLoss(terms=["a", "c"], balancer="softadapt")
    new.load_state_dict(old.state_dict(), strict=False)
    assert new.adaptive.slots["balancer"].state["points"][:, 0].tolist() == [5, 6]


def test_pairs_of_terms_are_mapped_by_both() -> None:
    old = WeightedLoss(terms=["a", "b"], balancer="gradvac")
    old.adaptive.slots["balancer"].state["targets"].copy_(torch.tensor([[0.0, 0.5], [0.25, 0.0]]))
    new = WeightedLoss(terms=["b", "aa", "a"], balancer="gradvac")
    new.load_state_dict(old.state_dict(), strict=False)
    assert new.adaptive.slots["balancer"].state["targets"].tolist() == [
        [0, 0, 0.5],
        [0, 0, 0],
        [0.25, 0, 0],
    ]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    ("balancer", "key"),
    [
        ("test-recording", "adaptive.balancer.test-recording.weights"),
        ("test-priced", "adaptive.learned"),
        ("mgda", "adaptive.gradients.weights"),
        (None, "adaptive.terms.a.controller.test-counting.coefficient"),
    ],
)
def test_a_state_that_is_not_finite_is_refused_and_not_taken_over(
    balancer: Any, key: str, bad: float
) -> None:
    terms: dict[str, Any] = {"a": Counting() if balancer is None else 1.0, "b": 1.0}
    criterion = build(balancer, terms)
    state = criterion.state_dict()
    before = state[key].clone()
    state[key] = torch.full_like(before, bad)
    with pytest.raises(RuntimeError, match=rf"{key} is not finite in the checkpoint"):
        criterion.load_state_dict(state)
    assert torch.equal(criterion.state_dict()[key], before)


def test_a_nan_that_a_forward_pass_observed_may_be_in_a_checkpoint() -> None:
    terms: dict[str, Any] = {"a": Counting(), "b": 1.0}
    criterion, resumed = (build("test-recording", terms) for _ in range(2))
    criterion(losses(a=torch.nan, b=torch.nan))
    resumed.load_state_dict(criterion.state_dict())
    for each in (criterion, resumed):
        each.step()
    assert same(criterion.state_dict(), resumed.state_dict())


# The moments of learned weights, in an optimizer


class Wrapper:
    """What Lightning and Accelerate give in place of an optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.1, foreach=False),
    "foreach": lambda groups: torch.optim.Adam(groups, lr=0.1, foreach=True, amsgrad=True),
    "fused": lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, foreach=True),
    "plain": lambda groups: torch.optim.SGD(groups, lr=0.1),
}


def trained(
    make: Callable[[Any], torch.optim.Optimizer], names: list[str], saved: Any = None
) -> tuple[WeightedLoss, nn.Linear, torch.optim.Optimizer]:
    """A criterion, a layer and their optimizer after three steps, or loaded."""
    torch.manual_seed(0)
    criterion, layer = WeightedLoss(names, balancer="uncertainty"), nn.Linear(2, 1)
    optimizer = make([{"params": layer.parameters()}, *criterion.param_groups()])
    if saved is None:
        for _ in range(3):
            one_step(criterion, layer, optimizer)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            criterion.load_state_dict(saved[0].state_dict(), strict=False)
        layer.load_state_dict(saved[1].state_dict())
        optimizer.load_state_dict(copy.deepcopy(saved[2].state_dict()))
    return criterion, layer, optimizer


def one_step(criterion: WeightedLoss, layer: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    output = layer(torch.tensor([1.0, 2.0])).square().mean()
    criterion({name: output * (1 + i) for i, name in enumerate(criterion.term_names)}).backward()
    optimizer.step()
    optimizer.zero_grad()
    criterion.step()


@pytest.mark.parametrize("names", [["a", "b", "c"], ["b"], ["a", "c"]])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, Wrapper])
def test_moments_of_other_terms_are_dropped_and_all_others_stay(
    kind: str, names: list[str], wrap: Any
) -> None:
    saved = trained(OPTIMIZERS[kind], ["a", "b"])
    criterion, layer, optimizer = trained(OPTIMIZERS[kind], names, saved)
    criterion.drop_stale_moments(wrap(optimizer))
    assert next(criterion.parameters()) not in optimizer.state
    one_step(criterion, layer, optimizer)
    # Independently: two optimizers, of which that of the learned weights is new.
    expected, layer_2, _ = trained(OPTIMIZERS[kind], names, saved)
    of_layer = OPTIMIZERS[kind]([{"params": layer_2.parameters()}])
    whole = saved[2].state_dict()
    groups = [whole["param_groups"][0]]
    states = {k: v for k, v in whole["state"].items() if k in groups[0]["params"]}
    of_layer.load_state_dict({"state": states, "param_groups": groups})
    of_learned = OPTIMIZERS[kind](expected.param_groups())
    of_learned.register_step_post_hook(lambda *_: of_layer.step())
    one_step(expected, layer_2, of_learned)
    for ours, theirs in zip(
        [*criterion.parameters(), *layer.parameters()],
        [*expected.parameters(), *layer_2.parameters()],
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_moments_of_the_same_terms_stay() -> None:
    saved = trained(OPTIMIZERS["adam"], ["a", "b"])
    criterion, _, optimizer = trained(OPTIMIZERS["adam"], ["b", "a"], saved)
    criterion.drop_stale_moments(optimizer)
    (learned,), (theirs,) = criterion.parameters(), saved[0].parameters()
    assert same(optimizer.state[learned], saved[2].state[theirs])


def test_what_has_no_moments_is_refused_or_unchanged() -> None:
    criterion = WeightedLoss(["a"], balancer="uncertainty")
    with pytest.raises(TypeError, match=r"drop_stale_moments\(\) takes a torch optimizer, found"):
        criterion.drop_stale_moments(criterion)  # type: ignore[arg-type]
    criterion.drop_stale_moments(torch.optim.Adam(criterion.parameters()))
    WeightedLoss(["a"]).drop_stale_moments(torch.optim.Adam([leaf(1.0)]))


# What to do about a checkpoint of something else


@pytest.mark.parametrize(
    ("ours", "theirs", "problem"),
    [
        (
            {"a": {"kind": "pid", "target": 1}},
            {"a": {"kind": "lagrangian", "at_most": 1}},
            r"no terms.a.controller.pid and this .* no terms.a.controller.lagrangian: to let ",
        ),
        ({"a": {"kind": "pid", "target": 1}}, {"a": 1.0}, "checkpoint has no terms.a.controller"),
        ({"a": 1.0}, {"a": {"kind": "pid", "target": 1}}, "criterion has no terms.a.controller"),
        (
            {"a": 1.0},
            {"b": 1.0},
            "load what both have with strict=False, in Lightning with self.strict_loading",
        ),
    ],
)
def test_a_checkpoint_of_something_else_says_what_to_do(
    ours: Any, theirs: Any, problem: str
) -> None:
    criterion, saved = WeightedLoss(ours), WeightedLoss(theirs).state_dict()
    with pytest.raises(RuntimeError, match=problem):
        criterion.load_state_dict(saved)
    criterion.load_state_dict(saved, strict=False)
    model = nn.ModuleDict({"loss": criterion})
    with pytest.raises(RuntimeError, match=problem):
        model.load_state_dict({f"loss.{key}": value for key, value in saved.items()})


def test_a_model_without_a_criterion_says_what_to_do() -> None:
    model = nn.ModuleDict({"loss": WeightedLoss(["a"]), "layer": nn.Linear(1, 1)})
    state = nn.ModuleDict({"layer": nn.Linear(1, 1)}).state_dict()
    with pytest.raises(RuntimeError, match=r"no criterion loss: load it.*criterion.set_step\(step"):
        model.load_state_dict(state)
    model.load_state_dict(state, strict=False)


def test_a_hook_of_the_user_may_rename_keys() -> None:
    criterion, saved = WeightedLoss(["a"]), WeightedLoss(["a"])
    saved.set_step(4)
    state = saved.state_dict()
    state["step"] = state.pop("clock.step")

    def rename(_: nn.Module, found: dict[str, Any], prefix: str, *__: Any) -> None:
        found[f"{prefix}clock.step"] = found.pop(f"{prefix}step")

    criterion.register_load_state_dict_pre_hook(rename)  # type: ignore[no-untyped-call]
    criterion.load_state_dict(state)
    assert criterion.current_step == 4
