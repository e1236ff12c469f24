"""The file of a history: taken up after a break, never lost, and refused where it holds none."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

from lossweights import History, WeightedLoss
from tests.small_components import losses


def train(criterion: WeightedLoss, count: int, value: float | None = None) -> None:
    for _ in range(count):
        criterion(losses(a=float(criterion.current_step) if value is None else value))
        criterion.step()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "rows.jsonl"


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


# Going on


@pytest.mark.parametrize(
    "load_first", [True, False], ids=["load, then follow", "follow, then load"]
)
def test_a_training_that_goes_on_has_the_rows_of_one_without_a_break(
    path: Path, *, load_first: bool
) -> None:
    """From a checkpoint at step 15, while the training had got to step 27."""
    whole = WeightedLoss(terms=["a"])
    expected = History(whole, every="5 steps")
    train(whole, 40)

    before = WeightedLoss(terms=["a"])
    first = History(before, every="5 steps", path=path)
    train(before, 15)
    checkpoint = before.state_dict()
    train(before, 12, value=-1.0)
    assert len(lines(path)) == 5
    first.close()
    assert len(lines(path)) == 6

    after = WeightedLoss(terms=["a"])
    if load_first:
        after.load_state_dict(checkpoint)
    history = History(after, every="5 steps", path=path)
    assert history.steps.tolist() == [4, 9, 14, 19, 24, 26]
    if not load_first:
        after.load_state_dict(checkpoint)
    train(after, 25)
    assert history.rows == expected.rows
    assert History.load(path).rows == expected.rows


def test_the_first_row_from_a_checkpoint_has_the_means_over_the_steps_since(path: Path) -> None:
    criterion = WeightedLoss(terms=["a"])
    history = History(criterion, every="5 steps", path=path)
    train(criterion, 17)
    criterion.set_step(13)
    train(criterion, 7)
    assert history.steps.tolist() == [4, 9, 14, 19]
    assert history["raw/a"].tolist() == History.load(path)["raw/a"].tolist() == [2, 7, 13.5, 17]


def test_steps_done_again_take_the_place_of_the_old(path: Path) -> None:
    criterion = WeightedLoss(terms=["a"])
    history = History(criterion, every="2 steps", path=path)
    train(criterion, 10)
    criterion.set_step(5)
    assert history.steps.tolist() == [1, 3, 5, 7, 9]  # none is repeated yet
    train(criterion, 1, value=-1.0)
    assert history["raw/a"].tolist() == History.load(path)["raw/a"].tolist() == [0.5, 2.5, -1]
    criterion.set_step(0)
    train(criterion, 2, value=-2.0)
    assert history.rows == History.load(path).rows
    assert history["raw/a"].tolist() == [-2]


def test_the_row_of_an_interval_in_progress_is_written_when_it_is_complete(path: Path) -> None:
    criterion = WeightedLoss(terms=["a"])
    history = History(criterion, every="4 steps", path=path, include=["raw"])
    for count in (3, 1, 2):
        train(criterion, count)
        assert history.rows
    assert lines(path) == ['{"step": 3, "raw/a": 1.5}']
    history.close()
    history.close()  # which adds nothing
    assert lines(path) == ['{"step": 3, "raw/a": 1.5}', '{"step": 5, "raw/a": 4.5}']
    assert history.rows == History.load(path).rows


def test_a_training_that_goes_on_after_close_adds_to_its_row_with_another(path: Path) -> None:
    criterion = WeightedLoss(terms=["a"])
    for count in (6, 5):
        history = History(criterion, every="4 steps", path=path)
        train(criterion, count)
        history.close()
    assert history.steps.tolist() == [3, 5, 7, 10]
    assert history["raw/a"].tolist() == [1.5, 4.5, 6.5, 9]


def test_a_file_is_appended_to_and_later_rows_win_when_it_is_read(path: Path) -> None:
    criterion = WeightedLoss(terms=["a"])
    history = History(criterion, every="1 steps", path=path, include=["raw"])
    train(criterion, 4)
    criterion.set_step(2)
    train(criterion, 1, value=-1.0)
    assert lines(path)[2:] == [
        '{"step": 2, "raw/a": 2.0}',
        '{"step": 3, "raw/a": 3.0}',
        '{"step": 2, "raw/a": -1.0}',
    ]
    assert history["raw/a"].tolist() == History.load(path)["raw/a"].tolist() == [0, 1, -1]
    assert len(lines(path)) == 5
    History(path=path)  # which goes on with the rows that count
    assert len(lines(path)) == 3


def test_steps_that_are_left_out_are_no_steps_done_again(path: Path) -> None:
    criterion = WeightedLoss(terms=["a"])
    history = History(criterion, every="2 steps", path=path)
    train(criterion, 3)
    criterion.set_step(101)
    train(criterion, 2)
    assert history.steps.tolist() == [1, 2, 101, 102]
    assert history["raw/a"].tolist() == [0.5, 2, 101, 102]


# Cut off, and not to be written


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_last_line_that_was_cut_off_is_ignored(path: Path, cut: int) -> None:
    criterion = WeightedLoss(terms=["a"])
    history = History(criterion, every="1 steps", path=path)
    train(criterion, 3)
    history.close()
    text = path.read_text(encoding="utf-8")
    whole = lines(path)
    path.write_text(text[:-cut], encoding="utf-8")
    assert len(History.load(path)) == 2
    criterion = WeightedLoss(terms=["a"])
    criterion.set_step(2)
    history = History(criterion, every="1 steps", path=path)
    train(criterion, 1)
    assert lines(path) == whole


def test_a_last_row_of_another_program_needs_no_line_end(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"step":1,"raw/a":2}\n{"step":2,"raw/a":3}', encoding="utf-8")
    assert History.load(path)["raw/a"].tolist() == [2, 3]


def test_a_file_that_cannot_be_written_later_costs_a_warning_and_no_row(path: Path) -> None:
    criterion = WeightedLoss(terms=["a"])
    history = History(criterion, every="1 steps", path=path)
    train(criterion, 2)
    path.rename(path.with_suffix(".moved"))
    path.mkdir()  # where a file was
    with pytest.warns(UserWarning, match=r"rows.jsonl cannot be written.* history.save\(path\)"):
        train(criterion, 1)  # the step is done all the same
    train(criterion, 1)
    assert criterion.current_step == 4
    path.rmdir()
    history.save(path)
    assert History.load(path).steps.tolist() == [0, 1, 2, 3]


def test_a_file_is_saved_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    criterion = WeightedLoss(terms=["a"])
    history = History(criterion, every="1 steps", path=path)
    train(criterion, 3)
    before = lines(path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lossweights.analysis.history._line", full)
    with pytest.raises(OSError, match="No space left"):
        history.save(path)
    assert lines(path) == before
    with pytest.warns(UserWarning, match="No space left"):
        train(criterion, 1)
    assert history.steps.tolist() == [0, 1, 2, 3]


def test_the_file_is_where_it_was_said_when_the_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    criterion = WeightedLoss(terms=["a"])
    history = History(criterion, path="rows.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    train(criterion, 1)
    history.close()
    assert len(lines(tmp_path / "rows.jsonl")) == 1
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to("rows.jsonl")
    criterion = WeightedLoss(terms=["a"])
    history = History(criterion, path=tmp_path / "link.jsonl")
    train(criterion, 1)
    history.close()
    history.save(tmp_path / "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(History.load(tmp_path / "rows.jsonl")) == 1


# The end


def test_a_criterion_that_is_gone_leaves_its_history(path: Path) -> None:
    criterion = WeightedLoss(terms=["a"])
    history = History(criterion, path=path)
    train(criterion, 1)
    seen = weakref.ref(criterion)
    del criterion  # at once: no cycle keeps it, and what it has on a device
    assert seen() is None
    assert len(history) == 1


def test_a_history_that_is_closed_is_not_kept() -> None:
    criterion = WeightedLoss(terms=["a"])
    history = History(criterion)
    train(criterion, 1)
    history.close()
    kept = weakref.ref(history)
    del history
    assert kept() is None


@pytest.mark.parametrize("ending", ["", "raise ValueError", "os.kill(os.getpid(), 9)"])
def test_no_row_is_lost_when_the_process_ends(tmp_path: Path, ending: str) -> None:
    code = f"""
import os, torch
from lossweights import History, WeightedLoss
criterion = WeightedLoss(terms=["a"])
History(criterion, every="1 steps", path="rows.jsonl")
criterion({{"a": torch.tensor(2.0)}})
criterion.step()
{ending}
"""
    subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert History.load(tmp_path / "rows.jsonl")["raw/a"] == [2.0]


# What is no history


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("step,loss\n1,2\n", 1),
        ('{"step": 1}\n[1]\n', 2),
        ('{"total": 1}\n', 1),
        ('{"step": true}\n', 1),
        ('{"step": -1}\n', 1),
        ('{"step": 1.5}\n', 1),
        ('{"step": 1, "total": "2"}\n', 1),
        ('{"step": 1, "total": true}\n', 1),
        ('{"step": 1\n{"step": 2}\n', 1),
        ("\n", 1),
        ("\x00" * 9 + "\n", 1),
        ("\x00" * 9, 1),
        ('{"a": 1}', 1),
    ],
)
def test_what_is_no_history_is_refused_and_left_alone(path: Path, text: str, line: int) -> None:
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    criterion = WeightedLoss(terms=["a"])
    for read in (History.load, lambda path: History(criterion, path=path)):
        with pytest.raises(ValueError, match=f"rows.jsonl, line {line}: a row of a history is a "):
            read(path)
    assert path.read_text(encoding="utf-8") == text
    train(criterion, 1)  # follows nothing
    assert path.read_text(encoding="utf-8") == text


def test_a_file_that_cannot_be_read_or_written_is_refused_before_training(tmp_path: Path) -> None:
    criterion = WeightedLoss(terms=["a"])
    with pytest.raises(FileNotFoundError, match="missing.jsonl"):
        History.load(tmp_path / "missing.jsonl")
    with pytest.raises(OSError, match=tmp_path.name):
        History(criterion, path=tmp_path)
    (tmp_path / "binary").write_bytes(b"\x80\x81\xff")
    with pytest.raises(ValueError, match="binary, line 1: a row of a history"):
        History(criterion, path=tmp_path / "binary")
    with pytest.raises(OSError, match="binary"):
        History(criterion, path=tmp_path / "binary" / "rows.jsonl")


def test_no_file_is_touched_that_is_not_named(path: Path) -> None:
    criterion = WeightedLoss(terms=["a"])
    history = History(criterion, path=path)
    train(criterion, 1)
    history.close()
    assert os.listdir(path.parent) == ["rows.jsonl"]  # noqa: PTH208
