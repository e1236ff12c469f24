"""A variational autoencoder of molecules: a bidirectional LSTM encoder and an LSTM decoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from harness.recurrent import PackedLSTM, rows
from molecule_vae.data import END, LONGEST, SYMBOLS, Molecules

CODE_SIZE = 32


class MoleculeVAE(nn.Module):
    """The mean of the encoder's states gives the code, which the decoder reads at every position.

    The mean over positions reads more of a molecule than the last state does. Nothing weakens the
    decoder, such as word dropout: only the weight of the KL decides how much the code holds.

    Args:
        embedding_size: Size of the embedding of a piece.
        hidden_size: Size of the decoder's state, and of both states of the encoder together.
        code_size: Size of the code.
        properties: How many properties the head predicts from the code; 0 for no head.
    """

    def __init__(
        self,
        embedding_size: int = 64,
        hidden_size: int = 128,
        code_size: int = CODE_SIZE,
        properties: int = 0,
    ) -> None:
        super().__init__()
        self.code_size = code_size
        self.forwards = PackedLSTM(SYMBOLS, embedding_size, hidden_size // 2)
        self.backwards = PackedLSTM(SYMBOLS, embedding_size, hidden_size // 2)
        self.posterior = nn.Linear(hidden_size, 2 * code_size)
        self.first_state = nn.Linear(code_size, 2 * hidden_size)
        self.decoder = PackedLSTM(SYMBOLS, embedding_size, hidden_size, code_size)
        self.logits = nn.Linear(hidden_size, SYMBOLS)
        self.head = nn.Linear(code_size, properties) if properties else None

    def encode(self, molecules: Molecules) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), each of shape (molecules, code_size)."""
        read = torch.cat(
            [
                self._mean_state(self.forwards, molecules.pieces, molecules.lengths),
                self._mean_state(self.backwards, molecules.reversed_pieces, molecules.lengths),
            ],
            dim=1,
        )
        mean, log_variance = self.posterior(read).chunk(2, dim=1)
        return mean, log_variance

    def _mean_state(self, lstm: PackedLSTM, pieces: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(pieces, lengths, batch_first=True)
        zeros = torch.zeros(len(lengths), lstm.cell.hidden_size)
        sizes = packed.batch_sizes.tolist()
        states = torch.cat(lstm(packed.data, sizes, zeros, zeros))
        return zeros.index_add(0, rows(sizes), states) / lengths[:, None]

    def negative_log_likelihood(self, molecules: Molecules, code: Tensor) -> Tensor:
        """-log p(x|z) in nats per molecule: summed over pieces and end, mean over molecules."""
        after = functional.pad(molecules.pieces, (0, 1), value=END)
        before = functional.pad(molecules.pieces, (1, 0), value=END)
        targets = pack_padded_sequence(after, molecules.lengths + 1, batch_first=True)
        inputs = pack_padded_sequence(before, molecules.lengths + 1, batch_first=True)
        hidden, memory = self.first_state(code).tanh().chunk(2, dim=1)
        states = self.decoder(inputs.data, inputs.batch_sizes.tolist(), hidden, memory, code)
        total = functional.cross_entropy(
            self.logits(torch.cat(states)), targets.data, reduction="sum"
        )
        return total / len(molecules)

    @torch.no_grad()
    def decode(self, code: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pieces for each code, shape (codes, at most LONGEST), `END` after the last one.

        Args:
            code: Codes, shape (codes, code_size).
            generator: Draws each piece from its probability. Without one, the likeliest is taken.
        """
        hidden, memory = self.first_state(code).tanh().chunk(2, dim=1)
        piece = torch.full((len(code),), END)
        ended = torch.zeros(len(code), dtype=torch.bool)
        pieces = []
        of_code = self.decoder.gates_of_code(code)
        for _ in range(LONGEST):
            hidden, memory = self.decoder.step(self.decoder.gates(piece) + of_code, hidden, memory)
            logits = self.logits(hidden)
            if generator is None:
                piece = logits.argmax(dim=1)
            else:
                piece = logits.softmax(dim=1).multinomial(1, generator=generator)[:, 0]
            ended = ended | (piece == END)
            piece = piece.masked_fill(ended, END)
            pieces.append(piece)
            if ended.all():
                break
        return torch.stack(pieces, dim=1)
