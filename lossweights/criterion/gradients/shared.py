"""What several terms share, and their gradients with respect to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lossweights.criterion.gradients.torch_internals import inside_func_transform
from lossweights.errors import quoted

SharedLike: TypeAlias = "Tensor | Mapping[str, SharedLike] | Iterable[SharedLike] | None"
Rows: TypeAlias = "dict[str, list[Tensor | None]]"

_REFUSALS = {  # words of torch's errors, and what to write
    "use_reentrant": "reentrant checkpointing cannot give the gradients of single terms: write "
    "torch.utils.checkpoint.checkpoint(..., use_reentrant=False)",
    "donated": "a compiled function frees its buffers in its first backward pass: write import "
    "torch._functorch.config and torch._functorch.config.donated_buffer = False before it is "
    "compiled",
    "inplace operation": "what the backward pass needs was changed in place after it was used: "
    "replace inplace=True, += and the like in the heads, or give them features.clone()",
    "setstorage": "parameters that FullyShardedDataParallel shards are gone after the forward "
    "pass: call the criterion inside the module that it wraps, or use fully_shard",
    "second time": "their graph was freed by a backward pass before: call the criterion first",
}
_NOT_BATCHED = "this fails in one vectorised pass: write batched: false"
_CUT = (  # why no term depends on features
    "give the very tensor that the heads were called with, not a copy, view or cast of it, and not "
    "one that was changed in place afterwards. One compiled model (or one DistributedDataParallel "
    "with find_unused_parameters or static_graph) that returns both features and losses cuts the "
    "way between them: compile trunk and heads apart, or call the criterion inside the module that "
    "DistributedDataParallel wraps. Accelerate, the Trainer of Hugging Face and Fabric cast what a "
    "model returns in mixed precision: call the criterion inside the model, as in "
    "criterion.wrap(model)"
)
_ELSE = (  # why none depends on parameters
    "give parameters of the model that they were computed with. Those of a part under reentrant "
    "checkpointing cannot be reached: write torch.utils.checkpoint.checkpoint(..., "
    "use_reentrant=False)"
)


class Shared:
    """Tensors that several terms depend on: features of the graph, or parameters.

    Args:
        given: A tensor, or a sequence or mapping of tensors, also nested; those that take no
            gradient (frozen parameters) are left out.

    Attributes:
        tensors: Those that take a gradient, each once.
        are_features: Whether they belong to the batch; parameters are the same on all ranks.

    Raises:
        ValueError: For what is no tensor, takes no gradient, is complex, or is both of features
            and parameters.
        RuntimeError: Under a transform of `torch.func`.
    """

    def __init__(self, given: SharedLike) -> None:
        if inside_func_transform():
            raise RuntimeError(
                "gradients of single terms cannot be taken under torch.func transforms: write "
                "criterion.breakdown(terms).total there, under the weights that stand"
            )
        found = {id(tensor): tensor for tensor in _tensors(given)}
        self.tensors = [tensor for tensor in found.values() if tensor.requires_grad]
        if not self.tensors:
            what = "none of them takes a gradient" if found else "it is empty"
            used = isinstance(given, Iterator)
            raise ValueError(
                f"shared= is what the terms depend on, but {what}: give features as the trunk "
                "returned them (not detached, not under no_grad), or parameters"
                + ("; a generator is empty the second time, give list(...)" if used else "")
            )
        if any(tensor.is_complex() for tensor in self.tensors):
            raise ValueError(
                "shared= holds complex tensors: give the real ones that they are made of, or what "
                "comes before them"
            )
        leaves = [tensor.is_leaf for tensor in self.tensors]
        if any(leaves) and not all(leaves):
            raise ValueError(
                "shared= holds both features and parameters: give one or the other, features are "
                "cheaper"
            )
        self.are_features = not leaves[0]
        if not self.are_features and any(hasattr(t, "device_mesh") for t in self.tensors):
            raise ValueError(
                "shared= holds sharded parameters, of which each rank sees a part: give the "
                "features, shared=features"
            )

    @property
    def is_half(self) -> bool:
        """Whether gradients may be float16, in which small ones become 0."""
        kind = self.tensors[0].device.type
        return any(tensor.dtype is torch.float16 for tensor in self.tensors) or (
            torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.float16
        )

    @property
    def is_low(self) -> bool:
        """Whether gradients are of lower precision than float32, as far as this shows it."""
        kind = self.tensors[0].device.type
        return torch.is_autocast_enabled(kind) or any(t.element_size() < 4 for t in self.tensors)

    def rows(self, losses: Mapping[str, Tensor], scale: Tensor | None, *, batched: bool) -> Rows:
        """The gradients of some terms, by name, each a list beside `tensors`.

        Args:
            losses: Scalars with their graph.
            scale: By what they are multiplied; None for 1.
            batched: Whether one vectorised pass takes all.

        Raises:
            ValueError: For a term that does not depend on any of the tensors.
            RuntimeError: Where torch cannot take the gradients, with what to write instead.
        """
        loose = [name for name, loss in losses.items() if not loss.requires_grad]
        if loose:
            raise ValueError(_without_gradient(loose))
        try:
            rows = (self._at_once if batched else self._one_by_one)(losses, scale)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            said = str(error).lower()
            found = [advice for words, advice in _REFUSALS.items() if words in said]
            found += [_NOT_BATCHED] if batched else []
            if not found:
                raise
            raise RuntimeError(f"the gradients of the terms: {found[0]} ({error})") from error
        apart = [name for name, row in rows.items() if all(part is None for part in row)]
        self.refuse_apart(apart, list(losses))
        return rows

    def refuse_apart(self, apart: Sequence[str], names: Sequence[str]) -> None:
        """Refuses terms that do not depend on any of the tensors.

        Args:
            apart: These terms; none is fine.
            names: All that were given.

        Raises:
            ValueError: Naming them, with what may be the reason.
        """
        if not apart:
            return
        if len(apart) < len(names):
            raise ValueError(
                f"term {quoted(apart)} does not depend on what is given as shared=, others do: "
                f"write balanced: false at terms.{apart[0]} if that is so; else it may be computed "
                "from another tensor: a copy, or one that was changed in place between the heads"
            )
        raise ValueError(
            f"no term depends on what is given as shared=: {_CUT if self.are_features else _ELSE}"
        )

    def _one_by_one(self, losses: Mapping[str, Tensor], scale: Tensor | None) -> Rows:
        return {
            name: list(
                torch.autograd.grad(
                    loss,
                    self.tensors,
                    None if scale is None else scale.to(loss),
                    retain_graph=True,
                    allow_unused=True,
                )
            )
            for name, loss in losses.items()
        }

    def _at_once(self, losses: Mapping[str, Tensor], scale: Tensor | None) -> Rows:
        values = torch.stack(list(losses.values()))
        each = torch.eye(len(values), dtype=values.dtype, device=values.device)
        found = torch.autograd.grad(
            values,
            self.tensors,
            each if scale is None else each * scale.to(each),
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=True,
        )
        return {
            name: [None if part is None else part[index] for part in found]
            for index, name in enumerate(losses)
        }


def _tensors(given: object) -> Iterator[Tensor]:
    if given is None:  # a level that this model has not
        return
    if isinstance(given, Tensor):
        if given.is_floating_point() or given.is_complex():
            yield given
    elif isinstance(given, Mapping):
        for part in given.values():
            yield from _tensors(part)
    elif isinstance(given, Iterable) and not isinstance(given, str | nn.Module):
        for part in given:
            yield from _tensors(part)
    else:
        hint = ": give its features, or module.parameters()" if isinstance(given, nn.Module) else ""
        raise ValueError(
            "shared= is a tensor, or a sequence or mapping of tensors, found "
            f"{type(given).__name__}{hint}"
        )


def _without_gradient(names: Sequence[str]) -> str:
    return (
        f"term {quoted(names)} carries no gradient (a constant, detached, or computed under "
        "no_grad or reentrant checkpointing), so a balancer cannot weigh it by its gradient: write "
        f"balanced: false at terms.{names[0]}; or, where it is off in some batches, leave it out "
        f"there and write optional: true at terms.{names[0]}"
    )
