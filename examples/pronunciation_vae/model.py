"""An LSTM variational autoencoder of phoneme sequences."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from harness.gaussian import draw, kl_to_prior
from harness.recurrent import PackedLSTM
from pronunciation_vae.data import BOUNDARY, PHONEMES, Words

SYMBOLS = len(PHONEMES) + 1  # and the boundary
CODE_SIZE = 16


class PronunciationVAE(nn.Module):
    """An LSTM encoder whose last state gives the code, and an LSTM decoder.

    The decoder reads the code in its initial state and with every input. There is no word dropout,
    and nothing else that weakens the decoder.
    """

    def __init__(
        self, embedding_size: int = 64, hidden_size: int = 128, code_size: int = CODE_SIZE
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.encoder = PackedLSTM(SYMBOLS, embedding_size, hidden_size)
        self.posterior = nn.Linear(hidden_size, 2 * code_size)
        self.first_state = nn.Linear(code_size, 2 * hidden_size)
        self.decoder = PackedLSTM(SYMBOLS, embedding_size, hidden_size, code_size)
        self.logits = nn.Linear(hidden_size, SYMBOLS)

    def encode(self, words: Words) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), each of shape (words, code_size)."""
        packed = pack_padded_sequence(words.phonemes, words.lengths, batch_first=True)
        sizes = packed.batch_sizes.tolist()
        zeros = torch.zeros(len(words), self.hidden_size)
        states = self.encoder(packed.data, sizes, zeros, zeros)
        # The words that end at a position are its last ones, and the longest words end last.
        ended = [state[going_on:] for state, going_on in zip(states, [*sizes[1:], 0], strict=True)]
        mean, log_variance = self.posterior(torch.cat(ended[::-1])).chunk(2, dim=1)
        return mean, log_variance

    def negative_log_likelihood(self, words: Words, code: Tensor) -> Tensor:
        """-log p(x|z) in nats per word: sum over its phonemes and its end, mean over words."""
        after = functional.pad(words.phonemes, (0, 1), value=BOUNDARY)
        before = functional.pad(words.phonemes, (1, 0), value=BOUNDARY)
        targets = pack_padded_sequence(after, words.lengths + 1, batch_first=True)
        inputs = pack_padded_sequence(before, words.lengths + 1, batch_first=True)
        hidden, memory = self.first_state(code).tanh().chunk(2, dim=1)
        states = self.decoder(inputs.data, inputs.batch_sizes.tolist(), hidden, memory, code)
        total = functional.cross_entropy(
            self.logits(torch.cat(states)), targets.data, reduction="sum"
        )
        return total / len(words)

    def forward(self, words: Words, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The two terms of the negative ELBO in nats: NLL per word, KL of each word and dimension.

        The KL is not reduced, because a config may transform each dimension.
        """
        return self.terms(words, self.encode(words), generator)

    def terms(
        self, words: Words, posterior: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The terms, from the mean and log variance of q(z|x)."""
        code = draw(*posterior, generator)
        return self.negative_log_likelihood(words, code), kl_to_prior(*posterior)
