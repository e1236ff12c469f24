"""The VAE of molecules runs and continues where it was interrupted; its measures are right."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from rdkit import Chem
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.examples.conftest import Call
from tests.examples.programs import EXAMPLES, run_program

FOLDER = EXAMPLES / "molecules"
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if path.stem != "with-labels")
SMALL = ("--molecules", "1000", "--epochs", "1")


@pytest.fixture
def molecules(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, with fewer molecules to measure."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    data = importlib.import_module("molecule_vae.data")
    data.load.cache_clear()
    monkeypatch.setattr(data, "HELD_OUT", 200)
    evaluate = importlib.import_module("molecule_vae.evaluate")
    monkeypatch.setattr(evaluate, "LABELED", 100)
    monkeypatch.setattr(evaluate, "PRIOR_SAMPLES", 50)
    navigate = importlib.import_module("molecule_vae.navigate")
    monkeypatch.setattr(navigate, "STARTS", 20)
    return importlib.import_module("molecules")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs molecules leaves the file for the others."""
    return tmp_path_factory.mktemp("moses")


@pytest.fixture
def corpus(molecules: ModuleType, tables: Path) -> Any:
    return importlib.import_module("molecule_vae.data").load(1000, tables)


@pytest.mark.slow
def test_the_program_runs_and_leaves_tables_and_pictures(tmp_path: Path) -> None:
    arguments = (*SMALL, "--labels", "both", "--configs", "cyclical-cosine", "pid-10")
    done = run_program("molecules.py", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    check(done.stdout, tmp_path / "runs" / "molecules", ["paths"])


def test_runs_leave_tables_and_pictures_and_are_there_the_next_time(
    molecules: ModuleType, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs" / "molecules"
    arguments = (*SMALL, "--labels", "both", "--configs", "cyclical-cosine", "pid-10")
    full = call(molecules, "--full", "--seeds", "1", *arguments)
    assert full.status == 0, full.err
    check(full.out, out, ["curves", "paths"])
    for picture in out.glob("*.png"):
        picture.unlink()

    def fail(*_: object) -> None:
        raise AssertionError("it trains again")

    monkeypatch.setattr(molecules, "terms", fail)
    short = call(molecules, *arguments)
    assert short.status == 0, short.err
    check(short.out, out, ["paths"])
    tables = short.out.partition("runs/molecules")[0]
    assert tables in full.out


def check(printed: str, out: Path, pictures: list[str]) -> None:
    """What a program has printed and left."""
    without, with_labels = printed.split("The code, with labels")
    for part in (without, with_labels):
        for config in ("cyclical-cosine", "pid-10"):  # a row of each table
            assert sum(line.startswith(f"{config} ") for line in part.splitlines()) == 3
    text = (out / "figures.json").read_text("utf-8")
    assert "NaN" not in text  # an untrained model gives no valid molecule
    runs = json.loads(text)["runs"]
    assert [run["history"]["middle"] for run in runs] == [[3.5]] * 4  # one window of 7 steps
    for setup in ("without-labels", "with-labels"):
        for table in (f"{setup}-code.md", f"{setup}-decoded.md", f"{setup}-moved.md"):
            lines = (out / table).read_text("utf-8").splitlines()
            assert [line.split(" | ")[0] for line in lines[2:]] == ["| cyclical-cosine", "| pid-10"]
        assert sorted(out.glob(f"{setup}-*.png")) == [out / f"{setup}-{p}.png" for p in pictures]
    for picture in out.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert printed.endswith("-paths.png\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--configs", "cyclic"], "'cyclic' is neither a file nor one of constant"),
        (["--epochs", "0"], "a whole number from 1"),
        (["--molecules", "10"], "a whole number from 1000"),
        (["--labels", "some"], "invalid choice: 'some'"),
        (["--configs", "wrong.yaml"], "did you mean 'cyclical'"),
        (["--configs", "one.yaml"], "one.yaml: no term 'kl': write kl: 1.0 at loss.terms"),
        (["--configs", "ignored.yaml"], "no term 'kl': write kl: 1.0 at loss.terms"),
        (["--configs", "other.yaml"], "is not a term of this program: write 'kl' instead at loss"),
        (["--configs", "other.yaml", "--labels", "with"], "write 'kl' instead"),
        (["--configs", "labels.yaml", "--labels", "with"], "no term 'kl': write kl: 1.0 at"),
        (["--configs", "a/pid-10.yaml", "pid-10"], "more than one has the name pid-10"),
    ],
)
def test_a_wrong_option_gives_one_line(
    arguments: list[str], words: str, molecules: ModuleType, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "wrong.yaml").write_text("loss: {terms: {kl: {kind: cylical}, reconstruction: 1}}")
    (tmp_path / "one.yaml").write_text("loss: {terms: {reconstruction: 1}}")
    (tmp_path / "ignored.yaml").write_text("loss: {terms: {reconstruction: 1}, ignore: [kl]}")
    (tmp_path / "other.yaml").write_text("loss: {terms: {reconstruction: 1, kll: 1}}")
    (tmp_path / "labels.yaml").write_text("loss: {terms: {reconstruction: 1, property: 1}}")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "pid-10.yaml").write_text("loss: {terms: {reconstruction: 1, kl: 1}}")
    done = call(molecules, *arguments)
    assert done.status == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1


def test_a_second_run_in_the_same_folder_is_refused(
    molecules: ModuleType, call: Call, tmp_path: Path
) -> None:
    from harness.folder import reserved

    out = tmp_path / "runs" / "molecules"
    out.mkdir(parents=True)
    with reserved(out):
        done = call(molecules, *SMALL, "--configs", "constant")
    assert "molecules is in use by another run: wait" in str(done.status)
    assert [file.name for file in out.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("config", "with_labels", "stop_at"),
    [("cyclical-linear", False, 3), ("pid-10", False, 10), ("constant", True, 10)],
)
def test_an_interrupted_run_continues_to_the_same_figures(
    molecules: ModuleType, corpus: Any, tmp_path: Path, config: str, with_labels: bool, stop_at: int
) -> None:
    from molecule_vae.options import Run

    run = Run(FOLDER / f"{config}.yaml", with_labels, seed=0, epochs=2, molecules=1000)
    shown = []

    def show(done: int, total: int, note: str) -> None:
        shown.append(done)

    def stop(done: int, total: int, note: str) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    (tmp_path / "straight").mkdir()
    (tmp_path / "broken").mkdir()
    straight = molecules.train(tmp_path / "straight", run, show)
    assert shown[-1] == run.total_steps == 14
    with pytest.raises(KeyboardInterrupt):
        molecules.train(tmp_path / "broken", run, stop)
    assert str(molecules.train(tmp_path / "broken", run, show)) == str(straight)  # with any nan


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("with_labels", [False, True])
def test_what_each_config_says(molecules: ModuleType, config: Path, with_labels: bool) -> None:
    from lossweights import WeightedLoss
    from molecule_vae.options import Run

    run = Run(config, with_labels, seed=0, epochs=10, molecules=40_000)
    loss = run.read_config()
    names = ["reconstruction", "kl", *(["property"] if with_labels else [])]
    assert list(loss.terms) == names
    assert (loss.balancer is not None) is with_labels
    if config.stem.startswith("pid"):
        controller: Any = loss.terms["kl"].controller
        assert controller.target.value == float(config.stem.removeprefix("pid-"))
        return
    criterion = WeightedLoss(loss).bind(total_steps=run.total_steps)
    criterion.set_step(run.total_steps - 1)
    last = 0.3 if config.stem == "cyclical-low" else 1.0
    assert criterion.weights["kl"] == pytest.approx(last)


def flipped(data: bytes) -> bytes:
    """The data with another byte in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [lambda data: data[:5000], flipped])
def test_a_damaged_table_of_molecules_is_written_again(
    molecules: ModuleType, corpus: Any, tables: Path, damage: Callable[[bytes], bytes]
) -> None:
    from molecule_vae import data

    [table] = tables.glob("*.npz")
    table.write_bytes(damage(table.read_bytes()))
    data.load.cache_clear()
    assert torch.equal(data.load(1000, tables).train.pieces, corpus.train.pieces)


@pytest.mark.parametrize(
    "text", ['{"config": ', "[]", "{}", '{"navigation": {"logq": []}}', '{"navigation": null}']
)
def test_a_damaged_result_is_none(molecules: ModuleType, tmp_path: Path, text: str) -> None:
    from molecule_vae.result import Result

    (tmp_path / "run.json").write_text(text)
    assert Result.load(tmp_path / "run.pt") is None


@pytest.mark.parametrize("package", ["molsets", "rdkit"])
def test_another_version_of_a_package_is_another_run(
    molecules: ModuleType, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    from molecule_vae import options

    run = options.Run(FOLDER / "constant.yaml", with_labels=False, seed=0, epochs=1, molecules=1000)
    before = run.file(Path())
    assert run.file(Path()) == before
    monkeypatch.setattr(
        options, "version", lambda name: "0.0.1" if name == package else version(name)
    )
    assert run.file(Path()) != before


def test_all_code_that_decides_what_is_kept_is_a_source_of_the_run(molecules: ModuleType) -> None:
    from molecule_vae import options

    only_shown = {"__init__.py", "options.py", "pictures.py", "report.py"}
    modules = (EXAMPLES / "molecule_vae").glob("*.py")
    assert {path for path in modules if path.name not in only_shown} < set(options.SOURCES)


def test_every_config_is_run_by_its_name(molecules: ModuleType) -> None:
    from molecule_vae.options import CONFIGS as NAMES
    from molecule_vae.options import DEMO

    assert sorted(NAMES) == [path.stem for path in CONFIGS]
    assert set(DEMO) < set(NAMES)


@pytest.mark.parametrize(
    ("configs", "shown"),
    [
        (["mine", "pid-10"], ["mine", "pid-10"]),
        (["mine", "pid-5", "pid-10", "long-ramp", "constant"], ["constant", "long-ramp", "pid-10"]),
        (["a", "b", "c", "d", "e"], ["a", "b", "c", "d"]),
    ],
)
def test_which_configs_a_picture_of_molecules_shows(
    molecules: ModuleType, configs: list[str], shown: list[str]
) -> None:
    from molecule_vae.navigate import Navigation
    from molecule_vae.pictures import rows
    from molecule_vae.result import Result

    nowhere = Navigation([], [], [], [], [], [], [])
    results = [
        Result(config, with_labels=False, seed=0, figures={}, navigation=nowhere, history={})
        for config in configs
    ]
    assert list(rows(results)) == shown


def test_molecules_are_read_and_spelled_and_measured(corpus: Any) -> None:
    from molecule_vae.data import END, properties_of

    train = corpus.train
    assert len(train) == 1000
    assert len(corpus.held_out) == 200
    assert corpus.read(train.pieces) == train.smiles.tolist()
    assert not set(train.smiles.tolist()) & set(corpus.held_out.smiles.tolist())
    assert bool((train.lengths.diff() <= 0).all())
    length = int(train.lengths[7])
    assert train.reversed_pieces[7, :length].tolist() == train.pieces[7, :length].tolist()[::-1]
    assert (train.pieces[7, length:] == END).all()
    row = properties_of(Chem.MolFromSmiles(str(train.smiles[7])))
    assert train.properties[7].tolist() == pytest.approx(row)
    scaled = corpus.scaled(train.properties)
    assert scaled.mean(dim=0).tolist() == pytest.approx([0, 0, 0], abs=1e-4)
    assert scaled.std(dim=0).tolist() == pytest.approx([1, 1, 1], abs=1e-4)


def test_properties_of_benzene(molecules: ModuleType) -> None:
    """logP by Wildman and Crippen: six aromatic carbons with hydrogens, 6 (0.1581 + 0.1230)."""
    from molecule_vae.data import properties_of

    logp, qed, rings = properties_of(Chem.MolFromSmiles("c1ccccc1"))
    assert logp == pytest.approx(1.6866)
    assert 0.0 < qed < 1.0
    assert rings == 1.0


def test_the_encoder_is_the_mean_of_a_bidirectional_lstm(corpus: Any) -> None:
    from molecule_vae.model import MoleculeVAE

    torch.manual_seed(0)
    model, batch = MoleculeVAE(), corpus.held_out
    lstm = nn.LSTM(64, 64, batch_first=True, bidirectional=True)
    for suffix, ours in (("", model.forwards), ("_reverse", model.backwards)):
        for name, weight in ours.cell.named_parameters():
            getattr(lstm, f"{name}_l0{suffix}").data.copy_(weight)
    embedded = torch.where(
        torch.arange(128) < 64, model.forwards.embedding.weight.repeat(1, 2), torch.zeros(())
    )
    model.backwards.embedding.load_state_dict(model.forwards.embedding.state_dict())
    inputs = embedded[batch.pieces][..., :64]
    packed = pack_padded_sequence(inputs, batch.lengths, batch_first=True)
    states, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True)
    mean, log_variance = model.posterior(states.sum(dim=1) / batch.lengths[:, None]).chunk(2, dim=1)
    found = model.encode(batch)
    assert torch.allclose(found[0], mean, atol=1e-5)
    assert torch.allclose(found[1], log_variance, atol=1e-5)


def test_decoding_takes_the_likeliest_piece_after_those_before_it(corpus: Any) -> None:
    from molecule_vae.data import END
    from molecule_vae.model import MoleculeVAE

    torch.manual_seed(0)
    model, code = MoleculeVAE(), torch.randn(5, 32)
    nn.init.normal_(model.logits.weight)
    with torch.no_grad():
        model.logits.bias[END] = 3.0  # so that some of them end
        decoded = model.decode(code)
        before = nn.functional.pad(decoded, (1, 0), value=END)[:, :-1]
        hidden, memory = model.first_state(code).tanh().chunk(2, dim=1)
        sizes = [len(code)] * before.shape[1]
        states = model.decoder(before.T.flatten(), sizes, hidden, memory, code)
        likeliest = model.logits(torch.stack(states, dim=1)).argmax(dim=2)
    ends = [row.index(END) if END in row else len(row) for row in decoded.tolist()]
    assert len(set(ends)) > 1
    for row, expected, end in zip(decoded, likeliest, ends, strict=True):
        assert row[: end + 1].tolist() == expected[: end + 1].tolist()
        assert (row[end:] == END).all()


def test_validity_uniqueness_and_novelty_are_those_of_moses(
    corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from molecule_vae import evaluate
    from molecule_vae.model import MoleculeVAE

    known = str(corpus.train.smiles[0])
    spelled = ["CC", "C(C)", "CO", "", "c1ccc", known, "CCN", "CC"]  # "C(C)" is "CC" again
    monkeypatch.setattr(type(corpus), "read", lambda *_: spelled)
    monkeypatch.setattr(evaluate, "PRIOR_SAMPLES", len(spelled))
    monkeypatch.setattr(evaluate, "UNIQUE_AMONG", 4)
    found = evaluate.sample_figures(MoleculeVAE(), corpus, torch.Generator())
    assert found["valid"] == 75.0  # six of eight: not the empty string, nor the open ring
    assert found["unique"] == 75.0  # CC, CC, CO, known
    assert found["novel"] == 75.0  # CC, CO, CCN, not the known one


def test_a_probe_reads_a_property_that_the_code_holds(
    corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from molecule_vae import evaluate, navigate
    from molecule_vae.model import MoleculeVAE

    class Reads(MoleculeVAE):
        """Its code holds logP in dimension 3, and nothing else."""

        def encode(self, molecules: Any) -> tuple[torch.Tensor, torch.Tensor]:
            mean = torch.zeros(len(molecules), 32)
            mean[:, 3] = molecules.properties[:, 0]
            return mean, torch.full_like(mean, -8.0)

    model, generator = Reads(), torch.Generator().manual_seed(0)
    scores = evaluate.probes(model, corpus, model.encode(corpus.held_out), generator)
    assert scores["r2_logp"] > 0.99
    assert scores["r2_qed"] < 0.5
    along = navigate.direction(model, corpus, generator)
    assert float(along[3]) > 0.9
    assert float(along.norm()) == pytest.approx(1.0)


def test_the_direction_is_that_of_the_head(corpus: Any) -> None:
    from molecule_vae import navigate
    from molecule_vae.model import MoleculeVAE

    model = MoleculeVAE(properties=2)
    assert model.head is not None
    along = navigate.direction(model, corpus, torch.Generator())
    assert torch.allclose(along * model.head.weight[0].norm(), model.head.weight[0])


def test_what_is_measured_of_moved_molecules(molecules: ModuleType) -> None:
    from molecule_vae.navigate import FINGERPRINTS, measure

    starts = ["c1ccccc1", "CCO", "CCN", "CCC"]
    prints = [FINGERPRINTS.GetFingerprint(Chem.MolFromSmiles(smiles)) for smiles in starts]
    found = measure(["c1ccccc1", None, "c1ccccc1", None], [1.0, 5.0, 0.5, 5.0], prints)
    assert found["valid"] == 50.0
    assert found["distinct"] == 25.0
    assert found["logp"] == pytest.approx(1.6866)
    assert found["gain"] == pytest.approx(1.6866 - 0.75)
    assert found["similarity"] == pytest.approx(0.5)  # 1 to itself, 0 to CCN
    nothing = measure([None] * 4, [0.0] * 4, prints)
    assert nothing["valid"] == nothing["distinct"] == 0.0
    assert np.isnan([nothing["logp"], nothing["gain"], nothing["similarity"]]).all()
