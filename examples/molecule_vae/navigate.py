"""Moving through the code: from a held-out molecule along the direction of a property."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import Crippen, DataStructs, rdFingerprintGenerator
from torch import Tensor

from molecule_vae.data import PROPERTIES, Corpus
from molecule_vae.evaluate import canonical, probe
from molecule_vae.model import MoleculeVAE

STARTS = 500  # held-out molecules that are moved
DISTANCES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # in standard deviations of the prior
SHOWN = 12  # starts whose paths are kept as molecules

FINGERPRINTS = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


@dataclass(frozen=True)
class Navigation:
    """What became of molecules whose codes were moved along the direction of logP.

    Args:
        logp: At each of `DISTANCES`, mean logP of the valid molecules.
        gain: Mean of logP less that of the start, over the valid molecules.
        valid: Percentage of the decoded strings that are molecules.
        distinct: Different molecules in percent of all starts.
        similarity: Mean Tanimoto similarity of valid molecules to their starts.
        paths: For some starts, the decoded molecules, None for a string that is no molecule.
        starts: Those starts.
    """

    logp: list[float]
    gain: list[float]
    valid: list[float]
    distinct: list[float]
    similarity: list[float]
    paths: list[list[str | None]]
    starts: list[str]


@torch.no_grad()
def navigate(model: MoleculeVAE, corpus: Corpus, seed: int) -> Navigation:
    """Move the posterior means of `STARTS` held-out molecules, and decode the likeliest pieces.

    The codes move along a unit vector, the `direction` of logP.
    """
    generator = torch.Generator().manual_seed(seed)
    along = direction(model, corpus, generator)
    starts = corpus.held_out.sample(STARTS, generator)
    mean, _ = model.encode(starts)
    molecules = [Chem.MolFromSmiles(smiles) for smiles in starts.smiles]
    wanted = PROPERTIES.index("logp")
    start_logp = starts.properties[:, wanted].tolist()
    prints = [FINGERPRINTS.GetFingerprint(molecule) for molecule in molecules]

    rows, decoded = [], []
    for distance in DISTANCES:
        found = [canonical(smiles) for smiles in corpus.read(model.decode(mean + distance * along))]
        decoded.append(found)
        rows.append(measure(found, start_logp, prints))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    shown = torch.randperm(STARTS, generator=generator)[:SHOWN].tolist()
    return Navigation(
        **columns,
        paths=[[found[start] for found in decoded] for start in shown],
        starts=[str(starts.smiles[start]) for start in shown],
    )


def direction(model: MoleculeVAE, corpus: Corpus, generator: torch.Generator) -> Tensor:
    """The unit vector along which logP grows most.

    These are the weights for logP of the head, if the model has one, else those of a linear probe
    of the training molecules, whose logP RDKit computes.
    """
    column = PROPERTIES.index("logp")
    if model.head is not None:
        weights = model.head.weight[column]
    else:
        weights = torch.from_numpy(probe(model, corpus.train, column, generator).coef_)
    unit: Tensor = weights / weights.norm()
    return unit


def measure(
    found: Sequence[str | None], start_logp: Sequence[float], prints: Sequence[Any]
) -> dict[str, float]:
    """The figures at one distance; those of valid molecules are nan if there is none."""
    valid = [(row, Chem.MolFromSmiles(smiles)) for row, smiles in enumerate(found) if smiles]
    logp = np.array([Crippen.MolLogP(molecule) for _, molecule in valid])
    gain = logp - np.array([start_logp[row] for row, _ in valid])
    similarity = [
        DataStructs.TanimotoSimilarity(prints[row], FINGERPRINTS.GetFingerprint(molecule))
        for row, molecule in valid
    ]
    return {
        "logp": mean(logp),
        "gain": mean(gain),
        "valid": 100.0 * len(valid) / len(found),
        "distinct": 100.0 * len({smiles for smiles in found if smiles}) / len(found),
        "similarity": mean(similarity),
    }


def mean(values: "Sequence[float] | np.ndarray[Any, Any]") -> float:
    """The mean, or nan if there are no values."""
    return float(np.mean(values)) if len(values) else float("nan")
