"""Statistics of gradients, against those of one whole Jacobian."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from lossweights.components.context import STATISTICS, Gradients
from lossweights.criterion.distributed import ProcessGroup
from lossweights.criterion.gradients import statistics
from lossweights.criterion.gradients.shared import Rows, Shared

NAMES = ("a", "b", "c")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def collected(
    rows: Rows,
    tensors: list[Tensor],
    scale: float | None = None,
    needs: tuple[str, ...] = STATISTICS,
) -> Gradients:
    collector = statistics.Collector(NAMES, needs, ProcessGroup("off"), may_lack=True)  # type: ignore[arg-type]
    found, losses = collector.collect(
        rows,
        torch.arange(1.0, len(rows) + 1),
        Shared([tensor.requires_grad_() * 1 for tensor in tensors]),
        None if scale is None else torch.tensor(scale),
    )
    assert losses.tolist() == [float(index) for index in range(1, len(rows) + 1)]
    return found


SHAPES = [(4, 3), (4, 2, 5), (4,)]


def test_all_statistics_are_those_of_the_jacobian() -> None:
    tensors = [drawn(*shape) for shape in SHAPES]
    parts = [[drawn(*shape, seed=s) for shape in SHAPES] for s in (1, 2, 3)]
    rows: Rows = {name: list(part) for name, part in zip(NAMES, parts, strict=True)}
    found = collected(rows, tensors)
    jacobian = torch.stack([torch.cat([p.flatten() for p in part]) for part in parts]).double()
    items = torch.stack(
        [torch.cat([p.reshape(4, -1) for p in part], dim=1).norm(dim=1).mean() for part in parts]
    )
    torch.testing.assert_close(found.gramian, jacobian @ jacobian.T)
    torch.testing.assert_close(found.norms, jacobian.norm(dim=1))
    torch.testing.assert_close(found.max_abs, jacobian.abs().amax(dim=1))
    torch.testing.assert_close(found.mean_abs, jacobian.abs().mean(dim=1))
    torch.testing.assert_close(found.item_norms, items.double())


def test_a_tensor_that_a_term_does_not_use_is_a_row_of_0() -> None:
    x, y = drawn(4, 3), drawn(4, 2)
    rows: Rows = {"a": [drawn(4, 3, seed=1), None], "b": [None, drawn(4, 2, seed=2)], "c": [x, y]}
    zeros: Rows = {
        "a": [rows["a"][0], torch.zeros(4, 2)],
        "b": [torch.zeros(4, 3), rows["b"][1]],
        "c": [x, y],
    }
    ours, full = collected(rows, [x, y]), collected(zeros, [x, y])
    for need in STATISTICS:
        torch.testing.assert_close(ours.found[need], full.found[need], rtol=0, atol=0)
    assert ours.gramian[0, 1] == 0


@pytest.mark.parametrize("size", [1, 2, 3, 10**6])
def test_pieces_add_up(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    rows: Rows = {name: [drawn(4, 3, seed=s)] for s, name in enumerate(NAMES)}
    whole = collected(rows, [drawn(4, 3)])
    monkeypatch.setattr(statistics, "_CHUNK", size)
    split = collected(rows, [drawn(4, 3)])
    for need in STATISTICS:
        torch.testing.assert_close(split.found[need], whole.found[need])


def test_only_what_is_needed_is_there() -> None:
    rows: Rows = {name: [drawn(4, 3, seed=s)] for s, name in enumerate(NAMES)}
    found = collected(rows, [drawn(4, 3)], needs=("norms",))
    assert list(found.found) == ["norms"]
    with pytest.raises(
        ValueError, match=r"'gramian' was not computed: write needs = \('gramian',\)"
    ):
        _ = found.gramian


@pytest.mark.parametrize("given", list(itertools.combinations(NAMES, 2)))
def test_terms_that_are_absent_have_no_entry(given: tuple[str, ...]) -> None:
    rows: Rows = {name: [drawn(4, 3, seed=ord(name))] for name in NAMES}
    whole = collected(rows, [drawn(4, 3)])
    some = collected({name: rows[name] for name in given}, [drawn(4, 3)])
    where = [NAMES.index(name) for name in given]
    assert some.names == given
    assert some.seen.tolist() == [True, True]
    torch.testing.assert_close(some.gramian, whole.gramian[where][:, where])
    torch.testing.assert_close(some.norms, whole.norms[where])


def test_no_term_at_all() -> None:
    found = collected({}, [drawn(4, 3)])
    assert found.names == ()
    assert found.gramian.shape == (0, 0)
    assert found.norms.shape == (0,)


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e22, 1e30])
def test_squares_neither_vanish_nor_overflow(size: float) -> None:
    rows: Rows = {name: [torch.full((4, 3), size)] for name in NAMES}
    found = collected(rows, [drawn(4, 3)])
    assert found.gramian.flatten().tolist() == pytest.approx([12 * size**2] * 9, rel=1e-6)
    assert found.item_norms.tolist() == pytest.approx([3**0.5 * size] * 3, rel=1e-6)


def test_half_precision_is_summed_in_full() -> None:
    rows: Rows = {name: [torch.full((4, 3), 200.0, dtype=torch.float16)] for name in NAMES}
    assert collected(rows, [drawn(4, 3)]).gramian[0, 1] == 12 * 200**2


def test_under_autocast_as_without() -> None:
    rows: Rows = {name: [drawn(4, 3, seed=s)] for s, name in enumerate(NAMES)}
    plain = collected(rows, [drawn(4, 3)])
    with torch.autocast("cpu", torch.bfloat16):
        cast = collected(rows, [drawn(4, 3)])
    assert torch.equal(plain.gramian, cast.gramian)


def test_the_scale_is_taken_out() -> None:
    rows: Rows = {name: [drawn(4, 3, seed=s)] for s, name in enumerate(NAMES)}
    scaled: Rows = {
        name: [None if part is None else 1024 * part for part in row] for name, row in rows.items()
    }
    plain, found = collected(rows, [drawn(4, 3)]), collected(scaled, [drawn(4, 3)], scale=1024.0)
    for need in STATISTICS:
        torch.testing.assert_close(found.found[need], plain.found[need])


def test_norms_of_items_need_a_batch() -> None:
    rows: Rows = {name: [torch.ones(())] for name in NAMES}
    with pytest.raises(ValueError, match="no batch axis: give features, or write per_item: false"):
        collected(rows, [torch.ones(())])
    rows = {name: [torch.ones(4, 3), torch.ones(5, 3)] for name in NAMES}
    with pytest.raises(ValueError, match="first axes of 4 and 5"):
        collected(rows, [torch.ones(4, 3), torch.ones(5, 3)])


def test_an_empty_batch_gives_gradients_of_0() -> None:
    rows: Rows = {name: [torch.zeros(0, 3)] for name in NAMES}
    found = collected(rows, [torch.zeros(0, 3)], needs=("gramian", "norms", "max_abs"))
    assert not found.gramian.any()
    assert not found.max_abs.any()


def hostile(kind: str, size: int) -> Tensor:
    """Three gradients, shape (3, size), float32."""
    one, other = drawn(size, seed=1), drawn(size, seed=2)
    if kind == "scales":
        return torch.stack([1e-30 * one, one + other, 1e30 * other])
    if kind == "nearly parallel":
        return torch.stack([one, one + 1e-5 * other, one * (1 + 1e-6)])
    if kind == "nearly opposed":
        return torch.stack([1e-12 * one, -(one + 1e-5 * other), 1e6 * (other - one)])
    return torch.stack([drawn(size, seed=seed) ** 9 for seed in (1, 2, 3)])  # few large entries


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("size", [7, 10_000, 300_000])
@pytest.mark.parametrize("kind", ["scales", "nearly parallel", "nearly opposed", "heavy tails"])
def test_cosines_are_exact_for_gradients_of_any_scale(kind: str, size: int, precision: str) -> None:
    jacobian = hostile(kind, size)
    rows: Rows = dict(zip(NAMES, ([row] for row in jacobian), strict=True))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = collected(rows, [drawn(size)], needs=("gramian", "norms"))
    finally:
        torch.set_float32_matmul_precision(before)
    exact = jacobian.numpy().astype(np.longdouble)
    gramian = (exact[:, None] * exact).sum(axis=2)
    norms = np.sqrt(gramian.diagonal())
    errors = (found.gramian.numpy() - gramian) / np.outer(norms, norms)
    assert np.abs(errors).max() < 1e-13
    assert np.abs(found.norms.numpy() / norms - 1).max() < 1e-13
    # What separates nearly parallel gradients is far below the rounding of float32.
    apart = found.gramian[0, 0] + found.gramian[1, 1] - 2 * found.gramian[0, 1]
    assert apart.item() == pytest.approx(float(((exact[0] - exact[1]) ** 2).sum()), rel=1e-2)


@pytest.mark.parametrize("count", [4, 5, 6, 9])
@pytest.mark.parametrize("size", [3, 10_000])
def test_a_gramian_of_many_terms_is_exact(count: int, size: int) -> None:
    names = tuple("abcdefghi"[:count])
    jacobian = drawn(count, size) * 10.0 ** torch.arange(-4, count - 4)[:, None]
    collector = statistics.Collector(names, ("gramian",), ProcessGroup("off"), may_lack=True)
    rows: Rows = dict(zip(names, ([row] for row in jacobian), strict=True))
    shared = Shared(drawn(size).requires_grad_() * 1)
    found = collector.collect(rows, torch.ones(count), shared)[0].gramian
    exact = jacobian.numpy().astype(np.longdouble)
    gramian = (exact[:, None] * exact).sum(axis=2)
    norms = np.sqrt(gramian.diagonal())
    assert np.abs((found.numpy() - gramian) / np.outer(norms, norms)).max() < 1e-13
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(collector.collect(rows, torch.ones(count), shared)[0].gramian, found)


@pytest.mark.parametrize("form", ["expanded", "transposed", "channels last", "sparse", "bfloat16"])
def test_gradients_of_any_layout(form: str) -> None:
    shape = (4, 3, 2, 5)
    plain = [drawn(*shape, seed=seed) for seed in (1, 2, 3)]
    if form == "expanded":
        plain = [part[:1, :1].expand(shape) for part in plain]
    elif form == "transposed":
        plain = [part.transpose(0, 3).contiguous().transpose(0, 3) for part in plain]
    elif form == "channels last":
        plain = [plain[0], *(p.to(memory_format=torch.channels_last) for p in plain[1:])]
    elif form == "bfloat16":
        plain = [part.bfloat16() for part in plain]
    given = [part.to_sparse() for part in plain] if form == "sparse" else plain
    found = collected(dict(zip(NAMES, ([part] for part in given), strict=True)), [drawn(*shape)])
    copied = [part.double().clone(memory_format=torch.contiguous_format) for part in plain]
    jacobian = torch.stack([part.flatten() for part in copied])
    torch.testing.assert_close(found.gramian, jacobian @ jacobian.T)
    torch.testing.assert_close(found.max_abs, jacobian.abs().amax(dim=1))
    items = torch.stack([part.flatten(1).norm(dim=1).mean() for part in copied])
    torch.testing.assert_close(found.item_norms, items)


def test_tensors_add_up_one_after_another() -> None:
    shapes = [(4, 100), (4, 1), (4, 0), (4, 7, 3)]
    rows: Rows = {n: [drawn(*shape, seed=s) for shape in shapes] for s, n in enumerate(NAMES)}
    found = collected(rows, [drawn(*shape) for shape in shapes])
    whole: Rows = {
        n: [torch.cat([part.flatten(1) for part in row if part is not None], dim=1)]
        for n, row in rows.items()
    }
    joined = collected(whole, [drawn(4, 122)])
    for need in STATISTICS:
        torch.testing.assert_close(found.found[need], joined.found[need])
