"""Losses against torch's own."""

import torch
from torch.nn import functional

from motivnet.training.losses import blend_targets, class_log_prior, soft_cross_entropy

LABELS = torch.tensor([0, 2, 1])
VOTES = torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 10.0, 0.0]])


def test_soft_cross_entropy_is_torchs() -> None:
    logits = torch.randn(3, 3)
    targets = torch.randn(3, 3).softmax(1)
    torch.testing.assert_close(soft_cross_entropy(logits, targets), functional.cross_entropy(logits, targets))


def test_label_smoothing_is_torchs() -> None:
    logits = torch.randn(3, 3)
    targets = blend_targets(LABELS, VOTES, vote_weight=0.0, label_smoothing=0.1)
    expected = functional.cross_entropy(logits, LABELS, label_smoothing=0.1)
    torch.testing.assert_close(soft_cross_entropy(logits, targets), expected)


def test_votes_blend_in_where_there_are_any() -> None:
    targets = blend_targets(LABELS, VOTES, vote_weight=0.5, label_smoothing=0.0)
    torch.testing.assert_close(targets, torch.tensor([[0.625, 0.375, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))


def test_log_prior() -> None:
    prior = class_log_prior(torch.tensor([0, 0, 0, 1]), 3)
    torch.testing.assert_close(prior.exp(), torch.tensor([0.6, 0.2, 0.2]))
