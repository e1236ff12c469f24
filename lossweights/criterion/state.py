"""Every tensor that changes in training: declared, moved, saved and loaded as one.

They are plain tensors and not buffers, which DistributedDataParallel would overwrite from the first
rank. Learned tensors are parameters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from lossweights.components.context import State
from lossweights.criterion.distributed import ProcessGroup
from lossweights.criterion.torch_internals import loads_strictly
from lossweights.errors import ConfigError, warn

NOT_STRICT = "strict=False, in Lightning with self.strict_loading = False in the module"
_LONGEST_NAMES = 2**20  # bytes, which is more than any real config has
# In keys, torch.distributed.checkpoint and FSDP cut these out, refuse or misread them.
_RESERVED = (
    ".__class__.",
    "._extra_state.",
    "_flat_param",
    "_checkpoint_wrapped_module.",
    "_fsdp_wrapped_module.",
)


class _StateKey:
    """Attribute stand-in for state keys that are not parameters.

    `torch.distributed.checkpoint.state_dict` follows every key of a model's state as attributes. A
    part of a key may be called like an attribute of any object, and like `_fqn_modifiers`, which
    torch calls.
    """

    def __getattribute__(self, name: str) -> Any:
        return _StateKey if name == "__class__" else self

    def __call__(self) -> dict[str, str]:
        return {}


class Checked(NamedTuple):
    """What a checkpoint has for some tensors.

    Args:
        values: By key, in the dtype and for the terms of the tensors here.
        names: The balanced terms of the checkpoint.
        missing: Keys that it lacks.
        unexpected: Keys that are not known here.
        problems: What is damaged, beginning with the key.
    """

    values: State
    names: tuple[str, ...]
    missing: list[str]
    unexpected: list[str]
    problems: list[str]

    def is_refused(self, *, strict: bool) -> bool:
        """Whether nothing of it is loaded."""
        return bool(self.problems or (strict and (self.missing or self.unexpected)))

    def differences(self) -> str:
        """How the components differ from those of the checkpoint; empty if they do not."""
        sides = []
        for keys, where in ((self.missing, "checkpoint"), (self.unexpected, "criterion")):
            parts = {key.rpartition(".")[0] or key for key in keys}
            parts -= {"observed", "last_observed", "gradients", "balanced_names", "channel_names"}
            if parts:
                sides.append(f"this {where} has no {', '.join(sorted(parts))}")
        return " and ".join(sides)


class AdaptiveState(nn.Module):
    """Tables of tensors, by group and key, in one module.

    Args:
        names: The balanced terms, sorted: the last axis of tensors that have terms.
        channels: Names of the entries of the table `observed`.
        group: The processes over which gradients of learned tensors are averaged.

    Attributes:
        device: The device of all tensors.
        is_mapped: Whether the learned tensors were last loaded from a checkpoint with other terms.
        skips_load: Whether the next load changes nothing, since more than this module is refused.
        checked: What the criterion read for the next load; None to read it then.
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
        self._never_negative: set[str] = set()
        self.is_mapped = self.skips_load = False
        self.checked: Checked | None = None

    def declare(
        self,
        group: str,
        table: State,
        pairs: Collection[str] = (),
        never_negative: Collection[str] = (),
    ) -> None:
        """Registers a table.

        Args:
            group: The first part of its keys in a checkpoint.
            table: Its tensors. Parameters are moved out of it: they become those of this module,
                under their own names. The others are replaced in it when they move to another
                device.
            pairs: Keys of tensors with an entry for each pair of terms.
            never_negative: Keys of tensors that are never below 0.

        Raises:
            ConfigError: For a name that torch cuts out of keys.
        """
        for key in table:
            for reserved in _RESERVED:
                if reserved in f"{group}.{key}.":
                    raise ConfigError(
                        f"{group}: a name cannot contain {reserved.strip('.')!r}, which torch "
                        "cuts out of the keys of a checkpoint, or refuses: rename it"
                    )
        for key in [key for key, tensor in table.items() if isinstance(tensor, nn.Parameter)]:
            self.register_parameter(key, table.pop(key))  # type: ignore[arg-type]
        self._tables[group] = table
        self._pairs |= {f"{group}.{key}" for key in pairs}
        self._never_negative |= {f"{group}.{key}" for key in never_negative}

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

    def read(self, found: Mapping[str, Any]) -> Checked:
        """What a checkpoint has for these tensors; nothing is changed.

        Args:
            found: The entries of the checkpoint, by key.
        """
        tensors = {**self._saved(), **dict(self.named_parameters())}
        lists = {"balanced_names": self._names, "channel_names": self._channels} if tensors else {}
        missing = [key for key in [*tensors, *lists] if key not in found]
        unexpected = [key for key in found if key not in tensors and key not in lists]
        values: State = {}
        problems = []
        for key in lists:
            if key in found:
                try:
                    lists[key] = decoded(found[key])
                except (ValueError, RuntimeError) as error:
                    problems.append(f"{key} {error}")
        names = lists.get("balanced_names", self._names)
        for key, tensor in tensors.items():
            if key not in found or problems:
                continue
            if key.startswith("observed.") and lists["channel_names"] != self._channels:
                if key == "observed.totals":
                    values[key] = torch.zeros_like(tensor)
                continue
            try:
                values[key] = self._checked(key, tensor, found[key], names)
            except (ValueError, RuntimeError) as error:  # of torch, for an unusual tensor
                problems.append(f"{key} {error}")
        return Checked(values, names, missing, unexpected, problems)

    def _checked(self, key: str, ours: Tensor, value: Any, names: Sequence[str]) -> Tensor:
        """A tensor of a checkpoint with the terms `names`, for our terms.

        Raises:
            ValueError: Saying what is wrong with it.
        """
        shape, pairs = list(ours.shape), key in self._pairs
        is_mapped = names != self._names and bool(shape) and not key.startswith("observed.")
        if is_mapped:
            axes = 2 if pairs else 1
            shape[-axes:] = [len(names)] * axes
        saved = converted(value, shape, ours.dtype)
        why = _why_impossible(key, saved)
        if key in self._never_negative and bool((saved < 0).any()):
            why = "is negative"
        if why:
            raise ValueError(f"{why} in the checkpoint: {saved.tolist()}")
        if not is_mapped:
            return saved
        return by_name(ours, self._names, saved.to(ours.device), names, pairs=pairs)

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
        if self.skips_load:
            return
        checked = self.checked or self.read(entries(state_dict, prefix))
        self.checked = None
        missing_keys += [prefix + key for key in checked.missing]
        unexpected_keys += [prefix + key for key in checked.unexpected]
        error_msgs += [prefix + problem for problem in checked.problems]
        if checked.is_refused(strict=loads_strictly(default=strict)):
            return
        learned = dict(self.named_parameters())
        found = {prefix + key: checked.values[key] for key in learned if key in checked.values}
        missing: list[str] = []  # reported already
        super()._load_from_state_dict(
            found, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs
        )
        if any(new is not learned[key] for key, new in self.named_parameters()):
            self.average_gradients()  # assign=True brings new ones
        self.is_mapped = bool(found) and checked.names != self._names
        for key in learned if self.is_mapped else ():
            warn(
                f"{key} is learned for other terms than in the checkpoint: it was mapped by name, "
                "but the optimizer's moments cannot be mapped: after optimizer.load_state_dict("
                "...) call criterion.drop_stale_moments(optimizer)"
            )
        with torch.no_grad():
            for key, tensor in self._saved().items():
                if key in checked.values:
                    tensor.copy_(checked.values[key])

    @torch.inference_mode(mode=False)  # training could not use tensors made in it
    def __setstate__(self, kept: dict[str, Any]) -> None:
        super().__setstate__(kept)  # type: ignore[no-untyped-call]
        for group, table in self._tables.items():
            for key, tensor in table.items() if group != "observed" else ():  # observations do it
                # torch.multiprocessing shares the memory with the sender, which goes on by itself.
                table[key] = tensor.clone()
        # The tensors may have been loaded to another device.
        tensors = [tensor for table in self._tables.values() for tensor in table.values()]
        tensors += self.parameters()
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self.average_gradients()  # hooks are not copied


def entries(state_dict: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose keys begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}


def converted(value: Any, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A value of a checkpoint as a tensor of a shape and a dtype.

    Raises:
        ValueError: Unless it is one, up to a conversion that changes no value.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"must be a tensor, the checkpoint has a {type(value).__name__}")
    kind = f"{value.dtype} {value.device.type}"
    if value.layout is not torch.strided or value.is_nested or value.is_quantized or value.is_meta:
        raise ValueError(f"must be a dense tensor with values, the checkpoint has one of {kind}")
    if tuple(value.shape) != tuple(shape):
        raise ValueError(
            f"has shape {tuple(value.shape)} in the checkpoint and {tuple(shape)} here: the "
            "component is declared differently, or the checkpoint is damaged"
        )
    found: Tensor = value.detach()
    if found.dtype is dtype:
        return found
    may_be = _WHOLE if dtype in _WHOLE else (torch.float64,) if dtype is torch.float32 else ()
    exact = found.to(dtype) if found.dtype in may_be else None
    if exact is None or not torch.equal(exact.to(found.dtype).nan_to_num(), found.nan_to_num()):
        raise ValueError(
            f"is {value.dtype} in the checkpoint and {dtype} here, and a cast may have changed its "
            "values: save the criterion without casting its tensors"
        )
    return exact


_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _why_impossible(key: str, value: Tensor) -> str:
    """Why a tensor cannot have these values; empty if it can."""
    # The sums since the last step may have a nan of a forward pass, their counts cannot.
    sums = {"observed.totals", "last_observed.interval", "gradients.fresh"}
    if key in sums:
        counts = value[1]
        return "" if _are_counts(counts) else "has counts that are not whole numbers of at least 0"
    if key in {"gradients.computed", "last_observed.awaited"}:
        return "" if bool(((value == 0) | (value == 1)).all()) else "is not 0 or 1"
    if key in {"gradients.pairs", "gradients.calm", "gradients.overflows"}:
        return "" if _are_counts(value) else "has counts that are not whole numbers of at least 0"
    if key in {"gradients.scale", "observed.passes"}:
        return "" if bool((value > 0) & value.isfinite()) else "is not a number above 0"
    if key.startswith("gradients.") and key != "gradients.weights":
        is_negative = key != "gradients.gramian" and bool((value < 0).any())
        return "is negative" if is_negative else ""
    return "" if bool(value.isfinite().all()) else "is not finite"


def _are_counts(values: Tensor) -> bool:
    return bool(((values >= 0) & (values <= 2**31) & (values == values.round())).all())


def encoded(names: Sequence[str]) -> Tensor:
    """Names as a tensor of bytes, which every way of saving accepts."""
    return torch.tensor(list(json.dumps(list(names)).encode()), dtype=torch.uint8)


def decoded(names: Any) -> tuple[str, ...]:
    """The names again.

    Raises:
        ValueError: For anything but a list of different names.
    """
    length = names.numel() if isinstance(names, Tensor) and not names.is_nested else 0
    if length > _LONGEST_NAMES:
        raise ValueError(f"must be names, the checkpoint has {length} bytes: it is damaged")
    data = bytes(converted(names, (length,), torch.uint8).tolist())
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if (
        not isinstance(found, list)
        or not all(isinstance(name, str) and name for name in found)
        or len(set(found)) < len(found)
    ):
        raise ValueError("is not a list of different names: the checkpoint is damaged")
    return tuple(found)


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
        saved: The same of the checkpoint, on the same device.
        saved_names: The terms there.
        pairs: Whether there is an entry for each pair of terms.
    """
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
