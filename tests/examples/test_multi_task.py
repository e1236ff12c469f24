"""Five tasks on one trunk."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from sklearn.datasets import load_digits, load_sample_images

from lossweights import Balancer, LossConfig, WeightedLoss
from tests.examples.conftest import Call
from tests.examples.programs import EXAMPLES, run_program

CONFIGS = EXAMPLES / "multi_task.yaml"
TASKS = ["digit", "position", "ink", "scene", "photo"]
SECTIONS = yaml.safe_load(CONFIGS.read_text("utf-8"))
SINGLE = [name for name in SECTIONS if name.startswith("single-")]
TOGETHER = [name for name in SECTIONS if name not in SINGLE]


@pytest.fixture
def multi_task(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("multi_task")


@pytest.mark.slow
def test_every_config_is_trained_compared_and_drawn(tmp_path: Path) -> None:
    done = run_program("multi_task.py", "--quick", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    check(TOGETHER, done.stdout, tmp_path / "runs" / "multi_task")


def test_one_config_is_trained_compared_and_drawn(
    multi_task: ModuleType, call: Call, tmp_path: Path
) -> None:
    done = call(multi_task, "--quick", "--configs", "pcgrad")
    assert done.status == 0, done.err
    check(["equal", "pcgrad"], done.out, tmp_path / "runs" / "multi_task")


def check(together: Sequence[str], printed: str, out: Path) -> None:
    """What a program has printed and left."""
    rows = {"single": "single tasks"} | {name: name for name in together}
    assert rows.keys() <= {line.split()[0] for line in printed.splitlines() if line.split()}
    for picture in ("delta-m.png", "shares.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    table = (out / "table.md").read_text("utf-8").splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in table[2:]] == list(rows.values())
    figures = json.loads((out / "figures.json").read_text("utf-8"))
    assert [run["run"]["config"] for run in figures["runs"]] == [*SINGLE, *together]
    assert figures["rows"]["single tasks"][0]["delta_m"] == 0
    assert figures["rows"]["equal"][0]["time"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--configs", "adam"], "invalid choice: 'adam'"),
        (["--steps", "9"], "a whole number from 10"),
        (["--learning-rate", "nan"], "a number above 0 is needed, found 'nan'"),
        (["--split", "training"], "invalid choice: 'training'"),
        (["--out", "file/below"], "Not a directory"),
    ],
)
def test_a_wrong_option_gives_one_line(
    arguments: list[str],
    words: str,
    multi_task: ModuleType,
    call: Call,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    done = call(multi_task, *arguments)
    assert done.status == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{terms: [digit], balancer: pcgard}", "did you mean 'pcgrad'"),
        ("{terms: [digits, position, ink, scene, photo]}", "equal: .*'digits'"),
    ],
)
def test_a_wrong_config_gives_one_line(
    section: str,
    words: str,
    multi_task: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "wrong.yaml").write_text(f"equal: {section}\n")
    monkeypatch.setattr("sys.argv", ["multi_task.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        multi_task.read_options("", tmp_path / "wrong.yaml")
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert re.search(words, line), line


def test_no_balancer_is_missing_and_each_section_is_that_of_its_name() -> None:
    ours = {kind for kind, found in Balancer.kinds().items() if "lossweights" in found.__module__}
    assert ours == set(TOGETHER) - {"equal", "relative"}
    for name in ours:
        config = LossConfig.read(CONFIGS, at=name)
        assert config.balancer is not None
        assert config.balancer.kind == name
        assert list(config.terms) == TASKS


def test_the_baselines_do_what_they_say() -> None:
    losses = {task: torch.tensor(10.0**size) for size, task in enumerate(TASKS)}
    halved = {task: loss / 2 for task, loss in losses.items()}
    equal = WeightedLoss.from_config(CONFIGS, at="equal")
    assert equal(losses).item() == pytest.approx(11111)
    relative = WeightedLoss.from_config(CONFIGS, at="relative")
    relative(losses)
    relative.step()
    assert relative(halved).item() == pytest.approx(2.5)
    for task, loss in losses.items():
        single = WeightedLoss.from_config(CONFIGS, at=f"single-{task}")
        assert single(losses).item() == loss.item()


def test_the_splits_have_nothing_in_common(multi_task: ModuleType) -> None:
    from digit_tasks.data import SIZE, SPLITS

    digits, columns = set[int](), set[int]()
    for split in SPLITS.values():
        of_split = set(range(*split.digits)), set(range(*split.columns))
        assert not digits & of_split[0]
        assert not columns & of_split[1]
        assert len(of_split[1]) >= SIZE
        digits |= of_split[0]
        columns |= of_split[1]
    assert digits == set(range(1797))
    assert columns == set(range(320))


def test_an_image_holds_what_its_targets_say(multi_task: ModuleType) -> None:
    """The digit is found again in scikit-learn's, from the image and the scene beneath alone."""
    from digit_tasks.data import load

    shipped = load_digits()
    assert load("test").images.shape == (2000, 1, 12, 12)
    examples = load("test").select(torch.arange(200))
    beneath = 0.6 * examples.targets["scene"].reshape(200, 12, 12)
    ink = ((examples.images[:, 0] - beneath) / (1 - beneath)).numpy()
    offsets = (examples.targets["position"] + 2).long().tolist()
    found = np.stack(
        [image[y : y + 8, x : x + 8] for image, (y, x) in zip(ink, offsets, strict=True)]
    )
    nearest = np.linalg.norm(found.reshape(200, 1, 64) - shipped.data / 16, axis=2)
    assert nearest.min(axis=1) == pytest.approx(0, abs=1e-3)
    assert (shipped.target[nearest.argmin(axis=1)] == examples.targets["digit"].numpy()).all()
    assert ink.sum(axis=(1, 2)) == pytest.approx(found.sum(axis=(1, 2)), abs=1e-3)
    covered = 100 * found.mean(axis=(1, 2)) - examples.targets["ink"][:, 0].numpy()
    assert covered == pytest.approx(covered[0], abs=1e-2)  # less what an average one covers
    assert covered[0] == pytest.approx(100 * shipped.data.mean() / 16, abs=0.3)


@pytest.mark.parametrize("name", ["training", "validation", "test"])
def test_scenes_are_of_their_photograph(multi_task: ModuleType, name: str) -> None:
    """And of the columns of the split; the labels say which photograph, in training at times."""
    from digit_tasks.data import SPLITS, load

    gray = [photograph.mean(axis=2) / 255 for photograph in load_sample_images().images]
    examples = load(name)
    first, last = SPLITS[name].columns
    right = []
    for scene, label in zip(
        examples.targets["scene"][:200], examples.targets["photo"].tolist(), strict=False
    ):
        tone = scene.mean().item()
        found = []
        for photograph in gray:
            small = photograph[:426].reshape(213, 2, 320, 2).mean(axis=(1, 3))[:, first:last]
            sums = small.cumsum(0).cumsum(1)
            sums = np.pad(sums, ((1, 0), (1, 0)))
            means = (sums[12:, 12:] - sums[:-12, 12:] - sums[12:, :-12] + sums[:-12, :-12]) / 144
            where = np.argwhere(abs(means - tone) < 1e-5)
            patches = [small[y : y + 12, x : x + 12].ravel() for y, x in where]
            found.append(any(np.allclose(patch, scene, atol=1e-5) for patch in patches))
        assert any(found)
        right.append(found[label])
    assert np.mean(right) == pytest.approx(0.6 if name == "training" else 1, abs=0.1)


def test_an_epoch_is_every_example_once(multi_task: ModuleType) -> None:
    from digit_tasks.data import BATCH, STEPS_PER_EPOCH, load

    examples = load("training")
    assert STEPS_PER_EPOCH * BATCH == len(examples.images) == 2048
    batches = list(examples.batches(2 * STEPS_PER_EPOCH, seed=3))
    first, second = batches[:STEPS_PER_EPOCH], batches[STEPS_PER_EPOCH:]
    for epoch in (first, second):
        images = torch.cat([batch.images for batch in epoch])
        assert sorted(images.flatten(1).tolist()) == sorted(examples.images.flatten(1).tolist())
    assert not torch.equal(first[0].images, second[0].images)
    again = next(examples.batches(1, seed=3))
    assert torch.equal(again.images, first[0].images)
    assert torch.equal(again.targets["ink"], first[0].targets["ink"])


def test_metrics_by_hand(multi_task: ModuleType) -> None:
    from digit_tasks import tasks

    assert list(tasks.TASKS) == TASKS
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert tasks.TASKS["photo"].metric(scores, torch.tensor([1, 0, 0, 0])).item() == 75
    outputs, targets = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1, 1]])
    assert tasks.TASKS["position"].metric(outputs, targets).item() == 2.5
    assert tasks.TASKS["position"].loss(outputs, targets).item() == 6.25  # (9 + 16) / 4
    assert tasks.TASKS["ink"].metric(torch.tensor([[1.0], [-1.0]]), torch.zeros(2, 1)).item() == 1
    assert tasks.TASKS["scene"].metric(torch.full((2, 144), 0.25), torch.zeros(2, 144)).item() == 25


def test_delta_m_by_hand(multi_task: ModuleType) -> None:
    from digit_tasks.measures import delta_m

    single = {"digit": 80.0, "position": 0.5, "ink": 2.0, "scene": 10.0, "photo": 50.0}
    assert delta_m(single, single) == 0
    # 10% fewer digits right, a quarter further off, 5% less, twice the error, a tenth more right.
    figures = {"digit": 72.0, "position": 0.625, "ink": 1.9, "scene": 20.0, "photo": 55.0}
    assert delta_m(figures, single) == pytest.approx((10 + 25 - 5 + 100 - 10) / 5)


def test_mean_ranks_by_hand(multi_task: ModuleType) -> None:
    from digit_tasks.measures import mean_ranks

    best = {"digit": 90.0, "position": 0.1, "ink": 1.0, "scene": 5.0, "photo": 80.0}
    worst = {"digit": 10.0, "position": 0.9, "ink": 3.0, "scene": 9.0, "photo": 50.0}
    middle = {"digit": 50.0, "position": 0.5, "ink": 1.0, "scene": 5.0, "photo": 60.0}
    ranks = mean_ranks({"a": best, "b": worst, "c": middle})
    # Ties of the best two share the ranks 1 and 2.
    assert ranks == {"a": (1 + 1 + 1.5 + 1.5 + 1) / 5, "b": 3, "c": (2 + 2 + 1.5 + 1.5 + 2) / 5}


def test_shares_leave_penalties_out() -> None:
    criterion = WeightedLoss(["digit", "ink"], balancer="uncertainty")
    criterion({"digit": torch.tensor(3.0), "ink": torch.tensor(1.0)})
    metrics = criterion.metrics(include=["share", "penalty"])
    assert {"share/digit": 0.75, "share/ink": 0.25}.items() <= metrics.items()
    assert "penalty/ink" in metrics


def test_shares_are_kept_every_ten_steps_and_add_up(multi_task: ModuleType) -> None:
    from digit_tasks.run import Run

    run = Run("uncertainty", 0, 21, 2e-3, "validation")
    shares = multi_task.train(run, lambda *_: None).shares
    assert [*shares] == TASKS
    assert np.sum([*shares.values()], axis=0) == pytest.approx([1, 1, 1])


def test_times_are_medians_of_steps_in_turn(
    multi_task: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from digit_tasks import timing

    clock, order = [0.0], list[str]()

    def loop(name: str, seconds: list[float]) -> Iterator[None]:
        for step in count():
            order.append(name)
            clock[0] += seconds[step]
            yield

    monkeypatch.setattr(timing, "perf_counter", lambda: clock[0])
    warm_up = [100.0, 100.0, 100.0]
    loops = {"a": loop("a", [*warm_up, 1, 9, 2]), "b": loop("b", [*warm_up, 4, 4, 90])}
    assert timing.step_times(loops, 3) == {"a": pytest.approx(2), "b": pytest.approx(4)}
    assert order == ["a", "b"] * 6


def test_a_run_is_the_same_again_and_another_with_another_seed(multi_task: ModuleType) -> None:
    from digit_tasks.run import Run

    def train(config: str, seed: int) -> dict[str, float]:
        run = Run(config, seed, 10, 2e-3, "validation")
        return dict(multi_task.train(run, lambda *_: None).figures)

    assert train("imtl-g", 0) == train("imtl-g", 0)
    assert train("imtl-g", 0) != train("imtl-g", 1)


def test_a_task_alone_is_learnt_and_no_other_head_is_touched(multi_task: ModuleType) -> None:
    from digit_tasks.data import load
    from digit_tasks.model import measure
    from digit_tasks.run import Run

    model = multi_task.network(0)
    before = measure(model, load("validation"))
    heads = {task: head[2].weight.clone() for task, head in model.heads.items()}
    run = Run("single-position", 0, 150, 2e-3, "validation")
    for _ in multi_task.training(run, model, multi_task.criterion_of(run)):
        pass
    assert measure(model, load("validation"))["position"] < before["position"] / 2
    for task, head in model.heads.items():
        assert torch.equal(head[2].weight, heads[task]) == (task != "position")


@pytest.mark.parametrize("config", TOGETHER)
def test_the_loop_gives_each_balancer_what_it_needs(multi_task: ModuleType, config: str) -> None:
    from digit_tasks.run import Run

    run = Run(config, 0, 10, 2e-3, "test")
    criterion = multi_task.criterion_of(run)
    for _ in multi_task.training(run, multi_task.network(0), criterion):
        pass
    assert criterion.current_step == 10
    assert criterion.audit() == []


def test_all_configs_have_the_same_network_and_batches_and_each_seed_has_its_own(
    multi_task: ModuleType,
) -> None:
    """The network stays as it is at the start, so that the losses tell."""
    from digit_tasks.run import Run

    def losses(config: str, seed: int, network: int) -> list[dict[str, float]]:
        run = Run(config, seed, 10, 0.0, "test")
        criterion = multi_task.criterion_of(run)
        training = multi_task.training(run, multi_task.network(network), criterion)
        return [criterion.metrics(include=["raw"]) for _ in training]

    equal = losses("equal", 0, 0)
    assert len(equal) == 10
    for config in TOGETHER:
        assert losses(config, 0, 0) == equal
    assert losses("equal", 1, 0)[0] != equal[0]
    assert losses("equal", 0, 1)[0] != equal[0]
