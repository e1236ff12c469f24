"""What adapts in a training: the tensors of controllers, transforms and the balancer.

They are plain attributes and not buffers, which DistributedDataParallel would overwrite from the
first rank; those that are learned are parameters of this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from lossweights.components.balancers import Balancer, GradientBalancer
from lossweights.components.context import State
from lossweights.config.loss_config import LossConfig, Part, refuse_below_zero
from lossweights.criterion.gradients.running import Held
from lossweights.criterion.observations import Observations
from lossweights.criterion.ranks import Ranks
from lossweights.criterion.state import Trail, by_name, decoded, encoded
from lossweights.criterion.store import Store
from lossweights.errors import ConfigError, warn


class Memory(nn.Module):
    """All state of a config's components, saved and moved as one.

    Args:
        config: The declaration.
        ranks: The processes over which gradients of learned weights are averaged.

    Attributes:
        observations: What was seen since the last step.
        last_seen: The last finite means of the balanced terms; 1 before the first.
        interval: Sums and counts of their means over the steps of an interval.
        held: What a balancer that weighs by gradients leaves between them.
        awaiting: 1 for balanced terms of which the losses after the step are not told yet.
        start: The learned weights as they were built or loaded, by name.
    """

    balancer = terms = observed = balanced_names = channels = Trail()  # where keys lead to

    def __init__(self, config: LossConfig, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks
        self._balanced = config.balanced_names if config.balancer else ()
        gradients = config.balancer if isinstance(config.balancer, GradientBalancer) else None
        self._takes_gradients = gradients is not None
        self._pairs = {"held.gramian", "held.pairs"}
        if gradients is not None:
            self._pairs |= {f"balancer.{gradients.kind}.{key}" for key in gradients.pairs}
        learns = gradients is not None and type(gradients).update is not Balancer.update
        learned_from = gradients.statistics if gradients is not None and learns else ()
        self._stores: dict[str, Store] = {}
        self._kinds: dict[str, str] = {}
        self.start: dict[str, Tensor] = {}
        # On the CPU whatever the default is: the first losses say where to go.
        with torch.inference_mode(mode=False), torch.device("cpu"):
            n = len(self._balanced)
            self.last_seen = torch.ones(n, dtype=torch.float32)
            self.interval = torch.zeros(2, n, dtype=torch.float32)
            self.awaiting = torch.zeros(n, dtype=torch.float32)
            self.held = Held(self._balanced, learned_from)
            for part in config.adaptive_parts():
                self._stores[part.place] = Store(self._initial(part))
                component = type(part.component)
                self._kinds[part.place] = component.kind or component.__name__
        refuse_below_zero(config)
        self._begin()
        terms = sorted(config.terms.items())
        self.observations = Observations(
            [name for name, _ in terms],
            [name for name, _ in terms if self.adapts(f"terms.{name}.transform")],
            sorted(
                {c.source for _, t in terms if (c := t.controller) and c.source} - {*config.terms}
            ),
        )
        ranks.average_gradients(list(self.parameters()))

    @property
    def is_learned(self) -> bool:
        """Whether any weights are learned."""
        return bool(self._parameters)

    def _begin(self) -> None:
        self.start = {key: p.detach().clone() for key, p in self.named_parameters()}

    def _initial(self, part: Part) -> State:
        component, place = part.component, part.place
        if isinstance(component, Balancer):
            n = len(self._balanced)
            declared, asked = component.init(n), f"is 0-dim, or has the {n} terms on its last axis"
        else:
            n, declared, asked = 0, component.init(), "is 0-dim"
        state: State = {}
        if not isinstance(declared, dict) or not all(
            isinstance(tensor, Tensor) for tensor in declared.values()
        ):
            raise ConfigError(
                f"{place}: init() gives tensors by name, as in {{'average': torch.zeros(n)}}, "
                f"found {declared!r}"
            )
        for key, tensor in declared.items():
            if tensor.ndim > 0 and (n == 0 or tensor.shape[-1] != n):
                raise ConfigError(
                    f"{place}: init() gives {key!r} of shape {tuple(tensor.shape)}; a tensor of "
                    f"the state {asked}"
                )
            if not isinstance(tensor, nn.Parameter):
                state[key] = tensor.float() if tensor.is_floating_point() else tensor
            elif isinstance(component, GradientBalancer):
                raise ConfigError(
                    f"{place}: {key!r} is learned, which weights from gradients cannot be: let "
                    "update() change it"
                )
            elif isinstance(component, Balancer):
                if not key.isidentifier() or hasattr(self, key):
                    raise ConfigError(f"{place}: nothing learned can be called {key!r} here")
                self.register_parameter(key, nn.Parameter(tensor.detach().float()))
            else:
                raise ConfigError(f"{place}: {key!r} is learned, which only a balancer's can be")
        return state

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        if hasattr(param, "device_mesh"):
            self._refuse_shards(name)
        super().register_parameter(name, param)

    def __setattr__(self, name: str, value: Any) -> None:
        # As it was; but FSDP2 puts its shards past `register_parameter` where this is torch's own.
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._parameters:  # FSDP1 begins by taking it out
            self._refuse_shards(name)
        super().__delattr__(name)

    def _refuse_shards(self, name: str) -> None:
        raise RuntimeError(
            f"the learned weights of a criterion ({name}) cannot be sharded, each rank needs them "
            "whole: write fully_shard(model, ignored_params=set(criterion.parameters())), or "
            "FullyShardedDataParallel(model, ignored_states=list(criterion.parameters())); the "
            "criterion averages their gradients itself"
        )

    def state(self, place: str) -> State:
        """The tensors of a component, learned ones included."""
        state = self._stores[place].state
        if not self._parameters or place != "balancer":
            return state
        return {**state, **self._parameters}  # type: ignore[dict-item]

    def adapts(self, place: str) -> bool:
        """Whether a component has any state."""
        return place in self._stores and bool(self._stores[place].state)

    def change(self, place: str, valid: Tensor, update: Callable[[State], None]) -> None:
        """Lets a component change its tensors, and undoes that where nothing valid was seen.

        Args:
            place: Of the component.
            valid: Whether something finite was seen: 0-dim, or one for each balanced term.
            update: What changes the tensors, in place.
        """
        store = self._stores[place]
        learned = {}
        if place == "balancer":
            learned = {key: p.detach() for key, p in self.named_parameters()}
        before = {k: (t._version, t.clone()) for k, t in learned.items()}  # noqa: SLF001  # torch's count of changes
        declared = {**store.state, **learned}
        state = dict(declared)
        store.keep()
        update(state)
        for key in {**declared, **state}:
            if key not in declared:
                raise RuntimeError(
                    f"{place}: update() puts {key!r} into its state, where it would be lost: "
                    "let init() declare it"
                )
            if state.get(key) is not declared[key]:
                raise RuntimeError(
                    f"{place}: update() changes the tensors of its state in place: write "
                    f"state[{key!r}].copy_(...) in place of state[{key!r}] = ..."
                )
        store.restore(valid)
        for key, tensor in learned.items():
            version, kept = before[key]
            if tensor._version != version:  # noqa: SLF001  # else a backward pass may still need it
                mask = valid if tensor.ndim > 0 else valid.any()
                tensor.copy_(torch.where(mask, tensor, kept))

    @property
    def device(self) -> torch.device:
        """Where all of it lies."""
        return self.last_seen.device

    def move(self, device: torch.device) -> None:
        """To another device; parameters stay.

        Raises:
            RuntimeError: Where they lie elsewhere.
        """
        for key, parameter in self.named_parameters():
            if parameter.device != device:
                raise RuntimeError(
                    f"the learned weights of the balancer ({key}) lie on {parameter.device}, the "
                    f"losses on {device}: call criterion.to({str(device)!r}) before training"
                )
        if device == self.device:
            return  # and keep every address: a captured CUDA graph reads from it
        self._stores = {place: store.moved(device) for place, store in self._stores.items()}
        self.last_seen = self.last_seen.to(device)
        self.interval = self.interval.to(device)
        self.awaiting = self.awaiting.to(device)
        self.held.move(device)
        self.observations.move(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def moved(tensor: Tensor) -> Tensor:
            # Only moved: neither rounded, `.half()` is for the model, nor emptied by `to_empty`.
            return tensor.to(fn(tensor).device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        self.move(fn(torch.empty(0, device=self.device)).device)
        return self

    # State

    def _plain(self) -> dict[str, Tensor]:
        """What is saved beside the parameters, by place and kind: none takes over another's."""
        found = {
            f"{place}.{self._kinds[place]}.{key}": tensor
            for place, store in self._stores.items()
            for key, tensor in store.state.items()
        }
        if self._takes_gradients:
            found |= {f"held.{key}": tensor for key, tensor in self.held.tensors.items()}
        if not found and not self._parameters:
            return {}  # components without state
        if self._balanced:
            found |= {
                "last_seen": self.last_seen,
                "interval": self.interval,
                "awaiting": self.awaiting,
            }
        return found | {"observed": self.observations.both}

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for key in self._parameters:
            if not keep_vars:
                destination[f"{prefix}{key}"] = destination[f"{prefix}{key}"].clone()
        if plain := self._plain():
            for key, tensor in plain.items():
                destination[f"{prefix}{key}"] = tensor.clone()
            destination[f"{prefix}balanced_names"] = encoded(self._balanced)
            destination[f"{prefix}channels"] = encoded(self.observations.names)

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
        ours = [*self._plain()]
        ours += ["balanced_names", "channels"] if ours else []
        found = {key: state_dict[prefix + key] for key in ours if prefix + key in state_dict}
        others = {k: v for k, v in state_dict.items() if k.removeprefix(prefix) not in found}
        missing_keys += [prefix + key for key in ours if key not in found]
        try:
            saved = _names(found, "balanced_names", self._balanced)
            channels = _names(found, "channels", self.observations.names)
        except ValueError:
            error_msgs.append(f"{prefix}balanced_names or channels: the checkpoint is damaged")
            return
        if channels != self.observations.names:
            found.pop("observed", None)
            self.observations.drop()
        learned = dict(self.named_parameters())
        if saved != self._balanced:
            for key in [key for key in learned if prefix + key in others]:
                others[prefix + key] = by_name(
                    learned[key], self._balanced, others[prefix + key], saved
                )
                warn(
                    f"{key} is learned for other terms than in the checkpoint: it was mapped "
                    "by name, but the optimizer's moments for it are not: leave them out"
                )
        super()._load_from_state_dict(
            others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if any(new is not learned[key] for key, new in self.named_parameters()):
            self._ranks.average_gradients(list(self.parameters()))  # assign=True brings new ones
        error_msgs += [f"{prefix}{problem}" for problem in self._fill(found, saved)]
        self._begin()

    def _fill(self, found: Mapping[str, Tensor], saved: Sequence[str]) -> Iterator[str]:
        """Takes over what is not learned, and tells of what does not fit."""
        for key, tensor in self._plain().items():
            if key not in found:
                continue
            value = found[key]
            if key != "observed" and saved != self._balanced:
                value = by_name(tensor, self._balanced, value, saved, pairs=key in self._pairs)
            if value.shape == tensor.shape:
                with torch.no_grad():
                    tensor.copy_(value)
            else:
                yield (
                    f"{key} has shape {tuple(value.shape)} in the checkpoint and "
                    f"{tuple(tensor.shape)} here: the component is declared otherwise"
                )

    def __setstate__(self, kept: dict[str, Any]) -> None:
        super().__setstate__(kept)  # type: ignore[no-untyped-call]
        self._ranks.average_gradients(list(self.parameters()))  # hooks are not copied


def _names(found: Mapping[str, Tensor], key: str, here: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(decoded(found[key])) if key in found else here
