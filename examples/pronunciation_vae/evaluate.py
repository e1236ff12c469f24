"""What a trained model's code holds, measured on words that it has not seen.

Every figure that could flatter a dead code is taken the hard way: the probes read one sample of
the code as it is, since standardised posterior means still tell words apart when the decoder can
no longer hear them; and the likelihood is also taken with codes from the prior.
"""

import math
from statistics import fmean

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from harness.gaussian import draw, kl_to_prior
from pronunciation_vae.data import Words
from pronunciation_vae.model import PronunciationVAE

LABELLED = 500  # words that a probe learns from
PROBE_DRAWS = 5  # fresh labelled words and codes; the mean accuracy counts
ACTIVE = 0.01  # variance of the posterior mean from which on a unit counts as active


def mutual_information(code: Tensor, mean: Tensor, log_variance: Tensor) -> float:
    """I(x; z) under q in nats: the mean over the words of log q(z|x) - log q(z).

    This is KL(q(z|x) || p(z)) less KL(q(z) || p(z)) (Hoffman and Johnson, 2016; He et al., 2019).
    The aggregate posterior q(z) is the mixture of q(z|x) over these same words, with one code
    drawn from each, so log(number of words) is the most that can be seen.
    """
    precision = (-log_variance).exp()
    # Row i, column j: log q(z_i|x_j), its square multiplied out for the sake of memory.
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
    """What the probes look for in a code."""
    return {"first_phoneme": words.phonemes[:, 0], "syllables": words.syllables}


def probes(
    model: PronunciationVAE,
    train: Words,
    test: Words,
    posterior: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> dict[str, float]:
    """Accuracies in percent on the test words, which have this posterior."""
    accuracies: dict[str, list[float]] = {name: [] for name in labels(test)}
    for _ in range(PROBE_DRAWS):
        labelled = train.sample(LABELLED, generator)
        code = draw(*model.encode(labelled), generator)
        test_code = draw(*posterior, generator)
        for name, label in labels(labelled).items():
            accuracies[name].append(probe(code, label, test_code, labels(test)[name]))
    return {name: 100.0 * fmean(values) for name, values in accuracies.items()}


@torch.no_grad()
def evaluate(model: PronunciationVAE, train: Words, test: Words, seed: int) -> dict[str, float]:
    """All figures of the table, in nats per word unless their name says otherwise."""
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
