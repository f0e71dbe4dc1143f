"""ML-Decoder: cross-attention from fixed queries to image tokens (Ridnik et al., arXiv 2111.12933).

Every query yields the logits of `ceil(C / Q)` classes with its own linear map. Valence and arousal may have two more
queries of their own. Since there is no self-attention between queries, these do not affect the logits.

Shape suffixes: B images, N tokens, D token width, Q queries, E decoder width, H attention heads,
F classes answered by one query, C classes, d width of a head.
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from motivnet.labels import AFFECT


class AttentionTrace(NamedTuple):
    """What the attention of one layer computed.

    Attributes:
        weights: attention weights (B, H, Q, N), which sum to 1 over tokens.
        values: of the tokens, (B, H, N, d). The output of the layer depends on the image through their weighted sum.
    """

    weights: Tensor
    values: Tensor


class CrossAttention(nn.Module):
    """Multi-head cross-attention from queries to tokens."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"decoder width {dim} is not divisible by num_heads={num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        # Query, key and value projections stacked in one matrix, as in released ML-Decoder files.
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        # Each projection preserves the scale of its input: with torch's defaults, the contribution of the tokens would
        # be far smaller than the query in the residual sum, and training would start slowly.
        for weight in (*self.in_proj.weight.data.chunk(3), self.out_proj.weight.data):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query_BQE: Tensor, tokens_BNE: Tensor, traces: list[AttentionTrace] | None = None) -> Tensor:
        """Attend.

        Args:
            query_BQE: queries.
            tokens_BNE: keys and values.
            traces: a list to append the attention weights to, for explanations. The output is then computed with
                exactly these weights, equal up to rounding; gradients treat them as constants.

        Returns:
            (B, Q, E).
        """
        weight_q, weight_k, weight_v = self.in_proj.weight.chunk(3)
        bias_q, bias_k, bias_v = self.in_proj.bias.chunk(3)
        q_BHQd = self._split(functional.linear(query_BQE, weight_q, bias_q))
        k_BHNd = self._split(functional.linear(tokens_BNE, weight_k, bias_k))
        v_BHNd = self._split(functional.linear(tokens_BNE, weight_v, bias_v))
        dropout = self.dropout if self.training else 0.0
        if traces is None:
            # Fused kernels, which never store the weights, take less memory and time.
            mixed_BHQd = functional.scaled_dot_product_attention(q_BHQd, k_BHNd, v_BHNd, dropout_p=dropout)
        else:
            weights_BHQN = (q_BHQd @ k_BHNd.transpose(2, 3) / math.sqrt(q_BHQd.shape[3])).softmax(3).detach()
            mixed_BHQd = functional.dropout(weights_BHQN, dropout) @ v_BHNd
            traces.append(AttentionTrace(weights_BHQN, v_BHNd))
        return self.out_proj(mixed_BHQd.transpose(1, 2).flatten(2))

    def _split(self, x_BNE: Tensor) -> Tensor:
        return x_BNE.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class MLDecoderLayer(nn.Module):
    """One post-norm decoder layer without self-attention between queries."""

    def __init__(self, dim: int, num_heads: int, ff_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(dim)
        self.attn = CrossAttention(dim, num_heads, dropout)
        self.norm_attn = nn.LayerNorm(dim)
        self.ff_in = nn.Linear(dim, ff_dim)
        self.ff_out = nn.Linear(ff_dim, dim)
        self.norm_ff = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query_BQE: Tensor, tokens_BNE: Tensor, traces: list[AttentionTrace] | None = None) -> Tensor:
        """Update the queries (B, Q, E) by cross-attention to the tokens; `traces` as in CrossAttention."""
        # The authors keep the residual of the self-attention that they removed: a query is added to itself.
        x_BQE = self.norm_query(query_BQE + self.dropout(query_BQE))
        x_BQE = self.norm_attn(x_BQE + self.dropout(self.attn(x_BQE, tokens_BNE, traces)))
        hidden = self.dropout(functional.relu(self.ff_in(x_BQE)))
        return self.norm_ff(x_BQE + self.dropout(self.ff_out(hidden)))


class MLDecoder(nn.Module):
    """Classifies tokens by cross-attention from queries, which are fixed unless `learnable_queries`."""

    queries: Tensor
    affect_queries: Tensor

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        *,
        num_queries: int | None = None,
        learnable_queries: bool = False,
        dim: int = 768,
        num_layers: int = 1,
        num_heads: int = 8,
        ff_dim: int = 2048,
        dropout: float = 0.1,
        affect: bool = False,
        reference_init: bool = False,
    ) -> None:
        """Build the decoder.

        Args:
            in_dim: token width of the backbone.
            num_classes: number of logits.
            num_queries: None takes one per class. With fewer, each query has a group of classes.
            learnable_queries: whether the queries are trained; their name in files is the same either way.
            dim: decoder width, divisible by `num_heads`.
            num_layers: decoder layers, at least 1.
            num_heads: attention heads.
            ff_dim: hidden width of the feed-forward part.
            dropout: on attention weights, residuals and the hidden layer.
            affect: whether to predict valence and arousal: two more outputs after the logits.
            reference_init: start from the weights of torch's own modules, all layers alike, as in MotivNet's code.

        Raises:
            ValueError: if a number is out of range.
        """
        super().__init__()
        num_queries = num_classes if num_queries is None else num_queries
        if not 1 <= num_queries <= num_classes:
            raise ValueError(f"num_queries must be between 1 and num_classes={num_classes}, not {num_queries}")
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, not {num_layers}")
        self.num_classes = num_classes
        self.affect = affect
        self.embed = nn.Linear(in_dim, dim)
        nn.init.kaiming_normal_(self.embed.weight, nonlinearity="relu")
        # Random even where they are not trained, so they must be saved with the weights.
        self._add_queries("queries", num_queries, dim, learnable=learnable_queries)
        self.layers = nn.ModuleList(MLDecoderLayer(dim, num_heads, ff_dim, dropout) for _ in range(num_layers))
        classes_per_query = math.ceil(num_classes / num_queries)
        self.group_weight = nn.Parameter(torch.empty(num_queries, dim, classes_per_query))
        self.group_bias = nn.Parameter(torch.zeros(num_classes))
        for weight_EF in self.group_weight.data:
            nn.init.xavier_normal_(weight_EF)
        # Last, so that all other weights are the same as without, for the same seed.
        if affect:
            self._add_queries("affect_queries", len(AFFECT), dim, learnable=learnable_queries)
            # Small, so that tanh starts in its linear range.
            self.affect_weight = nn.Parameter(0.1 / math.sqrt(dim) * torch.randn(len(AFFECT), dim))
            self.affect_bias = nn.Parameter(torch.zeros(len(AFFECT)))
        if reference_init:
            self._init_as_reference()

    def _init_as_reference(self) -> None:
        """Initialise as torch's Linear, MultiheadAttention and TransformerDecoder do, which copies its first layer."""
        self.embed.reset_parameters()
        first = cast(MLDecoderLayer, self.layers[0])
        nn.init.xavier_uniform_(first.attn.in_proj.weight)
        first.attn.out_proj.reset_parameters()
        nn.init.zeros_(first.attn.out_proj.bias)
        for layer in self.layers[1:]:
            layer.load_state_dict(first.state_dict())

    def _add_queries(self, name: str, number: int, dim: int, *, learnable: bool) -> None:
        queries_QE = torch.randn(number, dim)
        if learnable:
            self.register_parameter(name, nn.Parameter(queries_QE))
        else:
            self.register_buffer(name, queries_QE)

    def forward(self, tokens_BND: Tensor, traces: list[AttentionTrace] | None = None) -> Tensor:
        """Map tokens to logits.

        Args:
            tokens_BND: of the backbone.
            traces: a list to append the attention of each layer to; the queries of valence and arousal come last.

        Returns:
            Logits (B, C); with `affect`, (B, C + 2): then valence and arousal, before tanh.
        """
        tokens_BNE = functional.relu(self.embed(tokens_BND))
        queries_QE = torch.cat([self.queries, self.affect_queries]) if self.affect else self.queries
        answers_BQE = queries_QE.to(tokens_BNE.dtype).expand(tokens_BNE.shape[0], -1, -1)
        for layer in self.layers:
            answers_BQE = layer(answers_BQE, tokens_BNE, traces)
        if not self.affect:
            return self._logits(answers_BQE)
        answers_BQE, affect_B2E = answers_BQE.tensor_split([len(self.queries)], 1)
        affect_B2 = torch.einsum("bqe,qe->bq", affect_B2E, self.affect_weight) + self.affect_bias
        return torch.cat([self._logits(answers_BQE), affect_B2], 1)

    def _logits(self, answers_BQE: Tensor) -> Tensor:
        logits_BQF = torch.einsum("bqe,qef->bqf", answers_BQE, self.group_weight)
        # Q * F may exceed C: then part of the last group is unused.
        return logits_BQF.flatten(1)[:, : self.num_classes] + self.group_bias
