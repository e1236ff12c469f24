"""Which terms have collapsed or are not finite, and trainings in which none has."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lossweights import Horizon, HorizonError, LossConfig, Term, WeightedLoss
from lossweights.analysis import Finding, History, Monitor, diagnose
from tests.small_components import leaf

STEPS = 400
PID = {"kind": "pid", "target": 3.0, "response": "5%"}
RAMP = {"kind": "ramp", "start": 0, "stop": 2, "over": "100%"}
CAPACITY = {"weight": 100, "transform": {"kind": "capacity", "capacity": RAMP}}
CAPACITY_OF_3 = {"kind": "capacity", "capacity": 3.0}
Values = Callable[[int], Mapping[str, float]]


def follow(terms: Any, values: Values, count: int = STEPS, **options: Any) -> list[Finding]:
    """What a monitor finds in a training with these values of the terms, a row per step."""
    config = {"terms": terms, "total_steps": STEPS, "steps_per_epoch": 10}
    criterion = WeightedLoss.from_config(config | options.pop("config", {}))
    monitor = Monitor(criterion, "1 steps", **options)
    with warnings.catch_warnings(record=True, action="always") as caught:
        train(criterion, values, count)
    told = [f"step {finding.step}: {finding.message}" for finding in monitor.findings]
    assert [str(warning.message) for warning in caught] == told
    return monitor.findings


def train(criterion: WeightedLoss, values: Values, count: int) -> None:
    for _ in range(count):
        found = values(criterion.current_step)
        criterion({name: leaf(value) for name, value in found.items()})
        criterion.step()


def kinds(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.term, finding.trouble) for finding in findings]


def pasted(message: str) -> dict[str, Any]:
    """The lines of a config in a message, each one that a config may have."""
    found = {}
    for line in re.findall(r"\b\w+: (?:\{.*?\}|[\w.+-]*\w)", message.split(". ", 1)[1]):
        ((key, value),) = yaml.safe_load(line).items()
        whole: dict[str, Any] = {"terms": {"a": 1.0, "b": 1.0}, "total_steps": 100}
        if key in Term.model_fields:
            whole["terms"]["a"] = {key: value}
        else:
            whole[key] = value
        LossConfig.read(whole)
        found[key] = value
    return found


# Troubles


def vanishing(step: int) -> dict[str, float]:
    return {"a": 20.0 + 8.0 * 0.99**step, "b": 0.1 if step < 2 else 0.01}


def test_a_term_that_falls_at_once_and_never_counts_has_collapsed() -> None:
    (found,) = follow(["a", "b"], vanishing)
    assert (found.term, found.trouble, found.step) == ("b", "collapse", 19)
    assert "collapsed to 0.01, 0.04% of the loss: it fell from 0.1 at step 0" in found.message
    assert pasted(found.message).keys() == {"schedule", "controller"}


@pytest.mark.parametrize(
    "values",
    [
        lambda step: {"a": 20.0, "b": 0.1},  # it never fell: its unit is small
        lambda step: {"a": 20.0, "b": 0.1 if step < 2 else 0.06},
        lambda step: {"a": 20.0, "b": 0.1 if step < 2 else 0.01 + (step > 10)},  # it came back
        lambda step: {"a": 20.0 if step < 2 else 4.0, "b": 0.1 if step < 2 else 0.01},  # as all
        lambda step: {"a": 20.0, "b": 5.0 * 0.9**step},  # it is learned, at nobody's cost
    ],
)
def test_a_small_term_has_not_collapsed_that_did_not_fall_at_once_and_alone(values: Any) -> None:
    assert not follow(["a", "b"], values)


def test_how_a_training_began_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lossweights.analysis.monitor._MOST_ROWS", 50)
    terms: Any = {"a": 1.0, "b": {"kind": "ramp", "start": 0.5, "stop": 1, "over": "350 steps"}}
    (found,) = follow(terms, vanishing)  # it settles after more rows than are kept
    assert (found.trouble, found.step > 250) == ("collapse", True)


def test_a_term_has_collapsed_that_the_others_pay_for() -> None:
    def values(step: int) -> dict[str, float]:
        return {"a": 15.0 + min(step / 100, 2.0), "b": 5.0 * 0.97**step + 0.1}

    (found,) = follow(["a", "b"], values)
    assert (found.term, found.trouble) == ("b", "collapse")
    assert re.search(
        r"it fell from 4\.\d+ at step 4, while the other terms went to 1\d\d% of", found.message
    )


def test_a_term_has_collapsed_that_stays_below_its_floor() -> None:
    def values(step: int) -> dict[str, float]:
        return {"a": 20.0, "b": 5.0 * 0.97**step}

    assert not follow(["a", "b"], values)
    (found,) = follow(["a", "b"], values, floors={"b": 0.1})
    assert (found.term, found.trouble) == ("b", "collapse")
    assert "below its floor of 0.1 since step" in found.message
    first_below = math.ceil(math.log(0.02) / math.log(0.97))
    assert first_below + 15 <= found.step < first_below + 30  # four medians of five rows
    assert not follow(["a", "b"], lambda _: {"a": 1.0, "b": 0.5}, floors={"b": 0.1})


@pytest.mark.parametrize("total_steps", [100, None])
@pytest.mark.parametrize(
    "term", [1.0, {"kind": "warmup", "over": "5 steps"}, {"kind": "lagrangian", "at_most": 9.0}]
)
def test_what_is_proposed_against_a_collapse_can_be_written(term: Any, total_steps: Any) -> None:
    written = WeightedLoss({"a": 1.0, "b": term}, total_steps=total_steps)
    monitor = Monitor(written, "1 steps", floors={"b": 0.1})
    with pytest.warns(UserWarning, match="'b' has collapsed"):
        train(written, lambda _: {"a": 20.0, "b": 0.05}, 60)
    (found,) = monitor.findings
    proposed = pasted(found.message)
    assert proposed.keys() == {"controller"} | ({"schedule"} if total_steps else set())
    for key, value in proposed.items():
        WeightedLoss({"a": 1.0, "b": {key: value}}, total_steps=total_steps)(
            {"a": leaf(1.0), "b": leaf(1.0)}
        )
    others = {"schedule", "controller"} & written.config.terms["b"].model_fields_set
    for key in others:  # a term has one of both
        assert f"in place of its {key}" in found.message
    assert ("in place" in found.message) == bool(others)


def test_an_estimate_of_a_kl_that_vanishes_may_lie_below_0_a_little() -> None:
    values: Values = lambda step: {"a": 20.0, "b": 0.2 if step < 2 else 0.02 * (-1) ** step}
    assert kinds(follow(["a", "b"], values)) == [("b", "collapse")]


def test_figures_have_their_sign() -> None:
    (found,) = follow(["a", "b"], lambda step: {"a": 20.0, "b": -0.1 if step < 2 else -0.01})
    assert "collapsed to -0.01" in found.message
    assert "it fell from -0.1 at step 0" in found.message


def test_members_of_groups_are_judged_and_groups_are_not() -> None:
    terms = {"a": 1.0, "deep": {"weight": 0.5, "terms": {"b": 2.0, "in": {"terms": ["c"]}}}}

    def values(step: int) -> dict[str, float]:
        return {"a": 20.0, "deep/b": vanishing(step)["b"], "deep/in/c": 3.0}

    (found,) = follow(terms, values)
    assert (found.term, found.trouble) == ("deep/b", "collapse")
    own = "declare it as a term of its own, with controller: {kind: pid, target: 3.0}"
    assert (
        f"write schedule: {{kind: cyclical, cycles: 4}} at terms.deep/b, or {own}" in found.message
    )
    (found,) = follow(terms, values, config={"total_steps": None})
    assert f"as the KL of a VAE does, {own}" in found.message
    proposed = {"deep": {"terms": {"b": {"schedule": {"kind": "cyclical", "cycles": 4}}}}}
    LossConfig.read({"terms": {**proposed, "own": pasted(found.message)}, "total_steps": 9})
    assert not follow(terms, lambda step: {**values(step), "deep/b": 3.0})
    (found,) = follow(terms, values, floors={"deep/in/c": 4.0, "deep/b": 0.0})
    assert found.term == "deep/in/c"

    def nonfinite(step: int) -> dict[str, float]:
        return {"a": 20.0, "deep/b": 3.0, "deep/in/c": math.nan if step >= 30 else 3.0}

    assert kinds(follow(terms, nonfinite)) == [("deep/in/c", "non-finite")]
    with pytest.raises(
        ValueError, match="'deep' is a group, .* give floors of 'deep/b', 'deep/in'"
    ):
        follow(terms, values, floors={"deep": 1.0})
    with pytest.raises(ValueError, match="no term is called 'deep/x'"):
        follow(terms, values, floors={"deep/x": 1.0})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_term_that_is_not_finite_is_found_at_once(bad: float) -> None:
    values: Values = lambda step: {"a": 1.0, "b": bad if step >= 30 else 1.0}
    (found,) = follow(["a", "b"], values)
    assert (found.term, found.trouble, found.step) == ("b", "non-finite", 34)
    assert "nan or inf in 5 of the rows from step 30 to 34" in found.message
    assert pasted(found.message).keys() == {"on_nonfinite"}


def test_the_penalty_of_a_learned_weight_is_no_part_of_a_term() -> None:
    rows = [
        {"step": step, "raw/a": 5.0, "raw/b": 5.0, "penalty/a": -4.95}
        | {"weighted/a": 0.05, "weighted/b": 5.0, "share/a": 0.5, "share/b": 0.5}
        for step in range(100)
    ]
    rows[0]["raw/a"] = 20.0
    assert diagnose(rows, LossConfig.read({"terms": ["a", "b"]})) == []


def test_it_is_said_once_and_each_trouble_of_a_term_by_itself() -> None:
    def values(step: int) -> dict[str, float]:
        return vanishing(step) if step < 200 else {"a": 20.0, "b": math.nan}

    assert kinds(follow(["a", "b"], values)) == [("b", "collapse"), ("b", "non-finite")]
    assert len(follow(["a", "b"], lambda _: {"a": math.nan, "b": math.nan})) == 2


# What is healthy


Noise = Callable[[], float]  # factors around 1


def learning(step: int, noise: Noise) -> dict[str, float]:
    """Losses that each go to a floor of their own, at their own rates."""
    ends = {"a": (0.9, 1e-3), "b": (0.96, 0.05), "c": (0.985, 0.7)}
    return {name: (rate**step + floor) * noise() for name, (rate, floor) in ends.items()}


def vae(step: int, weight: float) -> dict[str, float]:
    """One that takes up its code at first, and pays for it as the weight rises."""
    kl = 0.05 + 20 * (1 - 0.97**step) * (1 - 0.85 * weight)
    return {"nll": 22.0 - 0.8 * kl, "kl": kl}


HEALTHY: dict[str, tuple[Any, Callable[[int, Noise], Mapping[str, float]]]] = {
    "noise": (["a", "b"], lambda _, noise: {"a": noise() ** 5, "b": noise() ** 5}),
    "all converge, each to its floor": (["a", "b", "c"], learning),
    "all converge by orders": (
        ["a", "b"],
        lambda step, noise: {"a": 0.9**step * noise(), "b": 5 * 0.9**step * noise()},
    ),
    "an easy task beside one that is noise": (
        ["a", "b"],
        lambda step, noise: {"a": (1e-3 + 0.97**step) * noise(), "b": (1 + 0.9**step) * noise()},
    ),
    "tiny base weights": (
        {"a": 1.0, "l2": 1e-4, "aux": 1e-2},
        lambda step, noise: {"a": 1 + noise(), "l2": 9.0 + step / 50, "aux": 0.95**step},
    ),
    "a smaller weight that a term of its size has": (
        {"a": 1.0, "b": 0.1},
        lambda step, _: {"a": 8.0, "b": 9.0 if step < 2 else 1.5},
    ),
    "a term that is dormant": (
        {"a": 1.0, "b": {"after": "40%"}},
        lambda step, noise: {"a": 1 + noise(), "b": 20.0 if step < 160 else 0.3 * noise()},
    ),
    "a warm-up": (
        {"nll": 1.0, "kl": {"kind": "warmup", "over": "80%"}},
        lambda step, _: vae(step, min(step / 320, 1)),
    ),
    "a small constant weight": ({"nll": 1.0, "kl": 0.1}, lambda step, _: vae(step, 0.1)),
    "cycles, in which a KL vanishes and comes back": (
        {"nll": 1.0, "kl": {"kind": "cyclical", "cycles": 4}},
        lambda step, _: {"nll": 18.0, "kl": 0.05 + (step > 300) + 9 * 0.9 ** (step % 100)},
    ),
    "an optional term": (
        {"a": 1.0, "b": {"optional": True}},
        lambda _, noise: {"a": noise()} | ({"b": noise()} if noise() > 1.2 else {}),
    ),
    "single values that are broken or large": (
        ["a", "b"],
        lambda step, noise: {
            "a": noise() if step % 7 else 1e6,
            "b": noise() if step % 11 else math.nan,
        },
    ),
    "a penalty that is not needed any more": (
        ["a", "b"],
        lambda step, noise: {"a": 1 + noise(), "b": max(0.0, 2 - step / 20)},
    ),
    "a likelihood that goes below 0": (
        ["nll", "b"],
        lambda step, noise: {"nll": 5 * 0.98**step - 3 + noise(), "b": noise()},
    ),
    "a KL that comes and goes before it is taken up": (
        ["nll", "kl"],
        lambda step, noise: {
            "nll": (80 + 600 * 0.98**step) * noise() ** 0.2,
            "kl": 14 / (1 + math.exp((60 - step) / 10)) + 10 * (step in range(2, 9)) + 0.02,
        },
    ),
    "an easy task that slows down on its way": (
        ["a", "b"],
        lambda step, _: {"a": 2 * 0.9 ** min(step, 15 + step / 8), "b": 12 + 2 * 0.98**step},
    ),
    "both fall at once": (
        ["a", "b"],
        lambda step, noise: {"a": 0.1 if step < 2 else 0.01, "b": 10 if step < 2 else noise()},
    ),
    "a balancer that looks at the largest": (
        {"a": 1.0, "b": 1.0},
        lambda _, noise: {"a": 5 + noise(), "b": 2.0},
    ),
    "a capacity that rises": (
        {"nll": 1.0, "kl": CAPACITY},
        lambda step, noise: {"nll": 20 * noise(), "kl": 0.1 + step / 200 + 5 * 0.5**step},
    ),
    "a policy, whose loss lies around 0": (
        {"policy": 1.0, "value": 0.5, "entropy": -0.01},
        lambda step, noise: {
            "policy": 0.05 * math.log(noise()),
            "value": (50 * 0.98**step + 1) * noise(),
            "entropy": 1.5 * 0.997**step,
        },
    ),
    "a reward that is learned": (
        {"policy": 1.0, "reward": -1.0},
        lambda step, noise: {
            "policy": 0.05 * math.log(noise()),
            "reward": min(0.01 + max(step - 200, 0) / 20, 5.0) * noise(),
        },
    ),
    "a controller at its target": (
        {"nll": 1.0, "kl": PID},
        lambda step, noise: {"nll": 15 * noise(), "kl": (3 + 10 * 0.95**step) * noise()},
    ),
    "a bound that is kept": (
        {"nll": 1.0, "kl": {"kind": "lagrangian", "at_most": 3.0}},
        lambda step, noise: {"nll": 15 * noise(), "kl": (0.1 + 10 * 0.95**step) * noise()},
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("training", HEALTHY)
def test_nothing_is_found_in_a_healthy_training(training: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    terms, values = HEALTHY[training]

    def noise() -> float:
        return math.exp(0.2 * generator.standard_normal())

    config = {"balancer": "stch"} if "balancer" in training else {}
    assert follow(terms, lambda step: values(step, noise), config=config) == []


@pytest.mark.parametrize("balancer", ["uncertainty", "moving-average"])
def test_terms_that_a_balancer_weighs_count_as_it_sees_fit(balancer: str) -> None:
    assert follow(["a", "b"], vanishing, config={"balancer": balancer}) == []


def test_each_of_many_terms_is_a_small_part_and_none_has_collapsed() -> None:
    names = [f"t{index}" for index in range(60)]
    generator = np.random.default_rng(0)
    rows = []
    for step in range(80):
        sizes = (0.4 + 0.6 * 0.8**step) * np.exp(0.2 * generator.standard_normal(60))
        named = dict(zip(names, sizes, strict=True))
        rows.append(
            {"step": step}
            | {f"raw/{name}": size for name, size in named.items()}
            | {f"weighted/{name}": size for name, size in named.items()}
            | {f"share/{name}": size / sizes.sum() for name, size in named.items()}
        )
    assert diagnose(rows, LossConfig.read({"terms": names})) == []


def test_a_weight_that_still_moves_is_waited_for() -> None:
    terms = {"a": 1.0, "b": {"kind": "cyclical", "cycles": 4}}  # at 1 from step 350 on
    (found,) = follow(terms, lambda _: {"a": 20.0, "b": 0.05}, floors={"b": 0.1})
    assert (found.term, found.trouble) == ("b", "collapse")
    assert found.step in range(350, 375)


number = st.one_of(st.floats(), st.sampled_from([0.0, 1.0, -1.0, 1e308, 5e-324, math.inf]))


@given(
    rows=st.lists(st.dictionaries(st.sampled_from("abc"), number), min_size=6, max_size=40),
    kind=st.sampled_from([None, "uncertainty", "mgda"]),
)
def test_no_values_make_it_fail(rows: Any, kind: str | None) -> None:
    terms: Any = {"a": 1.0, "b": {"kind": "lagrangian", "at_most": 1.0}, "c": {"optional": True}}
    config = LossConfig.read({"terms": terms, "balancer": kind})
    table: Any = [
        {"step": step, "raw/a": 1.0, "weighted/a": 1.0, "share/a": 1.0}
        | {f"raw/{name}": value for name, value in row.items()}
        | {f"weighted/{name}": value * (step % 3) for name, value in row.items()}
        | {f"share/{name}": value / 3 for name, value in row.items()}
        for step, row in enumerate(rows)
    ]
    found = diagnose(table, config, floors={"c": 0.5})  # nor does numpy warn
    assert {finding.trouble for finding in found} <= {"collapse", "non-finite"}


def test_what_rows_lack_is_refused() -> None:
    config = LossConfig.read({"terms": ["a"]})
    row = {"step": 1, "raw/a": 1.0, "weighted/a": 1.0, "share/a": 1.0}
    assert diagnose([row], config) == diagnose([], config) == []
    for lacking in row:
        rest = {key: value for key, value in row.items() if key != lacking}
        with pytest.raises(ValueError, match=r"rows need step, raw/<term>.* found \['"):
            diagnose([rest], config)
    with pytest.raises(ValueError, match="floors: no term is called 'aa'; did you mean 'a'"):
        diagnose([row], config, floors={"aa": 0.1})


def test_rows_tell_what_following_does() -> None:
    criterion = WeightedLoss(["a", "b"])
    history = History(criterion, "1 steps")
    train(criterion, vanishing, 20)
    found = diagnose(history.rows, criterion.config, Horizon(STEPS, 10))
    assert found == follow(["a", "b"], vanishing, 100)


def test_the_length_of_training_is_that_of_the_config_or_the_one_given() -> None:
    terms = {"a": 1.0, "b": {"kind": "warmup", "over": "50%"}}
    rows = [
        {"step": step, "raw/a": 20.0, "raw/b": 0.1 if step < 2 else 0.01}
        | {"weighted/a": 20.0, "weighted/b": 0.01, "share/a": 1.0, "share/b": 0.0}
        for step in range(40)
    ]
    config = LossConfig.read({"terms": terms})
    with pytest.raises(HorizonError, match="total_steps"):
        diagnose(rows, config)
    assert kinds(diagnose(rows, config, Horizon(20))) == [("b", "collapse")]
    assert kinds(diagnose(rows, config, Horizon(400))) == []
    assert kinds(diagnose(rows, config.override({"total_steps": 20}))) == [("b", "collapse")]


# Conflicts


def opposed(cosines: list[float], config: Any = ("a", "b"), gap: int = 1) -> list[Finding]:
    """What rows find that have these cosines, with `gap` rows from one to the next."""
    rows: list[dict[str, float]] = []
    for index, cosine in enumerate(cosines):
        for each in range(gap):
            row = {"step": 10.0 * (index * gap + each)}
            for name in "ab":
                row |= {f"raw/{name}": 1.0, f"weighted/{name}": 1.0, f"share/{name}": 0.5}
            rows.append(row | ({"gradient/cosine/a/b": cosine} if each == 0 else {}))
    whole = config if isinstance(config, dict) else {"terms": list(config)}
    return diagnose(rows, LossConfig.read(whole))


@pytest.mark.parametrize("gap", [1, 4])
def test_gradients_that_oppose_each_other_for_long_are_a_conflict(gap: int) -> None:
    (found,) = opposed([-0.4] * 20, gap=gap)
    assert (found.term, found.trouble, found.step) == ("a and b", "conflict", 190 * gap)
    assert "from step 0 to" in found.message
    assert "is -0.40" in found.message
    assert pasted(found.message) == {"balancer": "upgrad"} or "balancer" in pasted(found.message)


@pytest.mark.parametrize(
    "cosines",
    [
        [-0.4] * 19,  # too few
        [-0.4] * 15 + [0.4] * 5,  # over by now
        [0.4] * 5 + [-0.4] * 15,  # not for long enough
        [-0.4, 0.4] * 10,
        [-0.4, -0.4, 0.4, -0.4, 0.4] * 4,  # in three of five
        [-0.02] * 20,  # nearly orthogonal
        [0.5] * 20,
    ],
)
def test_what_may_be_chance_is_no_conflict(cosines: list[float]) -> None:
    assert opposed(cosines) == []


def test_chance_is_hardly_ever_a_conflict() -> None:
    """Directions in a plane, where cosines are largest."""
    angles = np.random.default_rng(0).uniform(0, 2 * math.pi, (400, 20))
    assert sum(bool(opposed(list(row))) for row in np.cos(angles)) <= 2


def test_a_conflict_that_the_balancer_resolves_is_none() -> None:
    by = {"terms": ["a", "b"]}
    assert opposed([-0.4] * 20, by | {"balancer": "pcgrad"}) == []
    assert opposed([-0.4] * 20, by | {"balancer": "norm-balance"}) != []
    apart = {"terms": {"a": 1.0, "b": {"balanced": False}, "c": 1.0}, "balancer": "pcgrad"}
    assert opposed([-0.4] * 20, apart) != []


def test_a_monitor_measures_gradients_and_finds_the_conflict() -> None:
    criterion = WeightedLoss(["a", "b"], total_steps=100)
    monitor = Monitor(criterion, "1 steps", gradients="2 steps")
    with warnings.catch_warnings(record=True, action="always") as caught:
        for _ in range(60):
            x = leaf(1.0)
            criterion({"a": x * 1.0 + 5, "b": 5 - x * 0.5}, shared=x).backward()
            criterion.step()
    assert kinds(monitor.findings) == [("a and b", "conflict")]
    assert len(caught) == 1
