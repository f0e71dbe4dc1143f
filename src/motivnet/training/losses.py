"""What training minimises.

Shape suffixes: B images, C classes.
"""

import torch
from torch import Tensor
from torch.nn import functional


def blend_targets(labels_B: Tensor, votes_BC: Tensor, *, vote_weight: float, label_smoothing: float) -> Tensor:
    """Turn labels and votes into distributions over classes.

    Args:
        labels_B: label indices, int64.
        votes_BC: annotators a label, float32; a row of zeros has none, and follows its label alone.
        vote_weight: share of the target that follows the votes.
        label_smoothing: share of the target that is spread evenly.

    Returns:
        Targets (B, C), each row summing to 1.
    """
    num_classes = votes_BC.shape[1]
    labels_BC = functional.one_hot(labels_B, num_classes).to(votes_BC.dtype)
    total_B1 = votes_BC.sum(1, keepdim=True)
    shares_BC = torch.where(total_B1 > 0, votes_BC / total_B1.clamp(min=1), labels_BC)
    target_BC = labels_BC.lerp(shares_BC, vote_weight)
    return target_BC * (1 - label_smoothing) + label_smoothing / num_classes


def soft_cross_entropy(logits_BC: Tensor, target_BC: Tensor, weights_C: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of logits against distributions, computed in float32; a scalar.

    Args:
        logits_BC: what the model says.
        target_BC: distributions over classes.
        weights_C: how much each class's share of the target counts; None counts all alike. The mean is over images,
            as torch's of soft targets: weights do not cancel.
    """
    if weights_C is not None:
        target_BC = target_BC * weights_C
    return -(target_BC * functional.log_softmax(logits_BC.float(), 1)).sum(1).mean()


def class_log_prior(labels: Tensor, num_classes: int) -> Tensor:
    """Log frequency of each class among label indices, (C,); a class that never occurs counts as once."""
    counts_C = torch.bincount(labels, minlength=num_classes).clamp(min=1).float()
    return (counts_C / counts_C.sum()).log()
