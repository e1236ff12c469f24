"""Every tensor that changes in training: declared, moved, saved and loaded as one.

They are plain tensors and not buffers, which DistributedDataParallel would overwrite from the first
rank. Learned tensors are parameters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from lossweights.components.context import State
from lossweights.criterion.distributed import ProcessGroup
from lossweights.errors import warn


class _StateKey:
    """Attribute stand-in for state keys that are not parameters.

    `torch.distributed.checkpoint.state_dict` follows every key of a model's state as attributes.
    """

    def __getattr__(self, name: str) -> _StateKey:
        if name.startswith("__") or name == "_fqn_modifiers":  # asked of any object
            raise AttributeError(name)
        return self


class AdaptiveState(nn.Module):
    """Tables of tensors, by group and key, in one module.

    Args:
        names: The balanced terms, sorted: the last axis of tensors that have terms.
        channels: Names of the entries of the table `observed`.
        group: The processes over which gradients of learned tensors are averaged.

    Attributes:
        device: The device of all tensors.
    """

    # First parts of the keys in a checkpoint; no attribute of an instance has such a name.
    terms = balancer = gradients = observed = last_observed = _StateKey()
    balanced_names = channel_names = _StateKey()

    def __init__(self, names: Sequence[str], channels: Sequence[str], group: ProcessGroup) -> None:
        super().__init__()
        self.device = torch.device("cpu")
        self._names, self._channels = tuple(names), tuple(channels)
        self._group = group
        self._tables: dict[str, State] = {}
        self._pairs: set[str] = set()

    def declare(self, group: str, table: State, pairs: Collection[str] = ()) -> None:
        """Registers a table.

        Args:
            group: The first part of its keys in a checkpoint.
            table: Its tensors. Parameters are moved out of it: they become those of this module,
                under their own names. The others are replaced in it when they move to another
                device.
            pairs: Keys of tensors with an entry for each pair of terms.
        """
        for key in [key for key, tensor in table.items() if isinstance(tensor, nn.Parameter)]:
            self.register_parameter(key, table.pop(key))  # type: ignore[arg-type]
        self._tables[group] = table
        self._pairs |= {f"{group}.{key}" for key in pairs}

    def average_gradients(self) -> None:
        """Averages the gradients of learned tensors over the ranks from now on."""
        self._group.average_gradients(list(self.parameters()))

    @property
    def is_learned(self) -> bool:
        """Whether any tensor is learned."""
        return bool(self._parameters)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        if hasattr(param, "device_mesh"):
            self._refuse_shards(name)
        super().register_parameter(name, param)

    def __setattr__(self, name: str, value: Any) -> None:
        # Does nothing new; but FSDP2 bypasses `register_parameter` unless a class has its own.
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._parameters:  # FSDP1 begins by deleting it
            self._refuse_shards(name)
        super().__delattr__(name)

    def _refuse_shards(self, name: str) -> None:
        raise RuntimeError(
            f"the learned weights of a criterion ({name}) cannot be sharded, each rank needs them "
            "whole: write fully_shard(model, ignored_params=set(criterion.parameters())), or "
            "FullyShardedDataParallel(model, ignored_states=list(criterion.parameters())); the "
            "criterion averages their gradients itself"
        )

    # Devices

    @torch.inference_mode(mode=False)  # training could not use tensors made in it
    def move(self, device: torch.device) -> None:
        """Moves all tensors but the parameters.

        Raises:
            RuntimeError: If a parameter is on another device.
        """
        for key, parameter in self.named_parameters():
            if parameter.device != device:
                raise RuntimeError(
                    f"the learned weights of the balancer ({key}) are on {parameter.device}, the "
                    f"losses on {device}: call criterion.to({str(device)!r}) before training"
                )
        if device == self.device:
            return  # keeps every address: a captured CUDA graph reads from it
        for table in self._tables.values():
            for key, tensor in table.items():
                table[key] = tensor.to(device)
        self.device = device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def moved(tensor: Tensor) -> Tensor:
            # Only moved: neither rounded by `.half()`, which is for the model, nor emptied by
            # `to_empty`.
            return tensor.to(fn(tensor).device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        self.move(fn(torch.empty(0, device=self.device)).device)
        return self

    # Checkpoints

    def _saved(self) -> State:
        """Every tensor that is not a parameter, by its key; none if no component has state."""
        found = {
            f"{group}.{key}": tensor
            for group, table in self._tables.items()
            for key, tensor in table.items()
        }
        components = [
            key for key in found if not key.startswith(("observed.totals", "last_observed."))
        ]
        return found if components or self._parameters else {}

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for key in self._parameters:
            if not keep_vars:
                destination[f"{prefix}{key}"] = destination[f"{prefix}{key}"].clone()
        if saved := self._saved():
            for key, tensor in saved.items():
                destination[f"{prefix}{key}"] = tensor.clone()
            destination[f"{prefix}balanced_names"] = encoded(self._names)
            destination[f"{prefix}channel_names"] = encoded(self._channels)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        ours = [*self._saved()]
        ours += ["balanced_names", "channel_names"] if ours else []
        found = {key: state_dict[prefix + key] for key in ours if prefix + key in state_dict}
        others = {k: v for k, v in state_dict.items() if k.removeprefix(prefix) not in found}
        missing_keys += [prefix + key for key in ours if key not in found]
        try:
            names = decoded(found.pop("balanced_names", encoded(self._names)))
            channels = decoded(found.pop("channel_names", encoded(self._channels)))
        except ValueError:
            error_msgs.append(f"{prefix}balanced_names or channel_names: the checkpoint is damaged")
            return
        if channels != self._channels:
            found = {key: t for key, t in found.items() if not key.startswith("observed.")}
            if "observed" in self._tables:
                self._tables["observed"]["totals"].zero_()
        if names != self._names:
            self._map_parameters(others, prefix, names)
        learned = dict(self.named_parameters())
        for key, parameter in learned.items():
            value = others.get(prefix + key)
            if isinstance(value, Tensor) and not value.isfinite().all():
                error_msgs.append(f"{prefix}{key} is not finite in the checkpoint: {value}")
                others[prefix + key] = parameter.detach()
        super()._load_from_state_dict(
            others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if any(new is not learned[key] for key, new in self.named_parameters()):
            self.average_gradients()  # assign=True brings new ones
        error_msgs += [f"{prefix}{problem}" for problem in self._fill(found, names)]

    def _map_parameters(self, found: dict[str, Any], prefix: str, names: Sequence[str]) -> None:
        """Maps learned tensors of a checkpoint with other terms by name."""
        for key, parameter in self.named_parameters():
            if prefix + key in found:
                found[prefix + key] = by_name(parameter, self._names, found[prefix + key], names)
                warn(
                    f"{key} is learned for other terms than in the checkpoint: it was mapped by "
                    "name, but its optimizer state cannot be mapped: do not load it"
                )

    def _fill(self, found: Mapping[str, Tensor], names: Sequence[str]) -> Iterator[str]:
        """Copies the tensors of a checkpoint, and yields what does not fit."""
        for key, tensor in self._saved().items():
            if key not in found:
                continue
            value = found[key]
            if _holds_state(key) and not value.isfinite().all():
                yield f"{key} is not finite in the checkpoint: {value.tolist()}"
                continue
            if names != self._names and not key.startswith("observed."):
                value = by_name(tensor, self._names, value, names, pairs=key in self._pairs)
            if value.shape == tensor.shape:
                with torch.no_grad():
                    tensor.copy_(value)
            else:
                yield (
                    f"{key} has shape {tuple(value.shape)} in the checkpoint and "
                    f"{tuple(tensor.shape)} here: the component is declared differently"
                )

    def __setstate__(self, kept: dict[str, Any]) -> None:
        super().__setstate__(kept)  # type: ignore[no-untyped-call]
        # The tensors may have been loaded to another device.
        tensors = [tensor for table in self._tables.values() for tensor in table.values()]
        tensors += self.parameters()
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self.average_gradients()  # hooks are not copied


def _holds_state(key: str) -> bool:
    """Whether a key belongs to state; sums since the last step may have a nan of a forward pass."""
    return key == "gradients.weights" or not key.startswith(("observed.", "gradients."))


def encoded(names: Sequence[str]) -> Tensor:
    """Names as a tensor of bytes, which every way of saving accepts."""
    return torch.tensor(list(json.dumps(list(names)).encode()), dtype=torch.uint8)


def decoded(names: Tensor) -> tuple[str, ...]:
    """The names again.

    Raises:
        ValueError: For bytes that are not a list of names.
    """
    return tuple(json.loads(bytes(names.tolist())))


def by_name(
    ours: Tensor,
    names: Sequence[str],
    saved: Tensor,
    saved_names: Sequence[str],
    *,
    pairs: bool = False,
) -> Tensor:
    """The entries of a checkpoint for terms that still exist, and ours for the others.

    Args:
        ours: With the terms on the last axis, or with `pairs` on the last two.
        names: The terms here.
        saved: The same of the checkpoint.
        saved_names: The terms there.
        pairs: Whether there is an entry for each pair of terms.
    """
    if not pairs and (saved.ndim == 0 or ours.ndim == 0 or saved.shape[:-1] != ours.shape[:-1]):
        return saved
    common = [name for name in names if name in saved_names]
    here = [names.index(name) for name in common]
    there = [saved_names.index(name) for name in common]
    mapped = ours.detach().clone()
    if pairs:
        for row, old in zip(here, there, strict=True):
            mapped[..., row, here] = saved[..., old, there].to(mapped)
    else:
        mapped[..., here] = saved[..., there].to(mapped)
    return mapped
