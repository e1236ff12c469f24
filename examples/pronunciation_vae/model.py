"""An LSTM variational autoencoder of phoneme sequences."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from pronunciation_vae.data import BOUNDARY, PHONEMES, Words

SYMBOLS = len(PHONEMES) + 1  # and the boundary
CODE_SIZE = 16


def draw(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """One sample of each word's code, by the reparameterization trick."""
    return mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)


def kl_to_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, 1)) of each word and dimension of the code."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)


class PackedLSTM(nn.Module):
    """An LSTM that reads packed symbols and, if given, the word's code with each of them.

    It computes the same as an embedding and `nn.LSTM`, with an explicit loop. On a CPU that trains
    a third faster: the backward pass of `nn.LSTM` fills a buffer as large as the batch with zeros
    at every position, and here a lookup gives the contribution of a symbol to the gates.
    """

    def __init__(self, embedding_size: int, hidden_size: int, code_size: int = 0) -> None:
        super().__init__()
        self.sizes = [embedding_size, code_size]
        self.embedding = nn.Embedding(SYMBOLS, embedding_size)
        self.cell = nn.LSTMCell(embedding_size + code_size, hidden_size)

    def forward(
        self,
        symbols: Tensor,
        sizes: list[int],
        hidden: Tensor,
        memory: Tensor,
        code: Tensor | None = None,
    ) -> list[Tensor]:
        """The hidden states at each position, for the words that reach it.

        Args:
            symbols: The symbols of all positions, one position after the other.
            sizes: The number of words that reach each position. Words are sorted, longest first.
            hidden: Initial hidden state, shape (words, hidden_size).
            memory: Initial state of the cell, shape (words, hidden_size).
            code: Codes, shape (words, code_size).
        """
        of_symbol, of_code = torch.split(self.cell.weight_ih, self.sizes, dim=1)
        bias = self.cell.bias_ih + self.cell.bias_hh
        gates = functional.embedding(
            symbols, functional.linear(self.embedding.weight, of_symbol, bias)
        )
        if code is not None:
            gates = gates + functional.linear(torch.cat([code[:size] for size in sizes]), of_code)

        recurrent = self.cell.weight_hh.t()
        states = []
        for size, given in zip(sizes, torch.split(gates, sizes), strict=True):
            hidden, memory = hidden[:size], memory[:size]
            enter, keep, new, show = torch.addmm(given, hidden, recurrent).chunk(4, dim=1)
            memory = keep.sigmoid() * memory + enter.sigmoid() * new.tanh()
            hidden = show.sigmoid() * memory.tanh()
            states.append(hidden)
        return states


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
        self.encoder = PackedLSTM(embedding_size, hidden_size)
        self.posterior = nn.Linear(hidden_size, 2 * code_size)
        self.first_state = nn.Linear(code_size, 2 * hidden_size)
        self.decoder = PackedLSTM(embedding_size, hidden_size, code_size)
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
