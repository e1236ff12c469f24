"""`sweep` trains what its options say, `front` shows the results."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lossweights import Duration, Front, LossConfig
from tests.cli.conftest import Call, write

ELBO = "total_steps: 100\nterms:\n  nll: 1.0\n  kl: {weight: 0.5, schedule: {kind: cyclical}}\n"
TRAIN = """
def train(config, seed, report):
    weight = config.terms["kl"].weight
    return {"nll": 10 + weight + seed, "probe": weight / (1 + weight)}

def fails(config, seed, report):
    raise OSError("no data")

number = 3
"""
OPTIONS = ("--minimize", "nll", "--maximize", "probe")


@pytest.fixture(autouse=True)
def files(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "elbo.yaml", ELBO)
    write(tmp_path, "code/cli_experiment.py", TRAIN)


TRAINING = "code/cli_experiment.py:train"


def test_options_are_those_of_the_function(call: Call) -> None:
    ranges = (
        *("--vary", "kl.weight=0.01..10 log", "--vary", "kl.schedule.cycles = 2..5"),
        *("--vary", "kl.after=5%..6e1%", "--vary", "nll=[1, {weight: 2}]"),
    )
    done = call("sweep", TRAINING, "elbo.yaml", *ranges, *OPTIONS, "--trials", 4, "--seeds", 2)
    assert done.status == 0, done.err
    front = Front.load("sweep.db")
    assert (front.minimize, front.maximize, front.seeds) == (("nll",), ("probe",), (0, 1))
    assert len(front.done) == 5
    for each in front.outcomes[1:]:
        config = front.config(each.number)
        assert 0.01 <= config.terms["kl"].weight <= 10
        assert isinstance(each.params["kl.schedule.cycles"], int)
        assert 5 <= Duration.parse(config.terms["kl"].after).value <= 60
        assert each.params["nll"] in (1, "{weight: 2}")
    assert done.out == front.table() + "\n"


def test_front_shows_a_table_a_picture_and_a_config(call: Call, tmp_path: Path) -> None:
    vary = ("--vary", "kl.weight=[1, 2.5]")
    call("sweep", TRAINING, "elbo.yaml", *vary, *OPTIONS, "--trials", 2, "--name", "mine")
    shown = call("front", "sweep.db", "--name", "mine", "--out", "front.png")
    assert shown.status == 0, shown.err
    assert shown.out == Front.load("sweep.db", "mine").table() + "\n"
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    printed = call("front", "sweep.db", "--name", "mine", "--config", 2).out
    wanted = LossConfig.read("elbo.yaml").override({"kl.weight": 2.5})
    assert LossConfig.read(yaml.safe_load(printed)) == wanted


def test_the_same_command_resumes(call: Call) -> None:
    command = ("sweep", TRAINING, "elbo.yaml", "--vary", "kl.weight=1..9", *OPTIONS, "--trials")
    first = call(*command, 2).out.splitlines()
    assert call(*command, 2).out.splitlines() == first
    assert len(call(*command, 3).out.splitlines()) == len(first) + 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("code/cli_experiment.py", "--vary", "kl.weight=1..2"), 2, "write FILE.py:NAME"),
        (("missing.py:train", "--vary", "kl.weight=1..2"), 2, "there is no file missing.py"),
        ((f"{TRAINING}er", "--vary", "kl.weight=1..2"), 2, "has no function 'trainer'"),
        (("code/cli_experiment.py:number", "--vary", "kl.weight=1..2"), 2, "no function 'number'"),
        ((TRAINING, "--vary", "kl.weight"), 2, "write PATH=LOW..HIGH"),
        ((TRAINING, "--vary", "kl.weight=3"), 2, "write PATH=LOW..HIGH"),
        ((TRAINING, *("--vary", "kl.weight=1..2") * 2), 2, "a path is given twice"),
        ((TRAINING, "--vary", "kl.weigt=1..2"), 1, "did you mean 'weight'"),
        ((TRAINING, "--vary", "kl.weight=a..b"), 1, "'a' is not a duration"),
        ((TRAINING, "--vary", "kl.weight=1..2", "--minimize", "total"), 1, "cannot be an obj"),
        ((TRAINING, "--vary", "kl.weight=1..2", "--storage", "a.txt"), 1, "ends in .db"),
        (("code/cli_experiment.py:fails", "--vary", "kl.weight=1..2"), 1, "OSError: no data"),
    ],
)
def test_errors_say_what_to_write(
    call: Call, arguments: tuple[str, ...], status: int, message: str
) -> None:
    training, *others = arguments
    done = call("sweep", training, "elbo.yaml", *others, *OPTIONS, "--trials", 3, columns=500)
    assert done.status == status
    assert message in " ".join(done.err.replace("│", "").split())


def test_errors_of_front_say_what_there_is(call: Call) -> None:
    assert "there is no storage 'sweep.db'" in call("front", "sweep.db").err
    vary = ("--vary", "kl.weight=[1, 2.5]")
    call("sweep", TRAINING, "elbo.yaml", *vary, *OPTIONS, "--trials", 2)
    assert "it has 'sweep'" in call("front", "sweep.db", "--name", "mine").err
    assert "there are 0 to 2" in call("front", "sweep.db", "--config", 9).err
    assert call("front", "sweep.db", "--out", "front.gif").status == 2
