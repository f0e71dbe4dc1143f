"""Losses of adaptation against slow loops, and against scikit-learn and torch where these have the same."""

import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")

import torch
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor
from torch.nn import functional

from motivnet.training.adaptation_losses import (
    SCALES,
    certainty,
    class_mmd,
    domain_loss,
    information,
    mmd,
    multilinear,
    reverse_gradient,
)


def batches(sources: int = 6, targets: int = 5, width: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(sources, width, generator=generator), 1 + torch.randn(targets, width, generator=generator)


def slow_mmd(x: np.ndarray, y: np.ndarray, weights: list[float], bandwidth: float) -> float:
    """The mean of the kernel over all pairs, one after another."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([math.exp(-np.sum((a - b) ** 2) / (scale * bandwidth)) for scale in SCALES]))

    shares = [weight / sum(weights) for weight in weights]
    value = sum(p * q * kernel(a, b) for p, a in zip(shares, x, strict=True) for q, b in zip(shares, x, strict=True))
    value += sum(kernel(a, b) for a in y for b in y) / len(y) ** 2
    return value - 2 * sum(p * kernel(a, b) for p, a in zip(shares, x, strict=True) for b in y) / len(y)


def mean_distance(x: np.ndarray, y: np.ndarray) -> float:
    both = np.concatenate([x, y])
    return float(np.mean([np.sum((a - b) ** 2) for a in both for b in both]))


@pytest.mark.parametrize("weights", [None, [1.0, 2, 0.5, 1, 3, 0]])
def test_mmd_is_the_slow_loop(weights: list[float] | None) -> None:
    source, target = batches()
    x, y = source.double().numpy(), target.double().numpy()
    expected = slow_mmd(x, y, weights or [1.0] * len(x), mean_distance(x, y))
    found = mmd(source, target, None if weights is None else torch.tensor(weights))
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_mmd_is_that_of_scikit_learns_kernel() -> None:
    source, target = batches()
    x, y = source.numpy(), target.numpy()
    gammas = [1 / (scale * mean_distance(x, y)) for scale in SCALES]
    expected = np.mean(
        [rbf_kernel(x, gamma=g).mean() + rbf_kernel(y, gamma=g).mean() - 2 * rbf_kernel(x, y, g).mean() for g in gammas]
    )
    assert float(mmd(source, target)) == pytest.approx(float(expected), abs=1e-6)


def test_mmd_of_equal_batches_is_zero_and_has_a_gradient_of_numbers() -> None:
    source = batches()[0].requires_grad_()
    value = mmd(source, source.detach())
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert source.grad is not None
    assert source.grad.isfinite().all()
    assert mmd(torch.ones(3, 2), torch.ones(4, 2)).item() == pytest.approx(0, abs=1e-6)


def test_class_mmd_is_the_mean_over_the_classes_in_both() -> None:
    source, target = batches()
    labels, pseudo = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 1, 3, 3])
    x, y = source.double().numpy(), target.double().numpy()
    # Of class 2 there is no target, of class 3 no source. All classes have the batch's bandwidth.
    each = [
        slow_mmd(x[labels == c], y[pseudo == c], [1.0] * int((labels == c).sum()), mean_distance(x, y)) for c in (0, 1)
    ]
    assert float(class_mmd(source, target, labels, pseudo, 7)) == pytest.approx(np.mean(each), abs=1e-6)


def test_class_mmd_without_a_common_class_is_zero() -> None:
    source, target = batches()
    source.requires_grad_()
    value = class_mmd(source, target, torch.zeros(6, dtype=torch.long), torch.ones(5, dtype=torch.long), 7)
    value.backward()
    assert value.item() == 0


def test_domain_loss_is_the_cross_entropy_of_each_domain() -> None:
    source, target = torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.1, -3.0])
    ones, zeros = torch.ones(2), torch.zeros(3)
    each = functional.binary_cross_entropy_with_logits
    assert float(domain_loss(source, target)) == pytest.approx(float(each(source, ones) + each(target, zeros)) / 2)
    # Weights: by hand, -log sigmoid.
    weighted = domain_loss(source, target, torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.0, 0.0]))
    own = [math.log1p(math.exp(-0.5)), math.log1p(math.exp(1.0)), math.log1p(math.exp(2.0))]
    assert float(weighted) == pytest.approx(((own[0] + 3 * own[1]) / 4 + own[2]) / 2)


def test_conditional_discriminators_see_the_outer_product_weighted_by_certainty() -> None:
    features, logits = batches(3, 3)[0], torch.tensor([[9.0, 0, 0], [0, 0, 0], [1, 2, 3]])
    probs = logits.softmax(1)
    found = multilinear(probs, features)
    for row in range(3):
        assert found[row].tolist() == pytest.approx(np.outer(probs[row], features[row]).ravel().tolist(), abs=1e-6)
    entropy = [-sum(p * math.log(p) for p in row) for row in probs.tolist()]
    assert certainty(logits).tolist() == pytest.approx([1 + math.exp(-each) for each in entropy], abs=1e-6)
    assert entropy[1] == pytest.approx(math.log(3))


def test_a_reversed_gradient() -> None:
    features = torch.tensor([1.0, -2.0], requires_grad=True)
    reversed_ = reverse_gradient(features)
    (3 * reversed_).sum().backward()
    assert reversed_.tolist() == [1, -2]
    assert features.grad is not None
    assert features.grad.tolist() == [-3, -3]


def test_information_is_highest_for_certain_and_varied_answers() -> None:
    assert float(information(torch.eye(7))) == pytest.approx(math.log(7))
    assert float(information(torch.full((5, 7), 1 / 7))) == pytest.approx(0, abs=1e-6)
    assert float(information(torch.eye(7)[[2, 2, 2]])) == pytest.approx(0, abs=1e-6)
