"""An LSTM over packed sequences of symbols that trains faster than `nn.LSTM` on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class PackedLSTM(nn.Module):
    """An LSTM that reads symbols and, if there are codes, the sequence's code at each of them.

    It computes what an embedding and `nn.LSTM` do, with the loop written out. On a CPU it trains a
    third faster: the backward pass of `nn.LSTM` fills a buffer as large as the batch with zeros at
    every position, and what a symbol or a code adds to the gates is computed once, then looked up.

    Args:
        symbols: Number of different symbols.
        embedding_size: Size of the embedding of a symbol.
        hidden_size: Size of the hidden state.
        code_size: Size of the code; 0 for none.
    """

    def __init__(
        self, symbols: int, embedding_size: int, hidden_size: int, code_size: int = 0
    ) -> None:
        super().__init__()
        self.sizes = [embedding_size, code_size]
        self.embedding = nn.Embedding(symbols, embedding_size)
        self.cell = nn.LSTMCell(embedding_size + code_size, hidden_size)

    def forward(
        self,
        symbols: Tensor,
        sizes: list[int],
        hidden: Tensor,
        memory: Tensor,
        code: Tensor | None = None,
    ) -> list[Tensor]:
        """The hidden states at each position, of the sequences that reach it.

        Args:
            symbols: The symbols of all positions, one position after the other.
            sizes: How many sequences reach each position; they are sorted, longest first.
            hidden: First hidden state, shape (sequences, hidden_size).
            memory: First state of the cell, shape (sequences, hidden_size).
            code: Codes, shape (sequences, code_size).
        """
        gates = self.gates(symbols)
        if code is not None:
            gates = gates + self.gates_of_code(code).index_select(0, rows(sizes))
        states = []
        for size, inputs in zip(sizes, torch.split(gates, sizes), strict=True):
            hidden, memory = self.step(inputs, hidden[:size], memory[:size])
            states.append(hidden)
        return states

    def gates(self, symbols: Tensor) -> Tensor:
        """What each symbol adds to the gates, shape (symbols, 4 * hidden_size)."""
        of_symbol, _ = torch.split(self.cell.weight_ih, self.sizes, dim=1)
        bias = self.cell.bias_ih + self.cell.bias_hh
        return functional.embedding(
            symbols, functional.linear(self.embedding.weight, of_symbol, bias)
        )

    def gates_of_code(self, code: Tensor) -> Tensor:
        """What each code adds to the gates, shape (codes, 4 * hidden_size)."""
        _, of_code = torch.split(self.cell.weight_ih, self.sizes, dim=1)
        return functional.linear(code, of_code)

    def step(self, gates: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The next hidden state and the next state of the cell."""
        gates = torch.addmm(gates, hidden, self.cell.weight_hh.t())
        enter, keep, new, show = gates.chunk(4, dim=1)
        memory = keep.sigmoid() * memory + enter.sigmoid() * new.tanh()
        return show.sigmoid() * memory.tanh(), memory


def rows(sizes: list[int]) -> Tensor:
    """The sequence of each packed symbol."""
    return torch.cat([torch.arange(size) for size in sizes])
