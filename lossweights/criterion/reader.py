"""From the given terms to one checked vector."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import translate
from numbers import Real
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lossweights.config.names import expanded
from lossweights.config.term import Term
from lossweights.criterion.indexing import take
from lossweights.errors import did_you_mean, quoted


class Members(NamedTuple):
    """The members of a group in a forward pass.

    Args:
        names: The members present, sorted.
        losses: Their values, reduced and transformed.
        vector: `losses` as one vector, shape (m,).
        weights: Their weights in the group, shape (m,).
    """

    names: tuple[str, ...]
    losses: list[Tensor]
    vector: Tensor
    weights: Tensor


_NO_GROUPS: dict[str, Members] = {}


class Values(NamedTuple):
    """The terms of a forward pass.

    Args:
        names: The terms present, sorted.
        raws: Values before a transform, reduced to scalars, of the terms and members that have one.
        losses: The values of all, reduced and transformed; of a group, its weighted sum.
        vector: `losses` as one vector, float32 or float64, shape (m,).
        groups: The members of the groups present; a group comes before those inside it.
    """

    names: tuple[str, ...]
    raws: Mapping[str, Tensor]
    losses: list[Tensor]
    vector: Tensor
    groups: Mapping[str, Members] = _NO_GROUPS

    @property
    def all_names(self) -> tuple[str, ...]:
        """The terms and members present."""
        names = self.names
        for members in self.groups.values():
            names += members.names
        return names


class ReadMode(Protocol):
    """What a reader needs to know of a mode."""

    weights: Tensor
    members: Mapping[str, Tensor]
    in_place: bool
    device: torch.device
    inactive: frozenset[str]
    skipped: frozenset[str]
    transforms: Mapping[str, Callable[[Tensor], Tensor]]


class Reader:
    """Reads the terms of a forward pass, or the members of one group.

    Args:
        terms: The declaration of these terms.
        ignored: Matches the names of values that are no terms.
        group: The name of the group.
        optional: Whether all its members may be absent.

    Attributes:
        names: The terms, sorted; those of members begin with the name of their group.
        required: Those that must be given, by their names in the group.
        members: The names of all terms inside groups.
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        ignored: re.Pattern[str],
        group: str = "",
        *,
        optional: bool = False,
    ) -> None:
        self._ignored, self._group, self._is_optional = ignored, group, optional
        keys = tuple(sorted(terms))
        self._keys = keys  # by which values are given
        self.names = tuple(f"{group}/{key}" for key in keys) if group else keys
        self._names = frozenset(self.names)
        self._declared = list(terms)
        # Terms with a reduction or a transform: index, name, reduction, level of the transform.
        sorted_terms = [(index, self.names[index], terms[key]) for index, key in enumerate(keys)]
        self._prepared = [
            (index, name, term.reduction, None if term.transform is None else term.transform.level)
            for index, name, term in sorted_terms
            if term.reduction or term.transform
        ]
        self._groups = [
            (index, Reader(term.terms, ignored, name, optional=term.optional))
            for index, name, term in sorted_terms
            if term.terms is not None
        ]
        needs_nothing = {keys[index] for index, inside in self._groups if not inside.required}
        self.required: frozenset[str] = frozenset(
            key for key, term in terms.items() if not term.optional and key not in needs_nothing
        )
        self.members: frozenset[str] = frozenset(
            name for _, inside in self._groups for name in inside.names + tuple(inside.members)
        )

    def read(
        self,
        terms: Mapping[str, Any],
        mode: ReadMode,
        *,
        training: bool = True,
        finite: Callable[[Values], Values] | None = None,
    ) -> Values:
        """The terms as one vector, in sorted order of their names.

        Args:
            terms: The values by name; None, like a missing name, for an absent term. The members of
                a group are a mapping of their own, or have their full names, `group/member`.
            mode: Which terms may be absent, the transforms, and the weights of members.
            training: Whether a term must be given although its weight is 0.
            finite: Leaves out members whose value is not finite, or raises; None to keep them.

        Raises:
            ValueError: For a name that is unknown or missing, and for a value that is not a
                scalar.
        """
        if self.members:
            terms = self._nested(terms)
        names = self.names
        losses: list[Any]
        if type(terms) is dict and len(terms) == len(names):
            losses = list(map(terms.get, self._keys))
        else:
            names, losses = self._select(terms, mode, training=training)
        raws: dict[str, Tensor] = {}
        if self._prepared:
            losses = self._prepare(names, losses, mode, raws)
        groups: dict[str, Members] = {}
        for place, inside in self._places(names, losses) if self._groups else ():
            found = inside.read(losses[place], mode, training=training, finite=finite)
            found = found if finite is None else finite(found)
            losses[place] = inside.add_up(found, mode, groups)
            raws.update(found.raws)
        if mode.skipped:
            losses = [
                loss.detach() if name in mode.skipped and isinstance(loss, Tensor) else loss
                for name, loss in zip(names, losses, strict=True)
            ]
        vector = None
        # A compiled graph cannot catch an error of torch.
        if not torch.compiler.is_compiling() or _are_tensors(losses):
            try:
                vector = torch.stack(losses)
            except (TypeError, RuntimeError):  # converted below, or refused
                vector = None
        if vector is None or vector.dtype is not torch.float32 or vector.ndim != 1:
            if vector is None and any(loss is None for loss in losses):
                self._select(terms, mode, training=training)  # to check the names
                both = zip(names, losses, strict=True)
                names = tuple(name for name, loss in both if loss is not None)
                losses = [loss for loss in losses if loss is not None]
            losses, vector = self._convert(names, losses, vector, mode)
        return Values(names, raws, losses, vector, groups)

    def _places(self, names: tuple[str, ...], losses: Sequence[Any]) -> list[tuple[int, Reader]]:
        """The groups that are given among some terms, with their places."""
        found = self._groups
        if names is not self.names:
            present = [(self.names[index], inside) for index, inside in found]
            found = [(names.index(name), inside) for name, inside in present if name in names]
        return [(place, inside) for place, inside in found if losses[place] is not None]

    def needs_any(self, inactive: Collection[str]) -> bool:
        """Whether any member of this group must be given, while some are inactive."""
        inside = {self.names[index]: group for index, group in self._groups}
        names = [f"{self._group}/{key}" for key in self.required]
        return any(
            name not in inactive and (name not in inside or inside[name].needs_any(inactive))
            for name in names
        )

    def is_off(self, mode: ReadMode) -> bool:
        """Whether all members of this group have weight 0; looked up on the host."""
        return not any(mode.members[self._group].tolist())

    def add_up(self, values: Values, mode: ReadMode, groups: dict[str, Members]) -> Tensor | None:
        """The value of this group, which is added to `groups`; None if no member counts."""
        names, _, losses, vector, inside = values
        weights = mode.members[self._group]
        if mode.in_place:  # the clock may overwrite it before the backward pass
            weights = weights.clone()
        if vector.device != mode.device:  # an evaluation on another device
            weights = weights.to(vector.device)
        if len(names) < len(self.names):
            weights = take(weights, [i for i, name in enumerate(self.names) if name in names])
        if vector.dtype is not torch.float32:
            weights = weights.to(vector.dtype)
        members = Members(names, losses, vector, weights)
        if mode.skipped and self._group not in mode.skipped:
            summed = [i for i, name in enumerate(names) if name not in mode.skipped]
            vector, weights = take(vector, summed), take(weights, summed)
        if not vector.numel():
            return None
        groups[self._group] = members
        if inside:
            groups.update(inside)
        return torch.dot(vector, weights)

    def _nested(self, terms: Mapping[str, Any]) -> Mapping[str, Any]:
        """Terms by name, in which the members of a group are a mapping of their own."""
        if not hasattr(terms, "items") or self.members.isdisjoint(terms):
            return terms
        table = dict(terms)
        for index, inside in self._groups:
            key = self._keys[index]
            if members := inside.take_from(table, table.get(key)):
                table[key] = members
        return table

    def take_from(self, table: dict[str, Any], given: Any) -> Any:
        """The members of this group: those `given`, and those that are taken from a table.

        Raises:
            ValueError: For a member that is given in both.
        """
        if table.keys() >= self._names:  # in less time
            taken = dict(zip(self._keys, map(table.pop, self.names), strict=True))
        else:
            both = zip(self._keys, self.names, strict=True)
            taken = {key: table.pop(name) for key, name in both if name in table}
        if isinstance(given, Mapping):
            if twice := sorted(taken.keys() & given.keys()):
                name = f"{self._group}/{twice[0]}"
                raise ValueError(f"term {name!r} is given twice, by name and inside its group")
            taken = {**given, **taken}
        elif given is not None:
            return given
        for index, inside in self._groups:
            key = self._keys[index]
            if members := inside.take_from(table, taken.get(key)):
                taken[key] = members
        return taken

    def usage(self, found: str) -> str:
        """The message for terms that are not passed as one mapping by name."""
        groups = {self._keys[index] for index, _ in self._groups}
        shown = [
            f"{name!r}: {'{...}' if name in groups else name if name.isidentifier() else '...'}"
            for name in self._declared
        ]
        shown[3:] = ["..."] * (len(shown) > 3)
        if self._group:
            return (
                f"{self._group!r} is a group, whose members are one mapping by name: write "
                f"{{{self._group!r}: {{{', '.join(shown)}}}}}, found {found}"
            )
        return (
            "the terms are passed in one mapping by name: write "
            f"criterion({{{', '.join(shown)}}}), found {found}"
        )

    def _prepare(
        self, names: tuple[str, ...], values: list[Any], mode: ReadMode, raws: dict[str, Tensor]
    ) -> list[Any]:
        """The values, reduced, through their transforms; those before go into `raws`."""
        losses = list(values)
        for place, name, reduction, level in self._prepared:
            index = place
            if names is not self.names:
                if name not in names:
                    continue
                index = names.index(name)
            value = values[index]
            if value is None:
                continue
            if not isinstance(value, Tensor) or value.dtype is not torch.float32:
                value = _tensor(name, value, _device_of(values, mode))
            losses[index] = reduced(name, value, reduction)
            apply = mode.transforms.get(name)
            if apply is None:
                continue
            raws[name] = losses[index]
            if level == "value":
                losses[index] = apply(raws[name])
                continue
            batch = _with_batch(name, value, f"a transform of each {level}")
            if level == "element":
                losses[index] = reduced(name, apply(batch), reduction)
            else:
                mean = apply(batch.mean(dim=0))
                losses[index] = reduced(name, mean.expand_as(batch), reduction)
        return losses

    def _select(
        self, terms: Mapping[str, Any], mode: ReadMode, *, training: bool
    ) -> tuple[tuple[str, ...], list[Any]]:
        """The terms present and their values.

        Raises:
            ValueError: For a name that is unknown or missing.
        """
        if not hasattr(terms, "items"):
            raise ValueError(self.usage("none" if terms is None else type(terms).__name__))
        given = {name: value for name, value in terms.items() if value is not None}
        if self._is_optional and not given:
            return (), []
        both = zip(self._keys, self.names, strict=True)
        present = {name: given[key] for key, name in both if key in given}
        if len(present) < len(given) or not self.required <= given.keys():
            inactive, groups = mode.inactive, self._groups
            off = [self.names[i] for i, inside in groups if not inside.needs_any(inactive)]
            if not training and not torch.compiler.is_compiling():
                weights = mode.members[self._group] if self._group else mode.weights
                pairs = zip(self.names, weights.tolist(), strict=True)
                off += [name for name, weight in pairs if weight == 0]
                off += [self.names[index] for index, inside in groups if inside.is_off(mode)]
            self._check_names(given, inactive.union(off))
        return tuple(present), list(present.values())

    def _check_names(self, given: Mapping[str, Any], inactive: Collection[str]) -> None:
        group = f"{self._group}/" * bool(self._group)
        unknown = [
            name
            for name in given
            if name not in self._keys and self._ignored.match(f"{group}{name}") is None
        ]
        missing = [
            group + name
            for name in self._declared
            if name in self.required and name not in given and group + name not in inactive
        ]
        known = [*self._declared, *(() if group else sorted(self.members))]
        not_given = [name for name in known if name not in given]
        what = f"a member of {self._group!r}" if group else "a term of this loss"
        problems = [
            f"{name!r} is not {what}"
            f"{did_you_mean(str(name), not_given or known)} (the "
            f"{'members' if group else 'terms'} are {quoted(known)}); if it is only for "
            f"logging, write ignore: [{group}{name}]"
            for name in unknown
        ]
        problems += [
            f"term {name!r} is missing (given: {quoted(given)}); "
            f"if it may be absent, write optional: true at terms.{name}"
            for name in missing
        ]
        if problems:
            raise ValueError("\n".join(problems))

    def _convert(
        self, names: Sequence[str], losses: list[Any], vector: Tensor | None, mode: ReadMode
    ) -> tuple[list[Tensor], Tensor]:
        """The values as tensors of float32 or float64, and as one vector.

        Raises:
            ValueError: For a value that is not a real scalar, and for values on several devices.
        """
        if vector is not None and vector.ndim == 1:
            if vector.dtype is torch.float64:
                return losses, vector
            if all(loss.is_floating_point() for loss in losses):
                return losses, vector.float()
        devices = {n: v.device for n, v in zip(names, losses, strict=True) if isinstance(v, Tensor)}
        if len(set(devices.values())) > 1:
            found = ", ".join(f"{name!r} on {device}" for name, device in devices.items())
            raise ValueError(f"the terms are on different devices ({found}): move them to one")
        device = _device_of(losses, mode)
        losses = [
            reduced(name, _tensor(name, loss, device), None)
            for name, loss in zip(names, losses, strict=True)
        ]
        if not losses:
            return [], torch.empty(0, dtype=torch.float32, device=device)
        return losses, torch.stack(losses)


def _are_tensors(values: Sequence[object]) -> bool:
    return len(values) > 0 and all(isinstance(value, Tensor) for value in values)


def ignoring(patterns: Sequence[str]) -> re.Pattern[str]:
    """Matches the names that the patterns of `ignore` stand for."""
    names = [name for pattern in patterns for name in expanded(pattern)]
    return re.compile("|".join(map(translate, names)) or "(?!)")


def _device_of(values: Sequence[object], mode: ReadMode) -> torch.device:
    """The device of the first tensor; that of the mode if all are numbers."""
    return next((value.device for value in values if isinstance(value, Tensor)), mode.device)


def _tensor(name: str, value: object, device: torch.device) -> Tensor:
    """A term's value as a real tensor of float32 or float64."""
    if isinstance(value, Real) and not isinstance(value, bool):
        # The 0.0 of a branch that is off.
        return torch.tensor(float(value), dtype=torch.float32, device=device)
    if not isinstance(value, Tensor):
        found = f"{type(value).__name__}: {value!r}"
        if isinstance(value, list | tuple):
            found = f"{type(value).__name__} of {len(value)}: give one value, such as its sum(...)"
        raise ValueError(f"term {name!r} must be a tensor, found {found}")
    if value.is_complex():
        raise ValueError(
            f"term {name!r} must be real, found {value.dtype}: give its absolute value"
        )
    return value if value.dtype is torch.float64 else value.float()


def reduced(name: str, value: Tensor, reduction: str | None) -> Tensor:
    """A term's value as a scalar.

    Raises:
        ValueError: For a value that is not a scalar, if no reduction is declared.
    """
    if reduction is None:
        if value.ndim == 0:
            return value
        raise ValueError(
            f"term {name!r} has shape {tuple(value.shape)}, a scalar is needed: reduce it first, "
            f"or write reduction: mean, sum or batch_mean at terms.{name}"
        )
    if reduction == "mean":
        return value.mean()
    if reduction == "sum":
        return value.sum()
    return value.sum() / len(_with_batch(name, value, f"reduction: {reduction}"))


def _with_batch(name: str, value: Tensor, wanted_by: str) -> Tensor:
    """The value, which has a batch axis.

    Raises:
        ValueError: For a scalar.
    """
    if value.ndim == 0:
        raise ValueError(
            f"term {name!r} has no batch axis for {wanted_by}: give one value per example, or drop "
            f"it at terms.{name}"
        )
    return value
