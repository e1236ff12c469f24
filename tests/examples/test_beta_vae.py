"""The VAE of sprites: its pictures, its measures, its configs, and that it runs."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lossweights import WeightedLoss
from tests.examples.conftest import Call
from tests.examples.programs import EXAMPLES, run_program

CONFIGS = EXAMPLES / "beta_vae.yaml"
STEPS = 8_000


@pytest.fixture
def beta_vae(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("beta_vae")


@pytest.mark.slow
def test_the_program_runs_and_leaves_table_figures_and_pictures(tmp_path: Path) -> None:
    configs = ("beta-4", "capacity", "pid-growing")
    arguments = ("--quick", "--workers", "1", "--configs", *configs)
    done = run_program("beta_vae.py", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    check(configs, done.stdout, tmp_path / "runs" / "beta_vae")


def test_one_config_leaves_table_figures_and_pictures(
    beta_vae: ModuleType, call: Call, tmp_path: Path
) -> None:
    done = call(beta_vae, "--steps", "2", "--seeds", "1", "--configs", "capacity")
    assert done.status == 0, done.err
    check(("capacity",), done.out, tmp_path / "runs" / "beta_vae")


def check(configs: Sequence[str], printed: str, out: Path) -> None:
    """What a program has printed and left."""
    assert "…" not in printed  # no column is cut off
    runs = json.loads((out / "figures.json").read_text())["runs"]
    assert [run["config"] for run in runs] == list(configs)
    table = (out / "table.md").read_text()
    for run in runs:
        assert f"| {run['config']} |" in table
        assert run["code"]["kl"] == sorted(run["code"]["kl"], reverse=True)
    for picture in ("traversals.png", "curves.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--configs", "beta-5"], "invalid choice: 'beta-5'"),
        (["--steps", "0"], "a whole number from 1"),
        (["--out", "file"], "File exists"),
    ],
)
def test_a_wrong_option_gives_one_line(
    arguments: list[str], words: str, beta_vae: ModuleType, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = call(beta_vae, *arguments)
    assert done.status == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{terms: {reconstruction: 1, kl: {kind: cylical}}}", "did you mean 'cyclical'"),
        ("{terms: {reconstruction: 1, kld: 1}}", "kld"),
    ],
)
def test_a_section_that_cannot_be_used_is_refused_at_the_start(
    beta_vae: ModuleType,
    section: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configs = tmp_path / "configs.yaml"
    configs.write_text(f"wrong: {section}")
    monkeypatch.setattr(beta_vae, "CONFIGS", configs)
    monkeypatch.setattr("sys.argv", ["beta_vae.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        beta_vae.main()
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


def test_runs_share_initialization_and_batches_and_are_repeatable(beta_vae: ModuleType) -> None:
    from sprites.run import Run

    def train(config: str, seed: int, learning_rate: float = 1e-3) -> Any:
        return beta_vae.train(Run(config, seed, 21, learning_rate=learning_rate), lambda *_: None)

    # Models that stay as they are at the start, so that the terms tell.
    names = ("beta-1", "beta-16", "cyclical", "capacity", "pid")
    histories = {name: train(name, 3, 0.0).history for name in names}
    first = histories["beta-1"]
    other = train("beta-1", 4, 0.0).history
    for metric in ("raw/reconstruction", "raw/kl"):
        assert len(set(first[metric])) == 3
        assert set(first[metric]).isdisjoint(other[metric])
        for history in histories.values():
            assert history[metric] == first[metric]

    once, again = train("pid", 3), train("pid", 3)
    assert again.history == once.history
    assert again.figures == once.figures
    assert again.figures != train("beta-16", 3).figures


def test_the_schedules_move_with_the_optimizer(beta_vae: ModuleType) -> None:
    from sprites.run import Run

    history = beta_vae.train(Run("cyclical", 0, 21), lambda *_: None).history
    assert len(set(history["weight/kl"])) > 1


# The sprites


def test_every_combination_is_there_once(beta_vae: ModuleType) -> None:
    from sprites.data import FACTORS, HELD_OUT

    train, held_out = beta_vae.load_sprites()
    assert len(held_out.images) == HELD_OUT
    factors = torch.cat([train.factors, held_out.factors])
    assert len(factors) == torch.tensor(list(FACTORS.values())).prod()
    assert len(set(map(tuple, factors.tolist()))) == len(factors)
    assert factors.amax(dim=0).tolist() == [count - 1 for count in FACTORS.values()]
    counts = held_out.factors[:, 3].bincount().double()
    assert (counts / HELD_OUT * len(counts)).tolist() == pytest.approx([1] * len(counts), abs=0.2)


def test_a_sprite_is_what_its_factors_say(beta_vae: ModuleType) -> None:
    """Its area, its place and its direction, taken from moments of its picture."""
    from sprites.data import FACTORS, LARGEST, SIZE, SMALLEST

    _, sprites = beta_vae.load_sprites()
    images = sprites.images.double().reshape(-1, SIZE, SIZE)
    shape, scale, angle, x, y = sprites.factors.double().T
    mass = images.sum(dim=(1, 2))
    half = SMALLEST + (LARGEST - SMALLEST) * scale / (FACTORS["scale"] - 1)
    area = torch.tensor([torch.pi / 2, 2.0, 2.0])[shape.long()] * half**2
    assert (mass / area).min() > 0.94  # so little is cut off
    border = images.clone()
    border[:, 1:-1, 1:-1] = 0
    whole = border.sum(dim=(1, 2)) == 0
    assert whole.double().mean() > 0.9
    assert torch.allclose(mass[whole], area[whole], rtol=0.03)

    pixel = torch.arange(SIZE).double() + 0.5
    right = (images.sum(dim=1) @ pixel) / mass
    down = (images.sum(dim=2) @ pixel) / mass
    turn = angle * torch.pi / 2 / FACTORS["angle"]
    # The centroid of a triangle is a third of half its length behind the middle of its length.
    behind = torch.where(shape == 2, half / 3, 0)
    assert torch.allclose(right[whole], (x + 9.5 - behind * turn.cos())[whole], rtol=0, atol=0.06)
    assert torch.allclose(down[whole], (y + 9.5 - behind * turn.sin())[whole], rtol=0, atol=0.06)

    across, along = pixel - right[:, None], pixel - down[:, None]
    spread_x = torch.einsum("nij,nj->n", images, across.square())
    spread_y = torch.einsum("nij,ni->n", images, along.square())
    both = torch.einsum("nij,ni,nj->n", images, along, across)
    seen = 0.5 * torch.atan2(2 * both, spread_x - spread_y)
    assert torch.allclose(seen[whole], turn[whole], rtol=0, atol=0.04)


# The model and the measures


def test_the_terms_are_sums_in_nats(beta_vae: ModuleType) -> None:
    from torch.distributions import Normal, kl_divergence

    from harness.gaussian import kl_to_prior
    from sprites.model import SpriteVAE

    torch.manual_seed(0)
    model, images = SpriteVAE(), torch.rand(5, 1024)
    code, log_variance = torch.randn(2, 5, 8)
    posterior = Normal(code, (0.5 * log_variance).exp())
    expected = kl_divergence(posterior, Normal(0.0, 1.0))
    assert torch.allclose(kl_to_prior(code, log_variance), expected, atol=1e-5)
    decoded = model.decode(code)
    error = -(images * decoded.log() + (1 - images) * (1 - decoded).log()).sum(dim=1)
    assert torch.allclose(model.reconstruction(images, code), error, rtol=1e-5)
    reconstruction, kl = model(images, torch.Generator().manual_seed(0))
    assert reconstruction.shape == kl.shape == (5,)


def test_nothing_has_less_than_the_least_error(beta_vae: ModuleType) -> None:
    from torch.nn.functional import binary_cross_entropy

    from sprites.measures import least_error

    images = beta_vae.load_sprites()[1].images[:100].double()
    least = least_error(images)
    for guess, factor in ((images, 1.0), (0.99 * images, None), (0.5 + 0 * images, None)):
        error = binary_cross_entropy(guess, images, reduction="sum").item() / 100
        assert error == pytest.approx(least) if factor else error > least


def test_mutual_information_is_that_of_scikit_learn(beta_vae: ModuleType) -> None:
    from sklearn.metrics import mutual_info_score

    from sprites.measures import entropy, mutual_information

    generator = torch.Generator().manual_seed(0)
    first = torch.randint(7, (500,), generator=generator)
    second = (first + torch.randint(3, (500,), generator=generator)) // 2
    expected = mutual_info_score(first, second)
    assert expected > 0.5
    assert mutual_information(first, second) == pytest.approx(expected)
    assert mutual_information(second, first) == pytest.approx(expected)
    assert entropy(torch.tensor([1, 1, 2, 0])) == pytest.approx(
        1.5 * torch.tensor(2.0).log().item()
    )


def test_the_gap_is_one_for_a_dimension_to_each_factor_and_none_for_two_that_share(
    beta_vae: ModuleType,
) -> None:
    from sprites.measures import gaps, normalized_information

    factors = torch.cartesian_prod(torch.arange(4), torch.arange(5)).repeat(200, 1)
    x, y = factors.float().T
    noise = torch.randn(len(x), generator=torch.Generator().manual_seed(0))
    constant = 0 * x

    def found(*codes: torch.Tensor) -> Any:
        return gaps(normalized_information(torch.stack(codes, dim=1), factors)).tolist()

    assert found(y, noise, -(x**2), constant) == pytest.approx([1, 1], abs=0.05)
    assert found(x, x + 0.1, y) == pytest.approx([0, 1])
    assert found(x + y, x - y) == pytest.approx([0, 0], abs=0.15)
    assert found(noise, constant) == pytest.approx([0, 0], abs=0.02)


def test_a_dimension_that_is_noise_to_the_decoder_counts_for_nothing(beta_vae: ModuleType) -> None:
    """Its mean may still tell the factors apart: samples are measured, not means."""
    from sprites.measures import measure
    from sprites.model import SpriteVAE

    torch.manual_seed(0)
    figures, code = measure(SpriteVAE(), beta_vae.load_sprites()[1], seed=0)
    assert figures["kl"] < 0.1
    assert max(map(max, code.information)) < 0.01
    assert figures["mig"] < 0.1 * figures["mig_of_means"]


# The configs


def criterion_of(name: str) -> WeightedLoss:
    return WeightedLoss.from_config(CONFIGS, at=name).bind(total_steps=STEPS)


def total(criterion: WeightedLoss, kl: float) -> float:
    return float(criterion({"reconstruction": torch.tensor(0.0), "kl": torch.tensor(kl)}))


@pytest.mark.parametrize("beta", [1, 4, 16])
def test_beta_is_the_constant_weight_of_the_kl(beta: int) -> None:
    criterion = criterion_of(f"beta-{beta}")
    for step in (0, STEPS - 1):
        criterion.set_step(step)
        assert criterion.weights == {"reconstruction": 1.0, "kl": beta}


def test_the_cycles_end_at_the_weight_of_beta_4() -> None:
    criterion = criterion_of("cyclical")
    for step, weight in ((0, 0), (500, 2), (1000, 4), (1999, 4), (2000, 0), (6500, 2), (7999, 4)):
        criterion.set_step(step)
        assert criterion.weights["kl"] == pytest.approx(weight)


def test_the_capacity_grows_to_the_target_of_the_controllers() -> None:
    criterion = criterion_of("capacity")
    for step, kl, expected in ((0, 3, 300), (4000, 6, 200), (4000, 2, 200), (STEPS, 8, 0)):
        criterion.set_step(step)
        assert total(criterion, kl) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("name", "step", "target"), [("pid", 0, 8), ("pid-growing", 4000, 4)])
def test_the_controllers_raise_the_weight_while_the_kl_is_above_its_target(
    name: str, step: int, target: float
) -> None:
    weights = {}
    for kl in (target - 2, target + 2, 3 * target):
        criterion = criterion_of(name)
        criterion.set_step(step)
        assert criterion.weights["kl"] == 1.0
        for _ in range(40):
            total(criterion, kl)
            criterion.step()
        weights[kl] = criterion.weights["kl"]
    low, high, far = weights.values()
    assert low == pytest.approx(1.0, abs=0.01)
    assert high == pytest.approx(1 + 40 * (15 / 400) * 2 / target, rel=0.03)
    # An error as large as the target takes 5% of the training, 400 steps, from 1 to 16.
    assert far == pytest.approx(1 + 40 * 15 / 400, rel=0.01)
