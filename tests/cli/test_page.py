"""What docs/cli.md shows of the command line is what one sees."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Call, write

PAGE = (Path(__file__).parents[2] / "docs/cli.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```console\n\$ lossweights (.*)\n((?s:.*?))```", PAGE)
ELBO = re.findall(r"```yaml\n(# elbo.yaml\n(?s:.*?))```", PAGE)[0]
FILES = {
    "elbo.yaml": ELBO,
    "cyclical.yaml": ELBO,
    "monotonic.yaml": ELBO.replace("cyclical, cycles: 4, ratio: 0.5", "warmup, over: 25%"),
    "short.yaml": "terms: {reconstruction: 1.0, kl: {kind: warmup, over: 2000 steps}}",
    "wrong.yaml": "# wrong.yaml\nterms:\n  reconstruction: yes\n  kl: {kind: cyclical, cycles: 0}",
}


def test_it_shows_something() -> None:
    assert {words.split()[0] for words, _ in SHOWN} == {"check", "preview", "kinds"}


@pytest.mark.parametrize(("words", "shown"), SHOWN, ids=[words for words, _ in SHOWN])
def test_what_is_shown_is_seen(words: str, shown: str, call: Call, tmp_path: Path) -> None:
    for name, text in FILES.items():
        write(tmp_path, name, text)
    arguments = [part.strip('"') for part in words.split(" ")]
    done = call(*arguments, columns=60 if arguments[0] == "preview" else 80)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(shown, done.out + done.err, flags), done.out
