"""The tensors that several terms depend on, and the terms' gradients with respect to them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lossweights.criterion.torch_internals import inside_func_transform
from lossweights.errors import quoted

SharedLike: TypeAlias = "Tensor | Mapping[str, SharedLike] | Iterable[SharedLike] | None"
Rows: TypeAlias = "dict[str, list[Tensor | None]]"

NOT_REENTRANT = "write torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
NOT_DONATED = (
    "write import torch._functorch.config and torch._functorch.config.donated_buffer = False "
    "before it is compiled"
)
_ADVICE = {  # words of torch's errors, and what to write
    "use_reentrant": "reentrant checkpointing cannot give the gradients of single terms: "
    + NOT_REENTRANT,
    "donated": "a compiled function frees its buffers in its first backward pass: " + NOT_DONATED,
    "inplace operation": "what the backward pass needs was changed in place after it was used: "
    "replace inplace=True, += and the like in the heads, or give them features.clone()",
    "setstorage": "parameters that FullyShardedDataParallel shards are gone after the forward "
    "pass: call the criterion inside the module that it wraps, or use fully_shard",
    "second time": "their graph was freed by a backward pass before: call the criterion first",
}
_NOT_THE_FEATURES = (  # why no term depends on features
    "give the very tensor that the heads were called with, not a copy, view or cast of it, and not "
    "one that was changed in place afterwards. One compiled model (or one DistributedDataParallel "
    "with find_unused_parameters or static_graph) that returns both features and losses cuts the "
    "graph between them: compile trunk and heads apart, or call the criterion inside the module "
    "that DistributedDataParallel wraps. Accelerate, the Trainer of Hugging Face and Fabric cast "
    "the outputs of a model in mixed precision: call the criterion inside the model, as in "
    "criterion.wrap(model)"
)
_NOT_THE_PARAMETERS = (  # why no term depends on parameters
    "give parameters of the model that they were computed with. Those of a part under reentrant "
    f"checkpointing cannot be reached: {NOT_REENTRANT}"
)


class Shared:
    """The tensors that several terms depend on: features of the graph, or parameters.

    Args:
        given: A tensor, or a sequence or mapping of tensors, also nested. Tensors that need no
            gradient, such as frozen parameters, are left out.

    Attributes:
        tensors: The tensors that need a gradient, each once.
        are_features: Whether they were computed from the batch. Parameters are the same on all
            ranks, features are not.

    Raises:
        ValueError: If something is no tensor, no tensor needs a gradient, one is complex or a
            shard, or there are both features and parameters.
        RuntimeError: Under a transform of `torch.func`.
    """

    def __init__(self, given: SharedLike) -> None:
        if inside_func_transform():
            raise RuntimeError(
                "gradients of single terms cannot be taken under torch.func transforms: write "
                "criterion.breakdown(terms).total there, which uses the current weights"
            )
        found = {id(tensor): tensor for tensor in _tensors(given)}
        self.tensors = [tensor for tensor in found.values() if tensor.requires_grad]
        if not self.tensors:
            what = "none of them needs a gradient" if found else "it is empty"
            used = isinstance(given, Iterator)
            raise ValueError(
                f"shared= has the tensors that the terms depend on, but {what}: give features as "
                "the trunk returned them (not detached, not under no_grad), or parameters"
                + ("; a generator is empty the second time, give list(...)" if used else "")
            )
        self.are_features, wrong = not self.tensors[0].is_leaf, ""
        if any(tensor.is_complex() for tensor in self.tensors):
            wrong = "complex tensors: give the real tensors that they are computed from"
        elif any(tensor.is_leaf is self.are_features for tensor in self.tensors):
            wrong = "both features and parameters: give one or the other, features are cheaper"
        elif not self.are_features and any(hasattr(t, "device_mesh") for t in self.tensors):
            wrong = "sharded parameters, of which each rank has a part: give shared=features"
        if wrong:
            raise ValueError(f"shared= has {wrong}")

    @property
    def is_half(self) -> bool:
        """Whether gradients may be float16, in which small numbers become 0."""
        kind = self.tensors[0].device.type
        return any(tensor.dtype is torch.float16 for tensor in self.tensors) or (
            torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.float16
        )

    @property
    def is_low(self) -> bool:
        """Whether dtypes or autocast show that gradients are less precise than float32."""
        kind = self.tensors[0].device.type
        return torch.is_autocast_enabled(kind) or any(t.element_size() < 4 for t in self.tensors)

    def rows(self, losses: Mapping[str, Tensor], scale: Tensor | None = None) -> Rows:
        """The gradients of each term with respect to `tensors`; None if it does not depend on one.

        Args:
            losses: Scalars with their graph, which is kept.
            scale: What the gradients are multiplied by, so that small ones in float16 do not
                become 0; None for 1.

        Raises:
            ValueError: For a term that does not depend on any of the tensors.
            RuntimeError: If torch cannot compute the gradients, with what to write instead.
        """
        constant = [name for name, loss in losses.items() if not loss.requires_grad]
        if constant:
            terms = "term {} carries" if len(constant) == 1 else "terms {} carry"
            raise ValueError(
                f"{terms.format(quoted(constant))} no gradient (a constant, detached, or computed "
                "under no_grad or reentrant checkpointing), so a balancer cannot weigh it by its "
                f"gradient: write balanced: false at terms.{constant[0]}; or, if it is off in some "
                f"batches, leave it out there and write optional: true at terms.{constant[0]}"
            )
        rows = self.gradients(losses, scale)
        self.refuse_apart([n for n, row in rows.items() if all(p is None for p in row)], rows)
        return rows

    def gradients(self, losses: Mapping[str, Tensor], scale: Tensor | None = None) -> Rows:
        """As `rows`, but a term that depends on none of the tensors has None for each of them.

        Raises:
            RuntimeError: If torch cannot compute the gradients, with what to write instead.
        """
        rows: Rows = {}
        try:
            for name, loss in losses.items():
                if not loss.requires_grad:
                    rows[name] = [None] * len(self.tensors)
                    continue
                factor = None if scale is None else scale.to(loss)
                rows[name] = list(
                    torch.autograd.grad(
                        loss, self.tensors, factor, retain_graph=True, allow_unused=True
                    )
                )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            for words, advice in _ADVICE.items():
                if words in str(error).lower():
                    raise RuntimeError(f"the gradients of the terms: {advice} ({error})") from error
            raise
        return rows

    def refuse_apart(self, apart: Sequence[str], given: Sized) -> None:
        """Raises an error if some of the given terms, `apart`, depend on none of the tensors."""
        if not apart:
            return
        if len(apart) < len(given):
            terms = "term {} does" if len(apart) == 1 else "terms {} do"
            raise ValueError(
                f"{terms.format(quoted(apart))} not depend on the tensors in shared=, others do: "
                f"write balanced: false at terms.{apart[0]} if it never does; else it may be "
                "computed from another tensor: a copy, or one that was changed in place between "
                "the heads"
            )
        why = _NOT_THE_FEATURES if self.are_features else _NOT_THE_PARAMETERS
        raise ValueError(f"no term depends on the tensors in shared=: {why}")


def _tensors(given: object) -> Iterator[Tensor]:
    if given is None:  # a level that this model does not have
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
            "shared= needs a tensor, or a sequence or mapping of tensors, found "
            f"{type(given).__name__}{hint}"
        )
