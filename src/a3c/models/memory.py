"""Memory: a recurrent core that carries a state from row to row and begins each episode without one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class Memory(nn.Module):
    """An LSTM (Hochreiter and Schmidhuber 1997) or a GRU (Cho et al. 2014).

    Its state is one tensor [B, S]: of an LSTM hidden and cell side by side, S = 2H; of a GRU the hidden one, S = H.
    Where an episode starts, the state is 0, whatever came in.

    Weights begin orthogonal, one matrix a gate (Saxe et al. 2014), and biases 0, but for an LSTM's forget gate: 1,
    so that it remembers before it has learned to (Jozefowicz et al. 2015).

    Args:
        kind: "lstm" or "gru".
        inputs: width of what comes in, F.
        size: H.
    """

    def __init__(self, kind: Literal["lstm", "gru"], inputs: int, size: int) -> None:
        super().__init__()
        assert kind in ("lstm", "gru")
        self.cell: nn.LSTMCell | nn.GRUCell = (nn.LSTMCell if kind == "lstm" else nn.GRUCell)(inputs, size)
        self.features = size
        self.state_size = 2 * size if kind == "lstm" else size
        for weight in (self.cell.weight_ih, self.cell.weight_hh):
            for gate in weight.data.chunk(len(weight) // size):
                nn.init.orthogonal_(gate)
        nn.init.zeros_(self.cell.bias_ih)
        nn.init.zeros_(self.cell.bias_hh)
        if kind == "lstm":
            nn.init.ones_(self.cell.bias_ih.data[size : 2 * size])  # gates are in the order i, f, g, o

    def initial_state(self, lanes: int) -> Tensor:
        """Zeros [B, S]."""
        return self.cell.weight_hh.new_zeros(lanes, self.state_size)

    def step(self, inputs: Tensor, state: Tensor, episode_start: Tensor) -> tuple[Tensor, Tensor]:
        """One row: outputs [B, H] and the next state [B, S].

        Args:
            inputs: [B, F].
            state: what the step before gave, [B, S].
            episode_start: [B] bool, where the state is to be 0.
        """
        state = _begun(state, episode_start)
        if isinstance(self.cell, nn.GRUCell):
            hidden = self.cell(inputs, state)
            return hidden, hidden
        hidden, cell = self.cell(inputs, tuple(state.chunk(2, -1)))
        return hidden, torch.cat([hidden, cell], -1)

    def unroll(self, inputs: Tensor, state: Tensor, episode_start: Tensor) -> tuple[Tensor, Tensor]:
        """T steps: outputs [T, B, H] and the state after the last [B, S]. No gradient goes into `state`.

        Args:
            inputs: [T, B, F].
            state: before the first row, [B, S].
            episode_start: [T, B] bool, where the state before that row is to be 0.
        """
        assert inputs.shape[:2] == episode_start.shape
        state = state.detach()  # truncated backpropagation through time ends at the rollout's border
        unroll = self._unroll_gru if isinstance(self.cell, nn.GRUCell) else self._unroll_lstm
        return unroll(inputs, state, episode_start)

    def _unroll_lstm(self, inputs: Tensor, state: Tensor, episode_start: Tensor) -> tuple[Tensor, Tensor]:
        """i, f, o = σ(·), g = tanh(·), c' = f c + i g, h' = o tanh(c')."""
        recurrent = self.cell.weight_hh.t()  # [H, 4H]
        projected = functional.linear(inputs, self.cell.weight_ih, self.cell.bias_ih + self.cell.bias_hh)  # [T, B, 4H]
        outputs = []
        for row, start in zip(projected.unbind(), episode_start.unbind(), strict=True):
            hidden, cell = _begun(state, start).chunk(2, -1)
            i, f, g, o = torch.addmm(row, hidden, recurrent).chunk(4, -1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            state = torch.cat([hidden, cell], -1)
            outputs.append(hidden)
        return torch.stack(outputs), state

    def _unroll_gru(self, inputs: Tensor, state: Tensor, episode_start: Tensor) -> tuple[Tensor, Tensor]:
        """r, z = σ(·), n = tanh(Wx + b + r (Uh + c)), h' = (1 - z) n + z h."""
        recurrent, size = self.cell.weight_hh.t(), self.features  # [H, 3H]
        projected = functional.linear(inputs, self.cell.weight_ih, self.cell.bias_ih)  # [T, B, 3H]
        outputs = []
        for row, start in zip(projected.unbind(), episode_start.unbind(), strict=True):
            state = _begun(state, start)
            remembered = torch.addmm(self.cell.bias_hh, state, recurrent)  # [B, 3H]
            r, z = (row[:, : 2 * size] + remembered[:, : 2 * size]).sigmoid().chunk(2, -1)
            n = (row[:, 2 * size :] + r * remembered[:, 2 * size :]).tanh()
            state = torch.lerp(n, state, z)
            outputs.append(state)
        return torch.stack(outputs), state


def _begun(state: Tensor, episode_start: Tensor) -> Tensor:
    """`state` with zeros where an episode starts; by choice, not by product, for NaN x 0 is NaN."""
    return torch.where(episode_start.unsqueeze(-1), 0.0, state)
