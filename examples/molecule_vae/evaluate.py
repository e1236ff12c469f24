"""What a trained model's code holds, measured on molecules that it has not seen.

The probes read one sample of the code as it is: standardized posterior means still tell molecules
apart after the code is too weak for the decoder to read.
"""

from statistics import fmean

import numpy as np
import torch
from rdkit import Chem
from sklearn.linear_model import LinearRegression
from torch import Tensor

from harness.gaussian import draw, kl_to_prior
from molecule_vae.data import PROPERTIES, Corpus, Molecules
from molecule_vae.model import MoleculeVAE

LABELED = 500  # molecules that a probe learns from
PROBE_DRAWS = 5  # of labeled molecules and codes; the mean R^2 counts
PRIOR_SAMPLES = 2_000
UNIQUE_AMONG = 1_000  # valid samples, as unique@1k of MOSES


def canonical(smiles: str) -> str | None:
    """RDKit's form of a molecule; None for a string that is no molecule."""
    molecule = Chem.MolFromSmiles(smiles) if smiles else None
    return None if molecule is None else Chem.MolToSmiles(molecule)


@torch.no_grad()
def evaluate(model: MoleculeVAE, corpus: Corpus, seed: int) -> dict[str, float]:
    """All figures of the table: nats per molecule, percentages, and R^2 of probes."""
    generator = torch.Generator().manual_seed(seed)
    held_out = corpus.held_out
    mean, log_variance = model.encode(held_out)
    nll = model.negative_log_likelihood(held_out, draw(mean, log_variance, generator)).item()
    kl = kl_to_prior(mean, log_variance).sum(dim=1).mean().item()
    decoded = [canonical(smiles) for smiles in corpus.read(model.decode(mean))]
    return {
        "kl": kl,
        "nll": nll,
        "negative_elbo": nll + kl,
        "reconstructed": percent(
            [found == wanted for found, wanted in zip(decoded, held_out.smiles, strict=True)]
        ),
        **sample_figures(model, corpus, generator),
        **probes(model, corpus, (mean, log_variance), generator),
    }


def percent(hits: list[bool]) -> float:
    """The share of hits in percent; 0 if there is nothing to count."""
    return 100.0 * fmean(hits) if hits else 0.0


def sample_figures(
    model: MoleculeVAE, corpus: Corpus, generator: torch.Generator
) -> dict[str, float]:
    """Molecules from codes of the prior, by the definitions of MOSES (arXiv 1811.12823).

    Validity: share of the samples that RDKit reads. Uniqueness: share of different molecules among
    the first valid samples. Novelty: share of the different valid molecules that are not among the
    training molecules. The pieces are drawn from their probabilities, as MOSES does.
    """
    code = torch.randn(PRIOR_SAMPLES, model.code_size, generator=generator)
    samples = [canonical(smiles) for smiles in corpus.read(model.decode(code, generator))]
    valid = [smiles for smiles in samples if smiles is not None]
    first, known = valid[:UNIQUE_AMONG], set(corpus.train.smiles.tolist())
    return {
        "valid": 100.0 * len(valid) / PRIOR_SAMPLES,
        "unique": 100.0 * len(set(first)) / max(1, len(first)),
        "novel": percent([smiles not in known for smiles in set(valid)]),
    }


def probe(
    model: MoleculeVAE, molecules: Molecules, column: int, generator: torch.Generator
) -> LinearRegression:
    """A linear regression from one sample of each molecule's code to a property."""
    code = draw(*model.encode(molecules), generator)
    return LinearRegression().fit(code.numpy(), molecules.properties[:, column].numpy())


def probes(
    model: MoleculeVAE,
    corpus: Corpus,
    posterior: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> dict[str, float]:
    """R^2 on the held-out molecules, which have this posterior."""
    scores: dict[str, list[float]] = {name: [] for name in PROPERTIES}
    for _ in range(PROBE_DRAWS):
        labeled = corpus.train.sample(LABELED, generator)
        code = draw(*posterior, generator).numpy()
        for column, found in enumerate(scores.values()):
            regression = probe(model, labeled, column, generator)
            wanted = corpus.held_out.properties[:, column].numpy()
            found.append(float(regression.score(code, wanted)))
    return {f"r2_{name}": float(np.mean(found)) for name, found in scores.items()}
