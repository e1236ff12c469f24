"""The configs that are compared, by family: values of `terms.kl`."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from lossweights import Front, LossConfig
from lossweights.search import Outcome
from pronunciation_vae.model import CODE_SIZE

NATS = (2.0, 4.5, 1.0, 3.0, 0.4)  # of the families that have a target

# The model returns the KL of each word and dimension, which free bits need.
_KL = {"reduction": "batch_mean"}
CONFIG = LossConfig.read({"terms": {"reconstruction": 1.0, "kl": _KL}})  # the ELBO


def _constant(weight: float) -> dict[str, Any]:
    return {**_KL, "weight": weight}


def _ramp(over: int) -> dict[str, Any]:
    """From 0 to 1 over `over` percent of the training."""
    return {**_KL, "schedule": {"kind": "warmup", "over": f"{over}%"}}


def _cyclical(cycles: int, ratio: float) -> dict[str, Any]:
    """`cycles` times from 0 to 1, over the part `ratio` of a cycle."""
    return {**_KL, "schedule": {"kind": "cyclical", "cycles": cycles, "ratio": ratio}}


def _pid(nats: float) -> dict[str, Any]:
    return {**_KL, "controller": {"kind": "pid", "target": nats, "response": "5%"}}


def _free_bits(nats: float) -> dict[str, Any]:
    """Each dimension of the code has an equal share of the nats."""
    return {**_KL, "transform": {"kind": "free-bits", "threshold": nats / CODE_SIZE}}


def _capacity(nats: float) -> dict[str, Any]:
    """The capacity grows over three quarters of the training, then stays constant."""
    grows = {"kind": "ramp", "start": 0.0, "stop": nats, "over": "75%"}
    return {**_KL, "transform": {"kind": "capacity", "capacity": grows}}


# The sweep takes the first config of each family, then the second of each, and so on. In this order
# an incomplete sweep has low and high KLs of all families.
FAMILIES: Mapping[str, list[dict[str, Any]]] = {
    "constant": [_constant(weight) for weight in (0.7, 0.8, 0.6, 0.75, 0.65, 0.5, 1.0)],
    "ramp": [_ramp(over) for over in (65, 100, 50, 80, 30)],
    "cyclical": [
        _cyclical(*each) for each in ((2, 0.7), (8, 0.9), (8, 0.5), (8, 0.7), (2, 0.9), (2, 0.5))
    ],
    "pid": [_pid(nats) for nats in NATS],
    "free-bits": [_free_bits(nats) for nats in NATS],
    "capacity": [_capacity(nats) for nats in NATS],
}


def choices(families: Iterable[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The configs, one of each family in turn."""
    rounds = zip_longest(*families)
    return [choice for each in rounds for choice in each if choice is not None]


def family_of(config: LossConfig) -> str:
    """The family of a config of the sweep."""
    return _FAMILY_OF[_key(config)]


def families_of(front: Front) -> dict[str, list[Outcome]]:
    """The completed configs, by family."""
    found: dict[str, list[Outcome]] = {}
    for outcome in front.done:
        found.setdefault(family_of(front.config(outcome.number)), []).append(outcome)
    return {family: found[family] for family in FAMILIES if family in found}


def _key(config: LossConfig) -> str:
    return config.terms["kl"].model_dump_json()


_FAMILY_OF = {
    _key(CONFIG.override({"kl": choice})): family
    for family, choices in FAMILIES.items()
    for choice in choices
}
