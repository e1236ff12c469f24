"""Measures of a trained model's code, on held-out words.

The measures are chosen so that a dead code does not look alive. The probes read one unscaled sample
of the code, because standardized posterior means still separate words when the decoder ignores the
code. The likelihood is also measured with codes from the prior.
"""

import math
from statistics import fmean

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from harness.gaussian import draw, kl_to_prior
from pronunciation_vae.data import Words
from pronunciation_vae.model import PronunciationVAE

LABELED = 500  # training words of a probe
PROBE_DRAWS = 5  # draws of labeled words and codes, over which accuracies are averaged
ACTIVE = 0.01  # variance of the posterior mean above which a unit is active


def mutual_information(code: Tensor, mean: Tensor, log_variance: Tensor) -> float:
    """I(x; z) under q in nats: the mean over the words of log q(z|x) - log q(z).

    This is KL(q(z|x) || p(z)) less KL(q(z) || p(z)) (Hoffman and Johnson, 2016; He et al., 2019).
    The aggregate posterior q(z) is the mixture of q(z|x) over these same words, with one code
    drawn from each, so the estimate cannot exceed log(number of words).
    """
    precision = (-log_variance).exp()
    # Row i, column j: log q(z_i|x_j). The square is multiplied out to save memory.
    distance = (
        code.square() @ precision.T
        - 2.0 * code @ (mean * precision).T
        + (mean.square() * precision + log_variance).sum(dim=1)
    )
    log_density = -0.5 * (distance + code.shape[1] * math.log(2.0 * math.pi))
    log_aggregate = log_density.logsumexp(dim=1) - math.log(len(code))
    return (log_density.diagonal() - log_aggregate).mean().item()


def probe(code: Tensor, label: Tensor, test_code: Tensor, test_label: Tensor) -> float:
    """Accuracy of a logistic regression from the code to the label."""
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(code.numpy(), label.numpy())
    accuracy: float = classifier.score(test_code.numpy(), test_label.numpy())
    return accuracy


def labels(words: Words) -> dict[str, Tensor]:
    """The labels that the probes predict."""
    return {"first_phoneme": words.phonemes[:, 0], "syllables": words.syllables}


def probes(
    model: PronunciationVAE,
    train: Words,
    test: Words,
    posterior: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> dict[str, float]:
    """Accuracies in percent on the test words, whose posterior is given."""
    accuracies: dict[str, list[float]] = {name: [] for name in labels(test)}
    for _ in range(PROBE_DRAWS):
        labeled = train.sample(LABELED, generator)
        code = draw(*model.encode(labeled), generator)
        test_code = draw(*posterior, generator)
        for name, label in labels(labeled).items():
            accuracies[name].append(probe(code, label, test_code, labels(test)[name]))
    return {name: 100.0 * fmean(values) for name, values in accuracies.items()}


@torch.no_grad()
def evaluate(model: PronunciationVAE, train: Words, test: Words, seed: int) -> dict[str, float]:
    """All figures of the table; likelihoods and information are in nats per word."""
    generator = torch.Generator().manual_seed(seed)
    mean, log_variance = model.encode(test)
    code = draw(mean, log_variance, generator)
    nll = model.negative_log_likelihood(test, code).item()
    kl = kl_to_prior(mean, log_variance).sum(dim=1).mean().item()
    prior_code = torch.randn(code.shape, generator=generator)
    return {
        "nll": nll,
        "kl": kl,
        "negative_elbo": nll + kl,
        "nll_prior": model.negative_log_likelihood(test, prior_code).item(),
        "active_units": float((mean.var(dim=0) > ACTIVE).sum()),
        "mutual_information": mutual_information(code, mean, log_variance),
        **probes(model, train, test, (mean, log_variance), generator),
    }
