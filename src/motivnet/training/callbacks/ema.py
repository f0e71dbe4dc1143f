"""Exponential moving average of the weights, on Lightning's callback."""

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class WarmedAverage(WeightAveraging):
    """An average whose decay rises to its value in the first steps, when the weights still move fast."""

    def __init__(self, decay: float) -> None:
        """Prepare the callback.

        Args:
            decay: share that the average keeps of itself at each step, once it is warm.
        """

        @torch.no_grad()
        def update(averages: list[Tensor], currents: list[Tensor], num_averaged: Tensor | int) -> None:
            count = int(num_averaged)
            keep = min(decay, (1 + count) / (10 + count))
            if torch.is_floating_point(averages[0]):
                torch._foreach_lerp_(averages, currents, 1 - keep)
            else:  # counters, such as those of batch norm
                torch._foreach_copy_(averages, currents)

        super().__init__(multi_avg_fn=update)
