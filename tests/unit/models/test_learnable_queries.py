"""ML-Decoder's questions: fixed as in MotivNet, or trained; the same in files."""

import torch

from motivnet.models.config import HeadConfig
from motivnet.models.motivnet import build_head


def build(*, learnable: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_head(HeadConfig(dim=16, num_heads=4, ff_dim=8, dropout=0.0, learnable_queries=learnable), 12, 7)


def test_they_differ_in_what_is_trained_alone() -> None:
    fixed, learnable = build(learnable=False), build(learnable=True)
    trained = {name for name, _ in learnable.named_parameters()} - {name for name, _ in fixed.named_parameters()}
    assert trained == {"queries"}
    assert list(fixed.state_dict()) != []
    assert fixed.state_dict().keys() == learnable.state_dict().keys()
    # The same seed gives the same weights, and each reads the other's file.
    assert all(torch.equal(value, learnable.state_dict()[name]) for name, value in fixed.state_dict().items())
    fixed.load_state_dict(learnable.state_dict())


def test_learnable_queries_move_and_fixed_ones_do_not() -> None:
    tokens = torch.randn(3, 5, 12)
    for learnable in (False, True):
        head = build(learnable=learnable)
        before = head.state_dict()["queries"].clone()
        optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
        head(tokens).square().sum().backward()
        optimizer.step()
        assert torch.equal(head.state_dict()["queries"], before) is not learnable
