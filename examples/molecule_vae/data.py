"""Molecules of the benchmark MOSES, as the package `molsets` ships them, with their properties.

The package itself is never imported: it needs old versions of others. Only its tables are read.
"""

import gzip
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem, RDLogger
from rdkit.Chem import QED, Crippen, rdMolDescriptors
from rich.progress import track
from tokenizers import Tokenizer, models, trainers
from torch import Tensor

SYMBOLS = 400  # pieces of SMILES, and the end
END = 0  # the symbol before the first piece and after the last
LONGEST = 40  # pieces of a molecule; those of MOSES have 9 on average
HELD_OUT = 2_000  # molecules
# logP is the octanol-water partition coefficient (Wildman and Crippen 1999), QED the quantitative
# estimate of drug-likeness (Bickerton et al. 2012), both as RDKit computes them.
PROPERTIES = ("logp", "qed", "rings")
PREDICTED = 2  # the first of them are what the head predicts

RDLogger.DisableLog("rdApp.*")  # it prints a line for each invalid string


@dataclass(frozen=True)
class Molecules:
    """Molecules as rows of a table, longest first.

    Args:
        smiles: Each molecule as a string, in RDKit's canonical form.
        pieces: Numbers of the pieces, shape (molecules, LONGEST); the rest of a row is `END`.
        reversed_pieces: The same, each molecule from its last piece to its first.
        lengths: Number of pieces, shape (molecules,).
        properties: The values of `PROPERTIES`, shape (molecules, 3).
    """

    smiles: "np.ndarray[tuple[int], np.dtype[np.str_]]"
    pieces: Tensor
    reversed_pieces: Tensor
    lengths: Tensor
    properties: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, rows: Tensor) -> "Molecules":
        """These rows, in the order that packed sequences need: longest first."""
        rows = rows[self.lengths[rows].argsort(descending=True, stable=True)]
        return Molecules(
            self.smiles[rows.numpy()],
            self.pieces[rows],
            self.reversed_pieces[rows],
            self.lengths[rows],
            self.properties[rows],
        )

    def sample(self, count: int, generator: torch.Generator) -> "Molecules":
        """This number of molecules, drawn without replacement."""
        return self.select(torch.randperm(len(self), generator=generator)[:count])

    def batches(self, size: int, generator: torch.Generator) -> Iterator["Molecules"]:
        """All molecules once, in random batches; an incomplete last one is left out."""
        order = torch.randperm(len(self), generator=generator)
        for first in range(0, len(self) - size + 1, size):
            yield self.select(order[first : first + size])


@dataclass(frozen=True)
class Corpus:
    """What a run trains on and is measured on.

    Args:
        train: Molecules of the training set of MOSES.
        held_out: Molecules of its test set.
        tokenizer: Splits SMILES into pieces, and joins pieces.
    """

    train: Molecules
    held_out: Molecules
    tokenizer: Tokenizer

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the properties of the training molecules."""
        return self.train.properties.mean(dim=0), self.train.properties.std(dim=0)

    def scaled(self, properties: Tensor) -> Tensor:
        """Properties that have mean 0 and variance 1 over the training molecules."""
        mean, deviation = self.scale
        return (properties - mean) / deviation

    def read(self, pieces: Tensor) -> list[str]:
        """The strings that these pieces spell, a row of `pieces` for each."""
        names = {number: piece for piece, number in self.tokenizer.get_vocab().items()}
        return ["".join(names[piece] for piece in row if piece != END) for row in pieces.tolist()]


@cache
def load(count: int, folder: Path) -> Corpus:
    """`count` molecules to train on, and those that are held out.

    Both are fixed random draws from the files of MOSES. Properties take a minute to compute, so
    they are kept in a file. The result is shared within a process: do not change it.
    """
    versions = [f"{name}-{version(name)}" for name in ("molsets", "rdkit", "tokenizers")]
    path = folder / "-".join(["moses", f"{count}-{HELD_OUT}-{SYMBOLS}", *versions, "table.npz"])
    try:
        smiles, properties, tokenizer = _read(path)
    except Exception:  # noqa: BLE001  # no file, or a damaged one, which can raise any error
        _write(path, _draw("train", count), _draw("test", HELD_OUT))
        smiles, properties, tokenizer = _read(path)

    encoded = [torch.tensor(encoding.ids) for encoding in tokenizer.encode_batch(list(smiles))]
    pieces = torch.full((len(encoded), LONGEST), END)
    reversed_pieces = pieces.clone()
    for row, found in enumerate(encoded):
        pieces[row, : len(found)] = found
        reversed_pieces[row, : len(found)] = found.flip(0)
    lengths = torch.tensor([len(found) for found in encoded])
    everything = Molecules(smiles, pieces, reversed_pieces, lengths, properties)
    train, held_out = torch.arange(len(encoded)).tensor_split([count])
    return Corpus(everything.select(train), everything.select(held_out), tokenizer)


def _draw(part: str, count: int) -> list[str]:
    """Random molecules of one of the files of MOSES, in canonical form."""
    package = find_spec("moses")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("no MOSES found: `pip install --no-deps molsets`", name="moses")
    file = Path(package.submodule_search_locations[0], "dataset", "data", f"{part}.csv.gz")
    with gzip.open(file, "rt", encoding="ascii") as lines:
        found = [line.rstrip().split(",")[0] for line in lines][1:]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return [Chem.CanonSmiles(found[row]) for row in order[:count].tolist()]


def _read(path: Path) -> tuple["np.ndarray[tuple[int], np.dtype[np.str_]]", Tensor, Tokenizer]:
    """The molecules, their properties, and the tokenizer that `_write` kept."""
    with path.open("rb") as file, np.load(file) as table:
        tokenizer = Tokenizer.from_str(str(table["tokenizer"]))
        return table["smiles"], torch.from_numpy(table["properties"]), tokenizer


def _write(path: Path, train: list[str], held_out: list[str]) -> None:
    """Train the tokenizer, compute the properties, and keep both."""
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=SYMBOLS, special_tokens=["<end>"], show_progress=False)
    tokenizer.train_from_iterator(train, trainer)
    smiles = [*train, *held_out]
    properties = [
        properties_of(Chem.MolFromSmiles(one))
        for one in track(smiles, "properties of the molecules, once")
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(
        unfinished,
        smiles=np.array(smiles),
        properties=np.array(properties, dtype=np.float32),
        tokenizer=np.array(tokenizer.to_str()),
    )
    unfinished.replace(path)


def properties_of(molecule: Chem.Mol) -> tuple[float, float, float]:
    """The values of `PROPERTIES`."""
    return (
        Crippen.MolLogP(molecule),
        QED.qed(molecule),
        float(rdMolDescriptors.CalcNumAromaticRings(molecule)),
    )
