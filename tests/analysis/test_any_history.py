"""Any file of a history: rows that can be used and saved, or an error that names the line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lossweights import History
from tests.fuzzing import NUMBERS, TEXTS, many

ROWS = b'{"step": 0, "raw/a": 1.5}\n{"step": 2, "raw/a": null, "total": 1e999}\n{"step": 4}\n'


def load(path: Path) -> History | None:
    problem = ""
    try:
        history = History.load(path)
    except ValueError as error:
        problem = str(error)
    if problem:
        assert problem.startswith(f"{path.name}, line ")
        assert len(problem) < 400
        return None
    for metric in history:
        assert history[metric].shape == history.steps.shape
    assert (history.steps[1:] > history.steps[:-1]).all()
    history.save(path)
    again = History.load(path)
    assert [*map(str, again.rows)] == [*map(str, history.rows)]  # nan is not equal to itself
    return history


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A history with bytes replaced, removed or added."""
    data = ROWS
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(start + 10, len(data))))
        new = draw(
            st.one_of(
                st.just(b""),
                st.binary(max_size=4),
                NUMBERS.map(lambda number: repr(number)[:400].encode()),
                TEXTS.map(lambda text: text.encode("utf-8", "replace")),
                st.sampled_from(
                    [b"[" * 3000, b'{"a":' * 3000, b"1" * 5000, b"NaN", b"\n", b"true"]
                ),
            )
        )
        data = data[:start] + new + data[stop:]
    return data


@many
@given(damaged())
@example(b'{"step": 1, "a": ' + b"[" * 100_000 + b"\n")
@example(b'{"step": 1, "a": ' + b"1" * 400 + b"}\n")
@example(b'{"step": 1' + b"0" * 30 + b"}\n")
@example(b'{"step": 1, "a": "x"}\n')
@example(b'{"step": 1, "a\0": 1}\n')
@example(b"\xff\xfe\n")
@example(b'{"step": 1, "a": NaN, "b": null, "c": 1e999}\n')
def test_a_damaged_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    path.write_bytes(data)
    load(path)


@pytest.mark.parametrize(
    "row",
    [b'"a": ' + b"[" * 100_000, b'"a": ' + b"1" * 400 + b"}", b'"a": [1]}', b'"a": true}', b"\0"],
    ids=lambda row: row[:12].decode(),
)
def test_a_damaged_row_is_named(row: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1, ' + row + b"\n")
    with pytest.raises(ValueError, match="^rows.jsonl, line 2: a row of a history is a JSON obj"):
        History.load(path)


def test_whole_numbers_beyond_float64_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"step": {2**53}, "a": {-(2**53)}, "b": NaN}}\n', encoding="utf-8")
    history = load(path)
    assert history is not None
    assert history.steps.tolist() == [2**53]
    assert history["a"].tolist() == [-(2**53)]
    assert math.isnan(history["b"][0])
    path.write_text(f'{{"step": {2**53 + 1}}}\n', encoding="utf-8")
    assert load(path) is None


@pytest.mark.parametrize("path", ["/dev/zero", "/", "a\0b", "\ud800"])
def test_only_regular_files_are_read(path: str) -> None:
    with pytest.raises(OSError, match=r"regular file|null byte|surrogates"):
        History.load(path)
    with pytest.raises((OSError, ValueError), match=r"regular file|is not the path of a file"):
        History(path=path)
