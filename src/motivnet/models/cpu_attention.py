"""Attention in bfloat16 on CPUs: faster than torch's kernel, which uses bfloat16 matrix products only with AMX.

Shape suffixes: B images, H heads, N queries, M keys, d width of a head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Rows of the score matrix that are computed at once, so that they fit in the cache of the CPU.
ROWS = 512
# With fewer keys, torch's kernel is as fast.
FEWEST_KEYS = 256


class BlockedAttention(TorchFunctionMode):
    """In this context, scaled dot product attention of bfloat16 tensors on the CPU runs in blocks.

    Everything else, including attention with a mask, dropout or gradients, is left to torch.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace one function and pass the others through."""
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention and _applies(*args, **kwargs):
            return blocked_attention(*args[:3])
        return func(*args, **kwargs)


def _applies(query: Tensor, key: Tensor, value: Tensor, *others: Any, **options: Any) -> bool:
    plain = not others and not any(isinstance(option, Tensor) or option for option in options.values())
    suits = query.device.type == "cpu" and query.dtype == key.dtype == value.dtype == torch.bfloat16
    suits = suits and query.ndim == 4 and query.shape[2] >= FEWEST_KEYS <= key.shape[2]
    return plain and suits and not torch.is_grad_enabled()


# A custom operator, so that torch.compile does not trace into it.
@torch.library.custom_op("motivnet::blocked_attention", mutates_args=())
def blocked_attention(query_BHNd: Tensor, key_BHMd: Tensor, value_BHMd: Tensor) -> Tensor:
    """Attend, one head and `ROWS` queries at a time.

    Returns:
        (B, H, N, d), in a memory layout in which heads can be joined without a copy.
    """
    num_images, num_heads, num_queries, head_dim = query_BHNd.shape
    query_BHNd = query_BHNd * head_dim**-0.5
    out_BNHd = query_BHNd.new_empty(num_images, num_queries, num_heads, value_BHMd.shape[3])
    scores_NM = query_BHNd.new_empty(min(ROWS, num_queries), key_BHMd.shape[2])
    for image in range(num_images):
        for head in range(num_heads):
            key_dM, value_Md = key_BHMd[image, head].t(), value_BHMd[image, head]
            for start in range(0, num_queries, ROWS):
                rows_Nd = query_BHNd[image, head, start : start + ROWS]
                block_NM = scores_NM[: len(rows_Nd)]
                torch.mm(rows_Nd, key_dM, out=block_NM)
                torch.softmax(block_NM, -1, out=block_NM)
                out_BNHd[image, start : start + ROWS, head] = block_NM @ value_Md
    return out_BNHd.transpose(1, 2)


@blocked_attention.register_fake
def _(query_BHNd: Tensor, key_BHMd: Tensor, value_BHMd: Tensor) -> Tensor:
    num_images, num_heads, num_queries, _ = query_BHNd.shape
    return query_BHNd.new_empty(num_images, num_queries, num_heads, value_BHMd.shape[3]).transpose(1, 2)
