"""Heads to compare ML-Decoder with. All map tokens (B, N, D) to logits (B, C).

With `affect`, two more outputs follow the logits, (B, C + 2): valence and arousal, before tanh.

Shape suffixes: B images, N tokens, D token width, E input width of the last layer, C classes.
"""

import torch
from torch import Tensor, nn

from motivnet.labels import AFFECT


class LinearHead(nn.Module):
    """A linear layer on the mean token."""

    def __init__(self, in_dim: int, num_classes: int, *, dropout: float = 0.0, affect: bool = False) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(in_dim, num_classes)
        self.affect = _affect_map(in_dim, affect=affect)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Map tokens (B, N, D) to logits (B, C)."""
        return _answer(self.dropout(tokens_BND.mean(1)), self.out, self.affect)


class MlpHead(nn.Module):
    """An MLP on the mean token."""

    def __init__(self, in_dim: int, num_classes: int, *, dim: int, dropout: float = 0.0, affect: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_dim, dim)
        self.act = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(dim, num_classes)
        self.affect = _affect_map(dim, affect=affect)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Map tokens (B, N, D) to logits (B, C)."""
        return _answer(self.dropout(self.act(self.hidden(tokens_BND.mean(1)))), self.out, self.affect)


class AttentionPoolHead(nn.Module):
    """Attention pooling with one learned query, then a linear layer: the head most similar to ML-Decoder."""

    def __init__(
        self, in_dim: int, num_classes: int, *, num_heads: int, dropout: float = 0.0, affect: bool = False
    ) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, in_dim) * 0.02)
        self.norm = nn.LayerNorm(in_dim)
        self.attn = nn.MultiheadAttention(in_dim, num_heads, dropout=dropout, batch_first=True)
        self.out = nn.Linear(in_dim, num_classes)
        self.affect = _affect_map(in_dim, affect=affect)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Map tokens (B, N, D) to logits (B, C)."""
        tokens_BND = self.norm(tokens_BND)
        pooled_B1D, _ = self.attn(
            self.query.expand(tokens_BND.shape[0], -1, -1), tokens_BND, tokens_BND, need_weights=False
        )
        return _answer(pooled_B1D.squeeze(1), self.out, self.affect)


def _affect_map(dim: int, *, affect: bool) -> nn.Linear | None:
    return nn.Linear(dim, len(AFFECT)) if affect else None


def _answer(x_BE: Tensor, out: nn.Linear, affect: nn.Linear | None) -> Tensor:
    return out(x_BE) if affect is None else torch.cat([out(x_BE), affect(x_BE)], 1)
