"""Depthwise convolutions keep out of autocast."""

import torch
from torch import nn

from motivnet.models.backbone import Float32Conv2d, keep_depthwise_float32


def test_only_depthwise_convolutions_stay_in_float32() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8))
    names = list(model.state_dict())
    keep_depthwise_float32(model)
    assert [type(module) for module in model] == [nn.Conv2d, Float32Conv2d]
    assert list(model.state_dict()) == names
    with torch.autocast("cpu", torch.bfloat16):
        inner = model[0](torch.randn(1, 4, 5, 5))
        assert inner.dtype == torch.bfloat16
        assert model(torch.randn(1, 4, 5, 5)).dtype == torch.float32
