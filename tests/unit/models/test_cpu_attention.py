"""Blocked attention against torch's own, and where it steps aside."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from motivnet.models import cpu_attention
from motivnet.models.cpu_attention import BlockedAttention, blocked_attention


def heads(num_tokens: int, dtype: torch.dtype = torch.bfloat16, num_keys: int | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (num_tokens, num_keys or num_tokens, num_keys or num_tokens)
    return [torch.randn(2, 3, size, 16, generator=generator).to(dtype) for size in sizes]


@pytest.mark.parametrize(("num_queries", "num_keys"), [(512, 512), (700, 700), (300, 1100), (1030, 257)])
def test_agrees_with_torch(num_queries: int, num_keys: int) -> None:
    query, key, value = heads(num_queries, torch.float32, num_keys)
    expected = functional.scaled_dot_product_attention(query, key, value)
    with torch.inference_mode():
        torch.testing.assert_close(blocked_attention(query, key, value), expected, atol=1e-5, rtol=1e-5)
        half = blocked_attention(*(part.bfloat16() for part in (query, key, value)))
    torch.testing.assert_close(half.float(), expected, atol=0.02, rtol=0.02)


def test_torchs_compiler_is_told_the_truth_about_it() -> None:
    with torch.inference_mode(mode=False), torch.no_grad():
        torch.library.opcheck(blocked_attention, tuple(heads(300, num_keys=400)))


def test_compiled_the_graph_has_it_once_and_whole() -> None:
    graphs: list[str] = []

    def look(module: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(str(module.graph))
        return module

    attend = torch.compile(functional.scaled_dot_product_attention, backend=look)
    parts = heads(300)
    with torch.no_grad(), BlockedAttention():
        found = attend(*parts)
    (graph,) = graphs
    assert graph.count("motivnet.blocked_attention") == 1
    assert "scaled_dot_product" not in graph
    with torch.no_grad():
        torch.testing.assert_close(found, blocked_attention(*parts))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    seen: list[tuple[int, ...]] = []

    def spy(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen.append(tuple(query.shape))
        return blocked_attention(query, key, value)

    monkeypatch.setattr(cpu_attention, "blocked_attention", spy)
    return seen


def test_takes_the_place_of_torchs_attention_inside_only(calls: list[tuple[int, ...]]) -> None:
    parts = heads(300)
    with torch.inference_mode():
        with BlockedAttention():
            inside = functional.scaled_dot_product_attention(*parts)
        assert calls == [(2, 3, 300, 16)]
        outside = functional.scaled_dot_product_attention(*parts)
    assert len(calls) == 1
    torch.testing.assert_close(inside, outside, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("num_tokens", "dtype", "options"),
    [
        (300, torch.float32, {}),
        (100, torch.bfloat16, {}),
        (300, torch.bfloat16, {"is_causal": True}),
        (300, torch.bfloat16, {"attn_mask": torch.ones(300, 300, dtype=torch.bool)}),
        (300, torch.bfloat16, {"scale": 1.0}),
    ],
    ids=["float32", "few keys", "causal", "mask", "scale"],
)
def test_leaves_everything_else_to_torch(
    num_tokens: int, dtype: torch.dtype, options: dict, calls: list[tuple[int, ...]]
) -> None:
    parts = heads(num_tokens, dtype)
    with torch.inference_mode():
        expected = functional.scaled_dot_product_attention(*parts, **options)
        with BlockedAttention():
            assert torch.equal(functional.scaled_dot_product_attention(*parts, **options), expected)
    assert calls == []


def test_leaves_training_to_torch(calls: list[tuple[int, ...]]) -> None:
    query, key, value = heads(300)
    query.requires_grad_()
    with BlockedAttention():
        functional.scaled_dot_product_attention(query, key, value).sum().backward()
    assert calls == []
    assert query.grad is not None
