"""The command as a process: what a terminal may lack, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lossweights
from tests.cli.conftest import Call, write

CONFIG = "total_steps: 100\nterms: {nll: 1.0, größe: {kind: warmup, over: 50%}}\n"
COMMANDS = ("init", "check", "preview", "calibrate", "kinds", "schema")
SAID = ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTHONIOENCODING", "TERM")


def run(
    *arguments: str, folder: Path, code: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m lossweights`, or `python -c CODE`, in a folder."""
    rest = {key: value for key, value in os.environ.items() if key not in SAID}
    command = ["-c", code] if code else ["-m", "lossweights"]
    return subprocess.run(  # noqa: S603  # our own
        [sys.executable, *command, *arguments],
        cwd=folder,
        env=rest | {"PYTHONPATH": str(Path(lossweights.__file__).parents[1])} | environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [["--version"], ["--help"], ["init"], *([each, "--help"] for each in COMMANDS)],
    ids=str,
)
def test_what_needs_no_config_imports_no_torch(words: list[str], tmp_path: Path) -> None:
    code = (
        "import atexit, sys; from lossweights.cli import main\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        f"sys.argv[1:] = {words}; main()\n"
    )
    done = run(folder=tmp_path, code=code)
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert done.stdout


def test_completion_in_a_shell_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import atexit, sys; from lossweights.cli import main\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        "sys.argv = ['lossweights']; main()\n"
    )
    words = {"COMP_WORDS": "lossweights pre", "COMP_CWORD": "1"}
    done = run(folder=tmp_path, code=code, _LOSSWEIGHTS_COMPLETE="complete_bash", **words)
    assert (done.stdout, done.stderr) == ("preview\n", "False\n")


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii", "COLUMNS": "40"},
        {"PYTHONIOENCODING": "latin-1", "TERM": "dumb", "COLUMNS": "200"},
    ],
)
def test_a_terminal_without_unicode_is_no_error(
    environment: dict[str, str], tmp_path: Path
) -> None:
    write(tmp_path, "a.yaml", CONFIG)
    code = (
        "import sys; from lossweights.cli import main\n"
        "for words in (['preview', 'a.yaml'], ['check', 'a.yaml'], ['kinds', 'cyclical']):\n"
        "    sys.argv[1:] = words\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, words\n"
    )
    found = run(folder=tmp_path, code=code, **environment)
    assert (found.returncode, found.stderr) == (0, "")
    assert "+--------" in found.stdout
    assert "\x1b" not in found.stdout


def test_piped_output_has_no_colour(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", CONFIG)
    code = (
        "import os, sys; from lossweights.cli import main\n"
        "sys.argv[1:] = ['preview', 'a.yaml']\n"
        "forced = {'FORCE_COLOR': '1', 'TERM': 'xterm-256color'}\n"
        "for environment in ({}, forced, {'NO_COLOR': '1'}):\n"
        "    os.environ.update(environment)\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, environment\n"
        "    print('the end')\n"
    )
    found = run(folder=tmp_path, code=code)
    assert (found.returncode, found.stderr) == (0, "")
    plain, forced, forbidden, _ = found.stdout.split("the end\n")
    assert "└┬───" in plain
    assert "größe" in plain
    assert "\x1b" not in plain
    assert "\x1b[36m" in forced, "else no proof"
    assert "\x1b[36m" not in forbidden


def test_without_an_extra_it_says_what_to_install(tmp_path: Path) -> None:
    extras = ("typer", "rich", "yaml", "plotext", "docstring_parser")
    write(tmp_path, "a.yaml", CONFIG)
    code = (
        "import sys; from lossweights.cli import main\n"
        "sys.argv[1:] = ['preview', 'a.yaml']\n"
        f"extras = {extras}\n"
        "for lacking in extras:\n"
        "    for name in list(sys.modules):\n"
        "        if name.startswith('lossweights.cli.') or name.partition('.')[0] in extras:\n"
        "            del sys.modules[name]\n"
        "    sys.modules[lacking] = None\n"
        "    try: main()\n"
        "    except SystemExit as end: print(end)\n"
    )
    found = run(folder=tmp_path, code=code)
    expected = [f"the command line needs {e}: pip install 'lossweights[cli]'" for e in extras]
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.splitlines() == expected


def test_a_warning_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", CONFIG.replace("größe", "日本"))
    found = run("preview", "a.yaml", "--out", "a.png", folder=tmp_path)
    *warned, wrote = found.stderr.splitlines()
    assert (found.returncode, wrote) == (0, "wrote a.png")
    assert warned, "the fonts of matplotlib have no such letters"
    assert all(line.startswith("warning: Glyph ") for line in warned)


def test_an_interruption_ends_it_quietly(tmp_path: Path) -> None:
    interrupted = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    write(tmp_path, "slow.py", interrupted)
    found = run("kinds", "--import", "slow", folder=tmp_path)
    assert found.returncode == 130
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    code = (
        "import os, sys; from lossweights.cli import main\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1); sys.argv[1:] = ['kinds']\n"
        "main()\n"
    )
    found = run(folder=tmp_path, code=code)
    assert found.stderr == ""


# The way in


def test_alone_it_shows_the_way(call: Call) -> None:
    alone, asked = call(), call("--help")
    assert (alone.status, alone.out) == (0, asked.out)
    places = [alone.out.index(f"lossweights {word}") for word in ("init", "check", "preview")]
    assert places == sorted(places)
    assert "WeightedLoss.from_config" in alone.out


@pytest.mark.parametrize("command", ["init", "check", "preview", "kinds", "schema"])
@pytest.mark.parametrize("columns", [40, 200])
def test_every_help_has_examples(command: str, columns: int, call: Call) -> None:
    out = call(command, "--help", columns=columns).out
    assert out.count(f"lossweights {command}") >= 3
    assert "\b" not in out
    assert "\\b" not in out


def test_the_version(call: Call) -> None:
    assert call("--version").out == f"lossweights {lossweights.__version__}\n"


@pytest.mark.parametrize("columns", [60, 80])
def test_lines_end_between_words_where_the_terminal_ends(
    columns: int, call: Call, tmp_path: Path
) -> None:
    late = CONFIG.replace("50%", "500 steps")
    write(tmp_path, "a.yaml", late)
    write(tmp_path, "b.yaml", late.replace("warmup", "wramup"))
    write(tmp_path, "c.yaml", late.replace("total_steps: 100\n", "balancer: dwa\n"))
    for words in (
        ["check", "a.yaml", "b.yaml", "c.yaml"],
        ["init"],
        ["kinds"],
        ["check", "d.yaml"],
    ):
        narrow, wide = (call(*words, columns=width) for width in (columns, 1000))
        for found, whole in ((narrow.out, wide.out), (narrow.err, wide.err)):
            wide_lines = [line.strip() for line in found.splitlines() if len(line) > columns]
            assert not any(" " in line for line in wide_lines)
            assert found.split() == whole.split()
    said = call("preview", "c.yaml", columns=columns).out
    assert max(map(len, said.splitlines())) <= columns
    assert "the length of training is not known, so" in " ".join(said.split())
