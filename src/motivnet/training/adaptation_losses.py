"""Losses of unsupervised domain adaptation: source faces have labels, target faces have none.

Our own: skada and pytorch-adapt lack kernel means that are weighted or by class, and bring trainers of their own. The
numbers of formulas are those of `docs/adaptation.md`.

Shape suffixes: S source images, T target images, N both, C classes, D width, K pairs of distributions.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Bandwidths of the kernel over the mean squared distance of the batch.
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)


def reverse_gradient(features: Tensor) -> Tensor:
    """Return the same values; the gradient changes its sign on the way back (Ganin et al., JMLR 2016)."""
    return 2 * features.detach() - features


def domain_loss(
    source_S: Tensor, target_T: Tensor, weights_S: Tensor | None = None, weights_T: Tensor | None = None
) -> Tensor:
    """Compute the binary cross-entropy of a domain discriminator, formula (2): the mean of both domains' means.

    Args:
        source_S: logits of being source, of source images.
        target_T: of target images.
        weights_S: of the images; None weights all alike.
        weights_T: of the images.
    """
    halves = ((functional.softplus(-source_S), weights_S), (functional.softplus(target_T), weights_T))
    means = [loss.mean() if weights is None else (weights * loss).sum() / weights.sum() for loss, weights in halves]
    return (means[0] + means[1]) / 2


def multilinear(probs_NC: Tensor, features_ND: Tensor) -> Tensor:
    """Multiply each probability with each feature, formula (3): (N, C D), for a conditional discriminator."""
    return (probs_NC[:, :, None] * features_ND[:, None]).flatten(1)


def certainty(logits_NC: Tensor) -> Tensor:
    """Return the weights 1 + exp(-entropy) of CDAN+E, formula (4): (N,), without gradient."""
    probs_NC = logits_NC.detach().softmax(1)
    return 1 + (-torch.special.entr(probs_NC).sum(1)).exp()


def kernel_discrepancy(features_ND: Tensor, signed_KN: Tensor) -> Tensor:
    """Compute squared maximum mean discrepancies, formula (5): (K,).

    Args:
        features_ND: of all images, float32.
        signed_KN: for each pair of distributions the weight of each image: those of one sum to 1, of the other to -1.
    """
    squares_N1 = features_ND.square().sum(1, keepdim=True)
    distance_NN = (squares_N1 + squares_N1.T - 2 * features_ND @ features_ND.T).clamp(min=0)
    # A batch of equal features has no distance to scale by.
    bandwidth = distance_NN.detach().mean().clamp(min=1e-12)
    kernel_NN = torch.stack([(-distance_NN / (scale * bandwidth)).exp() for scale in SCALES]).mean(0)
    return torch.einsum("kn,nm,km->k", signed_KN, kernel_NN, signed_KN)


def mmd(source_SD: Tensor, target_TD: Tensor, weights_S: Tensor | None = None) -> Tensor:
    """Compute the squared MMD of two batches, formula (5); with weights of the source images, formula (6)."""
    weights_S = source_SD.new_ones(len(source_SD)) if weights_S is None else weights_S
    even_T = target_TD.new_full((len(target_TD),), 1 / len(target_TD))
    return kernel_discrepancy(
        torch.cat([source_SD, target_TD]), torch.cat([weights_S / weights_S.sum(), -even_T])[None]
    )[0]


def class_mmd(source_SD: Tensor, target_TD: Tensor, labels_S: Tensor, pseudo_T: Tensor, num_classes: int) -> Tensor:
    """Compute the mean over classes of the squared MMD within the class, formula (7); 0 if no class is in both batches.

    Args:
        source_SD: features of source images.
        target_TD: features of target images.
        labels_S: classes of the source images.
        pseudo_T: predicted classes of the target images.
        num_classes: C.
    """
    source_CS, target_CT = (functional.one_hot(labels, num_classes).T.float() for labels in (labels_S, pseudo_T))
    both_C = (source_CS.sum(1) > 0) & (target_CT.sum(1) > 0)
    if not both_C.any():
        return 0 * source_SD.sum()
    source_CS, target_CT = (each[both_C] / each[both_C].sum(1, keepdim=True) for each in (source_CS, target_CT))
    return kernel_discrepancy(torch.cat([source_SD, target_TD]), torch.cat([source_CS, -target_CT], 1)).mean()


def information(probs_TC: Tensor) -> Tensor:
    """Return the mutual information of image and class, formula (9), in nats: high for certain and varied answers."""
    return torch.special.entr(probs_TC.mean(0)).sum() - torch.special.entr(probs_TC).sum(1).mean()
