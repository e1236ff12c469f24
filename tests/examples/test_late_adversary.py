"""The adversary that starts late: when it is computed, what is measured, on one process and two."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from sklearn.datasets import load_digits
from torch import nn

from lossweights import WeightedLoss
from tests.examples.conftest import Call
from tests.examples.programs import EXAMPLES, run_on_two_ranks, run_program

CONFIGS = EXAMPLES / "late_adversary.yaml"
STEPS = 2000
STARTS = {  # of the discriminator, then of the adversarial term
    "none": (None, None),
    "from-start": (0, 0),
    "late": (1000, 1000),
    "late-ramp": (1000, 1000),
    "head-start": (800, 1000),
}


@pytest.fixture
def late_adversary(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them wait for one another on matrices as small as these
    yield importlib.import_module("late_adversary")
    torch.set_num_threads(threads)


def losses(config: str) -> tuple[WeightedLoss, WeightedLoss]:
    criterion = WeightedLoss.from_config(CONFIGS, at=f"{config}.autoencoder")
    criterion.bind(total_steps=STEPS)
    at = f"{config}.discriminator"
    discriminator = WeightedLoss.from_config(CONFIGS, at=at, clock=criterion.clock)
    return criterion, discriminator


@pytest.mark.slow
def test_the_program_runs_and_leaves_table_figures_and_pictures(tmp_path: Path) -> None:
    done = run_program("late_adversary.py", "--quick", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    # Two calls in a step with an adversary, one in a step in which only the discriminator learns.
    calls = {"none": 0, "from-start": 120, "late": 60, "late-ramp": 60, "head-start": 66}
    check(calls, done.stdout, tmp_path / "runs" / "late_adversary")


def test_two_configs_leave_table_figures_and_pictures(
    late_adversary: ModuleType, call: Call, tmp_path: Path
) -> None:
    arguments = ("--steps", "20", "--seeds", "1", "--configs", "none", "head-start")
    done = call(late_adversary, *arguments)
    assert done.status == 0, done.err
    check({"none": 0, "head-start": 22}, done.out, tmp_path / "runs" / "late_adversary")


def check(calls: Mapping[str, int], printed: str, out: Path) -> None:
    """What a program has printed and left, and how often the discriminator was called."""
    assert "When the adversary starts" in printed
    assert max(map(len, printed.splitlines()[:-4])) <= 80
    figures = {row["config"]: row for row in json.loads((out / "figures.json").read_text())}
    assert {config: row["calls"] for config, row in figures.items()} == calls
    assert len({row["error"] for row in figures.values()}) == len(calls)
    assert all(f"| {config} |" in (out / "table.md").read_text() for config in calls)
    for picture in ("curves.png", "images.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--configs", "lat"], "invalid choice: 'lat'"),
        (["--steps", "5"], "a whole number from 20 to 1000000 is needed, found '5'"),
    ],
)
def test_a_wrong_option_gives_one_line(
    arguments: list[str], words: str, late_adversary: ModuleType, call: Call
) -> None:
    done = call(late_adversary, *arguments)
    assert done.status == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"autoencoder": {"terms": ["reconstruction"]}}, "adversarial"),
        ({"autoencoder": {"terms": {"reconstruction": 1, "adversarial": {"afer": 1}}}}, "after"),
    ],
)
def test_a_section_that_cannot_be_used_is_refused(
    section: dict[str, object],
    words: str,
    late_adversary: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    discriminator = {"terms": ["real", "fake", "r1"]}
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump({"mine": {**section, "discriminator": discriminator}}))
    monkeypatch.setattr(late_adversary, "CONFIGS", wrong)
    monkeypatch.setattr(sys, "argv", ["late_adversary.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        late_adversary.main()
    told = capsys.readouterr().err
    assert words in told
    assert len(told.splitlines()) == 1


def test_every_section_is_known_here() -> None:
    assert list(yaml.safe_load(CONFIGS.read_text("utf-8"))) == list(STARTS)


@pytest.mark.parametrize("config", STARTS)
def test_a_section_starts_when_it_says(config: str) -> None:
    criterion, discriminator = losses(config)
    first, heard = STARTS[config]
    for step in (0, 799, 800, 999, 1000, 1999):
        criterion.set_step(step)
        for term in ("real", "fake"):
            active = first is not None and step >= first
            assert discriminator.is_active(term) == active
            assert discriminator.weights[term] == (0.5 if active else 0.0)
        assert criterion.is_active("adversarial") == (heard is not None and step >= heard)
        assert criterion.weights["reconstruction"] == 1.0
    assert criterion.weights["adversarial"] == (0.0 if config == "none" else 0.03)


@pytest.mark.parametrize("config", ["late-ramp", "head-start"])
def test_a_ramp_begins_with_its_term(config: str) -> None:
    criterion, _ = losses(config)
    weights = []
    for step in (1000, 1100, 1400):
        criterion.set_step(step)
        weights.append(criterion.weights["adversarial"])
    assert weights == pytest.approx([0.0, 0.03 / 4, 0.03])


@pytest.mark.parametrize("config", [config for config in STARTS if config != "none"])
def test_the_penalty_comes_in_every_sixteenth_step(config: str) -> None:
    criterion, discriminator = losses(config)
    first, _ = STARTS[config]
    assert first is not None
    found = {}
    for step in range(first, first + 50):
        criterion.set_step(step)
        if discriminator.is_active("r1"):
            found[step] = discriminator.weights["r1"]
    assert found == dict.fromkeys(range(first, first + 50, 16), pytest.approx(0.8))


def test_until_it_starts_nothing_differs_to_the_last_bit(late_adversary: ModuleType) -> None:
    from adversary.run import Run

    never, late, with_ramp = (
        late_adversary.train(Run(config, 0, 40), lambda *_: None)
        for config in ("none", "late", "late-ramp")
    )
    for result in (late, with_ramp):
        errors = [point["error"] for point in result.history]
        without = [point["error"] for point in never.history]
        # A point is taken before its step. At the first step of the ramp the weight is still 0.
        same = 21 if result is late else 22
        assert errors[:same] == without[:same]
        assert errors[same] != without[same]
        assert [math.isnan(point["hinge"]) for point in result.history] == [True] * 21 + [
            False
        ] * 19
    assert never.figures["calls"] == 0
    assert late.figures["calls"] == 40


def test_the_images_are_all_there_and_none_is_in_both_parts(late_adversary: ModuleType) -> None:
    images = late_adversary.load_images()
    assert images.training.shape == (1197, 8, 8)
    assert images.held_out.shape == (600, 8, 8)
    together = torch.cat([images.held_out, images.training]).flatten(1).numpy() * 16
    found, wanted = (rows[np.lexsort(rows.T)] for rows in (together, load_digits().data))
    assert np.array_equal(found, wanted)
    again = late_adversary.load_images()
    assert torch.equal(again.held_out, images.held_out)
    first, other = ([*images.batches(2, 4, seed)] for seed in (0, 1))
    assert torch.equal(torch.stack(first), torch.stack([*images.batches(2, 4, 0)]))
    assert first[0].shape == (4, 8, 8)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_measures_of_reconstructions(late_adversary: ModuleType) -> None:
    images = late_adversary.load_images().held_out
    measures = late_adversary.measures
    assert measures.error(images, images + 0.1) == pytest.approx(10.0, rel=1e-4)
    assert measures.sharpness(images, images + 0.1) == pytest.approx(1.0, rel=1e-4)
    assert measures.sharpness(images, images / 2) == pytest.approx(0.25)
    blurred = nn.functional.avg_pool2d(images[:, None], 3, stride=1, padding=1)[:, 0]
    assert measures.sharpness(images, blurred) < 0.5
    stripes = torch.tensor([[0.0, 1.0], [0.0, 1.0]])[None]  # differ across, not down
    assert measures.sharpness(stripes, stripes * 3) == pytest.approx(9.0)
    assert measures.sharpness(stripes, stripes.mT) == pytest.approx(1.0)


def test_the_classifier_guesses_where_there_is_no_difference(late_adversary: ModuleType) -> None:
    images = late_adversary.load_images().held_out
    told_apart = late_adversary.measures.told_apart
    assert told_apart(images, images) == 50.0
    assert told_apart(images, 1 - images) == 100.0
    assert 70 < told_apart(images, nn.functional.avg_pool2d(images, 3, 1, 1)) <= 100


def test_times_are_those_of_the_halves(late_adversary: ModuleType) -> None:
    found = late_adversary.times([1.0, 1.0, 7.0, 2.0, 3.0, 9.0])
    assert found == {"first_half": 1000, "second_half": 3000, "seconds": 23}


def test_the_terms_of_the_discriminator_are_those_worked_out_by_hand(
    late_adversary: ModuleType,
) -> None:
    slopes = torch.zeros(8, 8)
    slopes[0, :2] = torch.tensor([3.0, -4.0])
    calls = []

    def linear(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return (images * slopes).sum(dim=(1, 2)) ** 2 / 2

    images, reconstructions = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)
    images[0, 0, 0] = 0.5  # 3 x 0.5 = 1.5: a logit of 1.125, a gradient of 1.5 x (3, -4)
    images[1, 0, 1] = 0.25  # -4 x 0.25 = -1: a logit of 0.5, a gradient of -1 x (3, -4)
    reconstructions[0, 0, 0] = 1.0  # a logit of 4.5
    terms = late_adversary.discriminator_terms(linear, images, reconstructions, with_penalty=True)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"real": (0 + 0.5) / 2, "fake": (5.5 + 1) / 2, "r1": (1.5**2 * 25 + 25) / 2}
    )
    assert calls == [4]
    terms = late_adversary.discriminator_terms(linear, images, reconstructions, with_penalty=False)
    assert set(terms) == {"real", "fake"}


def test_ranks_share_a_batch(late_adversary: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = late_adversary.ranks
    batch = torch.arange(6)
    assert torch.equal(ranks.share(batch), batch)
    monkeypatch.setattr(ranks.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(ranks.distributed, "get_world_size", lambda: 2)
    assert ranks.share(batch).tolist() == [0, 2, 4]
    monkeypatch.setenv("RANK", "1")
    assert ranks.share(batch).tolist() == [1, 3, 5]


IN_DOUBLE_PRECISION = """
import torch
import late_adversary
from adversary.images import Images

torch.set_default_dtype(torch.float64)
images = late_adversary.load_images()
late_adversary.load_images = lambda: Images(images.training.double(), images.held_out.double())
late_adversary.main()
"""


@pytest.mark.slow
def test_two_processes_train_what_one_trains(
    late_adversary: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In double precision, where rounding has no time to grow."""
    program = tmp_path / "program.py"
    program.write_text(IN_DOUBLE_PRECISION)
    done = run_on_two_ranks(program, "--quick", "--configs", "head-start", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("head-start") == 1  # from the first rank alone
    out = tmp_path / "runs" / "late_adversary"
    assert (out / "images.png").exists()
    (together,) = json.loads((out / "figures.json").read_text())

    images = late_adversary.load_images()
    doubled = type(images)(images.training.double(), images.held_out.double())
    monkeypatch.setattr(late_adversary, "load_images", lambda: doubled)
    torch.set_default_dtype(torch.float64)
    try:
        run = late_adversary.Run("head-start", 0, late_adversary.QUICK_STEPS)
        alone = late_adversary.train(run, lambda *_: None).figures
    finally:
        torch.set_default_dtype(torch.float32)
    assert together["calls"] == alone["calls"] == 66
    for name in ("error", "sharpness"):
        assert together[name] == pytest.approx(alone[name], rel=1e-9)
