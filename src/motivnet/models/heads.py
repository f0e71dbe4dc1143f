"""Heads to compare ML-Decoder with. All map tokens (B, N, D) to logits (B, C).

Shape suffixes: B images, N tokens, D token width, C classes.
"""

import torch
from torch import Tensor, nn


class LinearHead(nn.Module):
    """One linear map of the mean token."""

    def __init__(self, in_dim: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(in_dim, num_classes)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Map tokens (B, N, D) to logits (B, C)."""
        return self.out(self.dropout(tokens_BND.mean(1)))


class MlpHead(nn.Module):
    """A hidden layer over the mean token."""

    def __init__(self, in_dim: int, num_classes: int, *, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_dim, dim)
        self.act = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(dim, num_classes)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Map tokens (B, N, D) to logits (B, C)."""
        return self.out(self.dropout(self.act(self.hidden(tokens_BND.mean(1)))))


class AttentionPoolHead(nn.Module):
    """One learned query pools the tokens, then a linear map: ML-Decoder's nearest relative."""

    def __init__(self, in_dim: int, num_classes: int, *, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, in_dim) * 0.02)
        self.norm = nn.LayerNorm(in_dim)
        self.attn = nn.MultiheadAttention(in_dim, num_heads, dropout=dropout, batch_first=True)
        self.out = nn.Linear(in_dim, num_classes)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Map tokens (B, N, D) to logits (B, C)."""
        tokens_BND = self.norm(tokens_BND)
        pooled_B1D, _ = self.attn(
            self.query.expand(tokens_BND.shape[0], -1, -1), tokens_BND, tokens_BND, need_weights=False
        )
        return self.out(pooled_B1D.squeeze(1))
