"""What a checkpoint holds: the step, and the names by which it is known to be of these terms."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

KEYS = ("step", "term_names")


def written(names: Collection[str], step: int | None) -> dict[str, Tensor]:
    """The state as tensors, which every way of saving takes; without a step for a shared clock."""
    state = {"term_names": encoded(sorted(names))}
    if step is not None:
        state["step"] = torch.tensor(step)
    return state


def encoded(names: Sequence[str]) -> Tensor:
    """Names as a tensor of bytes."""
    return torch.tensor(list(json.dumps(names).encode()), dtype=torch.uint8)


def decoded(names: Tensor) -> list[str]:
    """The names again.

    Raises:
        ValueError: For bytes that hold none.
    """
    return list(json.loads(bytes(names.tolist())))


class Trail:
    """Where the keys of a state lead to that are no parameters.

    `torch.distributed.checkpoint.state_dict` follows every key of a model's state as attributes.
    """

    def __getattr__(self, name: str) -> Trail:
        if name.startswith("__") or name == "_fqn_modifiers":  # asked of any object, no keys
            raise AttributeError(name)
        return self


def read_step(found: Mapping[str, Any], error_msgs: list[str]) -> int | None:
    """The step of a state; None where there is none, or one that cannot be."""
    if "step" not in found:
        return None
    step = int(found["step"])
    if step < 0:
        error_msgs.append(f"step is at least 0, found {step}")
        return None
    return step


def compare_names(
    found: Mapping[str, Any],
    names: Collection[str],
    prefix: str,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Names the terms that only the checkpoint or only the criterion has.

    As keys, so that strict=False goes on without them: torch tells no module which it is.
    """
    if "term_names" not in found:
        return
    try:
        saved = set(decoded(found["term_names"]))
    except ValueError:
        error_msgs.append("term_names holds no names of terms: the checkpoint is damaged")
        return
    missing_keys += [
        f"{prefix}terms.{name} (not a term of this checkpoint; strict=False goes on)"
        for name in sorted(set(names) - saved)
    ]
    unexpected_keys += [
        f"{prefix}terms.{name} (not a term of this criterion; strict=False goes on)"
        for name in sorted(saved - set(names))
    ]


def by_name(
    ours: Tensor,
    names: Sequence[str],
    saved: Tensor,
    saved_names: Sequence[str],
    *,
    pairs: bool = False,
) -> Tensor:
    """What a checkpoint has for the terms that are still there, and ours for the others.

    Args:
        ours: With the terms on the last axis, or where it says `pairs` on the last two.
        names: The terms here.
        saved: The same of the checkpoint.
        saved_names: The terms there.
        pairs: Whether there is an entry for each pair of terms.
    """
    there = [name for name in names if name in saved_names]
    here = [names.index(name) for name in there]
    then = [saved_names.index(name) for name in there]
    mapped = ours.detach().clone()
    if pairs:
        for row, old in zip(here, then, strict=True):
            mapped[..., row, here] = saved[..., old, then].to(mapped)
    elif saved.ndim == 0 or ours.ndim == 0 or saved.shape[:-1] != ours.shape[:-1]:
        return saved
    else:
        mapped[..., here] = saved[..., then].to(mapped)
    return mapped
