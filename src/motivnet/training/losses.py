"""Losses, and the validation metric of valence and arousal.

Shape suffixes: B images, C classes, A rows with a value.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from motivnet.labels import AFFECT

# With fewer rows, or rows of nearly one value, a correlation is meaningless: that of unrelated values has a standard
# error of 1 / sqrt(rows - 1), 0.26 for 16 rows, and that of two rows is always 1 or -1.
MIN_CCC_ROWS = 16
MIN_CCC_VARIANCE = 1e-3
# Mean squared difference of unrelated values that are uniform from -1 to 1.
EVEN_SPREAD = 2 / 3


def blend_targets(labels_B: Tensor, votes_BC: Tensor, *, vote_weight: float, label_smoothing: float) -> Tensor:
    """Turn labels and votes into distributions over classes.

    Args:
        labels_B: label indices, int64.
        votes_BC: annotators per label, float32; a row of zeros has no votes, and uses its label alone.
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
    """Compute the mean cross-entropy of logits against distributions in float32, a scalar.

    Args:
        logits_BC: of the model.
        target_BC: distributions over classes.
        weights_C: weight of each class's share of the target; None weights all alike. The mean is over images, as
            torch's for soft targets: weights do not cancel.
    """
    if weights_C is not None:
        target_BC = target_BC * weights_C
    return -(target_BC * functional.log_softmax(logits_BC.float(), 1)).sum(1).mean()


def class_log_prior(labels: Tensor, num_classes: int) -> Tensor:
    """Return the log frequency of each class among label indices, (C,); a class that never occurs counts once."""
    counts_C = torch.bincount(labels, minlength=num_classes).clamp(min=1).float()
    return (counts_C / counts_C.sum()).log()


def ccc_loss(preds_B: Tensor, target_B: Tensor) -> Tensor:
    """Compute 1 - concordance correlation coefficient (Lin, Biometrics 1989) of the rows with a value; a scalar.

    It is the mean squared error over what that would be if both were unrelated, with the means and variances that they
    have: 1 - CCC = mean((x - y)^2) / (var(x) + var(y) + (mean(x) - mean(y))^2). In a batch that is too small to
    estimate these (see MIN_CCC_ROWS), or in which all have one value, those of a uniform spread from -1 to 1 take their
    place: the squared error, on the same scale. Accumulated batches count one by one, since their gradients are added,
    not their rows.

    Args:
        preds_B: from -1 to 1.
        target_B: from -1 to 1, NaN in a row without one.

    Returns:
        The loss, whose gradient is finite and 0 in rows without a value; 0 if no row has one.
    """
    known_B = ~target_B.isnan()
    preds_A, target_A = preds_B[known_B].float(), target_B[known_B].float()
    if not len(target_A):
        return 0 * preds_B.sum()
    error = (preds_A - target_A).square().mean()
    variance = target_A.var(correction=0)
    if len(target_A) < MIN_CCC_ROWS or variance < MIN_CCC_VARIANCE:
        return error / EVEN_SPREAD
    return error / (preds_A.var(correction=0) + variance + (preds_A.mean() - target_A.mean()).square())


class TaskLoss(nn.Module):
    """The classification loss and that of valence and arousal in one number.

    With learned weights (Kendall et al., arXiv 1705.07115) it is exp(-s) class_loss + s / 2 + exp(-t) affect_loss / 2 +
    t / 2: the log variances s and t are parameters of the training, not of the model. The loss of a batch without any
    valence or arousal is its classification loss.
    """

    def __init__(self, affect_weight: float | None) -> None:
        """Set the weights.

        Args:
            affect_weight: of valence and arousal relative to the classes; None learns both weights.
        """
        super().__init__()
        self.affect_weight = affect_weight
        if affect_weight is None:
            self.log_variances = nn.Parameter(torch.zeros(2))

    def forward(self, class_loss: Tensor, affect_B2: Tensor, target_B2: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the total loss, and the mean loss of those of valence and arousal that the batch has targets of.

        Args:
            class_loss: of the same batch.
            affect_B2: predictions of the model.
            target_B2: NaN where a row has none.
        """
        pairs = zip(affect_B2.unbind(1), target_B2.unbind(1), strict=True)
        losses = [ccc_loss(preds_B, target_B) for preds_B, target_B in pairs if not target_B.isnan().all()]
        if not losses:
            # Times 0, since data-parallel training waits for a gradient of every parameter.
            unused = [affect_B2, *self.parameters()]
            return class_loss + 0 * torch.stack([tensor.sum() for tensor in unused]).sum(), None
        affect_loss = torch.stack(losses).mean()
        if self.affect_weight is not None:
            return class_loss + self.affect_weight * affect_loss, affect_loss
        s, t = self.log_variances
        return (-s).exp() * class_loss + (-t).exp() * affect_loss / 2 + (s + t) / 2, affect_loss


class Concordance(Metric):
    """CCC (Lin, Biometrics 1989) and RMSE of valence and arousal over all batches and processes.

    Rows without a target are masked, separately for each of the two: torchmetrics' own metrics have no masks, and
    cannot start with a batch of which nothing is left.
    """

    full_state_update = False
    moments: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Of each: rows, and the sums of x, y, x * x, y * y and x * y.
        self.add_state("moments", torch.zeros(len(AFFECT), 6), dist_reduce_fx="sum")

    def update(self, preds_B2: Tensor, target_B2: Tensor) -> None:
        """Add the rows whose target is not NaN."""
        known = ~target_B2.isnan()
        x, y = torch.where(known, preds_B2, 0), torch.where(known, target_B2, 0)
        self.moments += torch.stack([known, x, y, x * x, y * y, x * y], 2).sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Return `ccc_valence`, `rmse_valence` and so on, without those that have no rows. CCC of constants is 0."""
        scores = {}
        for name, (count, *sums) in zip(AFFECT, self.moments, strict=True):
            if count:
                x, y, xx, yy, xy = (total / count for total in sums)
                spread = (xx - x * x) + (yy - y * y) + (x - y) ** 2
                scores[f"ccc_{name}"] = (2 * (xy - x * y) / spread).nan_to_num()
                scores[f"rmse_{name}"] = (xx - 2 * xy + yy).clamp(min=0).sqrt()
        return scores
