"""ML-Decoder against torch's own primitives; against its authors' implementation in test_released_formats.py."""

import copy
import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from motivnet.models.ml_decoder import MLDecoder  # noqa: E402

SHAPES = {
    "one query a class": {"num_classes": 7},
    "two layers": {"num_classes": 7, "num_layers": 2},
    "three layers in groups that do not divide": {"num_classes": 7, "num_queries": 3, "num_layers": 3},
    "a group that is wholly unused": {"num_classes": 9, "num_queries": 6},
    "groups that divide": {"num_classes": 8, "num_queries": 4},
    "one query for all": {"num_classes": 7, "num_queries": 1},
    "one class": {"num_classes": 1},
}


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small gain nothing from threads, and wait long for them on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def build(shape, **changes):
    torch.manual_seed(0)
    settings = {"dim": 32, "num_heads": 4, "ff_dim": 48, "dropout": 0.0}
    decoder = MLDecoder(20, **(settings | shape | changes))
    with torch.no_grad():
        # Biases and norms start at 0 and 1, where mistakes in them do not show.
        for parameter in decoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return decoder


def tokens(num_images=3, num_tokens=11, width=20):
    return torch.randn(num_images, num_tokens, width, generator=torch.Generator().manual_seed(1))


def primitive(module, *args, weight, bias, **kwargs):
    made = module(*args, **kwargs)
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made


def like(own):
    """The torch module with the weights of one of ours."""
    if isinstance(own, nn.LayerNorm):
        return primitive(nn.LayerNorm, own.weight.shape, weight=own.weight, bias=own.bias)
    return primitive(nn.Linear, own.weight.shape[1], own.weight.shape[0], weight=own.weight, bias=own.bias)


def witness(decoder, x, num_heads=4):
    """The paper's decoder, from torch's attention, norms and linear maps, one group and one class at a time."""
    memory = torch.relu(like(decoder.embed)(x))
    width = memory.shape[2]
    query = decoder.queries[None].repeat(len(x), 1, 1)
    for layer in decoder.layers:
        attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        with torch.no_grad():
            attention.in_proj_weight.copy_(layer.attn.in_proj.weight)
            attention.in_proj_bias.copy_(layer.attn.in_proj.bias)
            attention.out_proj.weight.copy_(layer.attn.out_proj.weight)
            attention.out_proj.bias.copy_(layer.attn.out_proj.bias)
        query = like(layer.norm_query)(query + query)
        query = like(layer.norm_attn)(query + attention(query, memory, memory)[0])
        hidden = torch.relu(like(layer.ff_in)(query))
        query = like(layer.norm_ff)(query + like(layer.ff_out)(hidden))
    num_classes, num_queries = len(decoder.group_bias), len(decoder.queries)
    group = math.ceil(num_classes / num_queries)
    logits = [
        query[:, c // group] @ decoder.group_weight[c // group, :, c % group] + decoder.group_bias[c]
        for c in range(num_classes)
    ]
    return torch.stack(logits, dim=1)


@each_shape
def test_agrees_with_torch_primitives(shape):
    decoder = build(shape).eval()
    with torch.no_grad():
        found, expected = decoder(tokens()), witness(decoder, tokens())
    assert found.shape == (3, shape["num_classes"])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@each_shape
def test_gradients_agree_with_torch_primitives(shape):
    ours, theirs = build(shape), build(shape)
    x, y = tokens().requires_grad_(), tokens().requires_grad_()
    ours(x).square().sum().backward()
    witness(theirs, y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-4, rtol=1e-4)


@each_shape
def test_every_parameter_that_can_matter_receives_a_gradient(shape):
    decoder = build(shape).train()
    weight = torch.randn(3, shape["num_classes"], generator=torch.Generator().manual_seed(2))
    (decoder(tokens()) * weight).sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        if name.endswith("in_proj.bias"):
            # Softmax is blind to what is added to all keys alike: only queries and values learn a bias.
            query, _, value = parameter.grad.chunk(3)
            assert query.abs().max() > 0, name
            assert value.abs().max() > 0, name
        else:
            assert parameter.grad.abs().max() > 0, name


def test_queries_are_saved_and_never_trained():
    decoder = build({"num_classes": 7})
    assert "queries" in decoder.state_dict()
    assert "queries" in dict(decoder.named_buffers())
    assert "queries" not in dict(decoder.named_parameters())
    assert not decoder.queries.requires_grad
    before = copy.deepcopy(decoder.state_dict())
    optimizer = torch.optim.SGD(decoder.parameters(), lr=0.1, weight_decay=0.1)
    decoder(tokens()).square().sum().backward()
    optimizer.step()
    after = decoder.state_dict()
    assert torch.equal(before["queries"], after["queries"])
    assert not torch.equal(before["embed.weight"], after["embed.weight"])


def test_queries_come_with_the_weights():
    torch.manual_seed(3)
    other = MLDecoder(20, 7, dim=32, num_heads=4, ff_dim=48, dropout=0.0)
    decoder = build({"num_classes": 7})
    assert not torch.equal(other.queries, decoder.queries)
    other.load_state_dict(decoder.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(other.eval()(tokens()), decoder.eval()(tokens()))
    without = {name: tensor for name, tensor in decoder.state_dict().items() if name != "queries"}
    with pytest.raises(RuntimeError, match="queries"):
        other.load_state_dict(without, strict=True)


def test_neither_the_order_of_tokens_nor_the_other_images_matter():
    decoder = build({"num_classes": 7, "num_layers": 2}).eval()
    x = tokens()
    with torch.no_grad():
        logits = decoder(x)
        torch.testing.assert_close(decoder(x.flip(1)), logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(decoder(x[1:2]), logits[1:2], atol=1e-5, rtol=1e-5)


def test_a_query_answers_the_same_whatever_the_others_ask():
    # No self-attention: with one class a query, a query that changes moves its own logit only.
    decoder = build({"num_classes": 7, "num_layers": 2}).eval()
    with torch.no_grad():
        before = decoder(tokens())
        decoder.queries[2] = decoder.queries[2].flip(0)
        after = decoder(tokens())
    changed = (before - after).abs().amax(dim=0) > 1e-6
    assert changed.tolist() == [False, False, True, False, False, False, False]


def test_dropout_acts_in_training_only():
    decoder = build({"num_classes": 7}, dropout=0.5)
    x = tokens()
    with torch.no_grad():
        assert not torch.equal(decoder.train()(x), decoder(x))
        assert torch.equal(decoder.eval()(x), decoder(x))
        torch.testing.assert_close(decoder(x), witness(decoder, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_queries": 8}, "num_queries must be between 1 and num_classes=7, not 8"),
        ({"num_queries": 0}, "num_queries must be between 1 and num_classes=7, not 0"),
        ({"num_layers": 0}, "num_layers must be at least 1, not 0"),
        ({"num_heads": 5}, "width 32 is not divisible by num_heads=5"),
    ],
)
def test_shapes_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        build({"num_classes": 7}, **changes)


@pytest.mark.parametrize(
    ("reference_init", "stds"), [(False, (0.0361, 0.0295, 0.0295)), (True, (0.0147, 0.0208, 0.0170))]
)
def test_initial_weights(reference_init: bool, stds: tuple[float, ...]) -> None:
    """With Sapiens-1B: the reference's layers are torch's own, and copies of one."""
    torch.manual_seed(0)
    head = MLDecoder(1536, 7, dim=1152, num_layers=2, reference_init=reference_init)
    first, second = (layer.state_dict() for layer in head.layers)
    matrices = head.embed.weight, first["attn.in_proj.weight"], first["attn.out_proj.weight"]
    assert [matrix.std().item() for matrix in matrices] == pytest.approx(stds, rel=0.01)
    same = [torch.equal(first[name], second[name]) for name in ("attn.in_proj.weight", "ff_in.weight", "ff_in.bias")]
    assert same == [reference_init] * 3
