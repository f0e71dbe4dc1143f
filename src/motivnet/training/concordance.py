"""How well valence and arousal agree with their labels in validation, summed up batch by batch.

Shape suffixes: B images.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from motivnet.labels import AFFECT


class Agreement(Metric):
    """CCC (Lin, Biometrics 1989) and RMSE of valence and arousal over all batches and processes.

    Rows without a label are left out, of each of the two alone: torchmetrics' own have no masks, and cannot begin with
    a batch of which nothing is left.
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False
    moments: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Of each: rows, and the sums of x, y, x * x, y * y and x * y.
        self.add_state("moments", torch.zeros(len(AFFECT), 6), dist_reduce_fx="sum")

    def update(self, preds_B2: Tensor, target_B2: Tensor) -> None:
        """Count rows, each as far as its target is not NaN."""
        known = ~target_B2.isnan()
        x, y = torch.where(known, preds_B2, 0), torch.where(known, target_B2, 0)
        self.moments += torch.stack([known, x, y, x * x, y * y, x * y], 2).sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Give `ccc_valence`, `rmse_valence` and so on; of one that has no rows, nothing. Of constants, CCC is 0."""
        scores = {}
        for name, (count, *sums) in zip(AFFECT, self.moments, strict=True):
            if count:
                x, y, xx, yy, xy = (total / count for total in sums)
                spread = (xx - x * x) + (yy - y * y) + (x - y) ** 2
                scores[f"ccc_{name}"] = (2 * (xy - x * y) / spread).nan_to_num()
                scores[f"rmse_{name}"] = (xx - 2 * xy + yy).clamp(min=0).sqrt()
        return scores
