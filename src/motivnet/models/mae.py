"""Masked autoencoder: mask most patches of an image, and predict their pixels from the visible ones.

He et al., arXiv 2111.06377; with Sapiens encoders, arXiv 2408.12569. After pre-training only the encoder is kept, which
is the unchanged backbone of a classifier.

Shape suffixes: B images, C channels, H height, W width of the input; N patches, V visible patches, D token width,
P pixels of a patch in all channels; T tokens: patches, after the class token if there is one.
"""

import dataclasses
import functools
import math
from typing import Any, cast

import torch
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from motivnet.config import bounded, check_bounds
from motivnet.errors import ConfigError, require
from motivnet.models.backbone import Backbone

# Added to the variance of a patch, against division by zero.
PATCH_EPS = 1e-6
# Ratio of the longest to the shortest wavelength of the positions.
TEMPERATURE = 10_000.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MaeConfig:
    """The pre-training task, and the decoder, which is discarded afterwards. Defaults are those of both papers.

    Args:
        mask_ratio: share of the patches that are masked, rounded up.
        normalise: whether the target is normalised per patch to zero mean and unit variance (over all channels).
        decoder_dim: width.
        decoder_depth: number of blocks.
        decoder_heads: attention heads, a divisor of `decoder_dim`.
    """

    mask_ratio: float = bounded(default=0.75, above=0, below=1)
    normalise: bool = True
    decoder_dim: int = bounded(default=512, low=1)
    decoder_depth: int = bounded(default=8, low=1)
    decoder_heads: int = bounded(default=16, low=1)

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: at a number out of range.
        """
        check_bounds(self)
        if self.decoder_dim % 4 or self.decoder_dim % self.decoder_heads:
            raise ConfigError(
                f"mae: decoder_dim {self.decoder_dim} must be divisible by 4, as positions need, and by "
                f"decoder_heads {self.decoder_heads}"
            )


class MaskedAutoencoder(nn.Module):
    """A Sapiens (v1) encoder of the visible patches, and a small transformer decoder that predicts the masked ones."""

    decoder_positions: Tensor

    def __init__(self, backbone: Backbone, config: MaeConfig) -> None:
        """Wrap an encoder, and initialise it and the decoder.

        Args:
            backbone: of `build_sapiens`, without patch padding; initialised anew, in place.
            config: share of masked patches, target, and dimensions of the decoder.

        Raises:
            ConfigError: at another kind of encoder, or a ratio that leaves no visible patch.
        """
        super().__init__()
        net = _sapiens_net(backbone)
        self.backbone = backbone
        self.normalise = config.normalise
        self.grid = cast(tuple[int, int], net.patch_embed.grid_size)
        self.patch_size = cast(tuple[int, int], net.patch_embed.patch_size)
        self.in_chans = cast(nn.Conv2d, net.patch_embed.proj).in_channels
        self.num_patches = math.prod(self.grid)
        # Rounded first, so that 0.9 of 10 patches are 9 despite floating-point error.
        self.num_masked = math.ceil(round(config.mask_ratio * self.num_patches, 6))
        self.num_visible = self.num_patches - self.num_masked
        if self.num_visible < 1:
            raise ConfigError(f"mae: mask_ratio {config.mask_ratio} of {self.num_patches} patches leaves none visible")
        dim, heads = config.decoder_dim, config.decoder_heads
        self.embed = nn.Linear(backbone.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        norm: Any = functools.partial(nn.LayerNorm, eps=1e-6)
        blocks = (Block(dim, heads, qkv_bias=True, norm_layer=norm) for _ in range(config.decoder_depth))
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm(dim)
        self.predict = nn.Linear(dim, math.prod(self.patch_size) * self.in_chans)
        positions = sincos_positions(dim, self.grid, num_prefix_tokens=backbone.num_prefix_tokens)
        self.register_buffer("decoder_positions", positions, persistent=False)
        self._initialise(net)

    def _initialise(self, net: VisionTransformer) -> None:
        """Initialise weights as He et al. do: Xavier uniform, with the patch convolution as a matrix."""
        self.apply(_xavier)
        nn.init.xavier_uniform_(net.patch_embed.proj.weight.view(net.embed_dim, -1))
        for token in (self.mask_token, *(() if net.cls_token is None else (net.cls_token,))):
            nn.init.normal_(token, std=0.02)
        positions = sincos_positions(net.embed_dim, self.grid, num_prefix_tokens=self.backbone.num_prefix_tokens)
        net.pos_embed = nn.Parameter(positions, requires_grad=False)

    def forward(self, pixels_BCHW: Tensor, order_BN: Tensor) -> Tensor:
        """Predict the pixels of all patches from the visible ones.

        Args:
            pixels_BCHW: normalised images, of the encoder's size.
            order_BN: a permutation of the patches of each image, of `draw_order`; the first `num_visible` are visible.

        Returns:
            Predictions (B, N, P) in the order of the image, including visible patches, which do not enter the loss.
        """
        return self.decode(self.encode(pixels_BCHW, order_BN[:, : self.num_visible]), order_BN)

    def encode(self, pixels_BCHW: Tensor, visible_BV: Tensor) -> Tensor:
        """Map images to the tokens (B, T, D) of their visible patches, in the given order, after the class token.

        With all patches in the order of the image, the tokens are those of the classifier's encoder.
        """
        net = cast(VisionTransformer, self.backbone.net)
        prefix = self.backbone.num_prefix_tokens
        assert net.pos_embed is not None
        tokens_BND = net.patch_embed(pixels_BCHW) + net.pos_embed[:, prefix:]
        tokens_BTD = _take(tokens_BND, visible_BV)
        if net.cls_token is not None:
            token_11D = net.cls_token + net.pos_embed[:, :1]
            tokens_BTD = torch.cat([token_11D.expand(len(tokens_BTD), -1, -1), tokens_BTD], 1)
        # timm's flag of `set_grad_checkpointing`.
        run = functools.partial(checkpoint_seq, net.blocks) if net.grad_checkpointing and self.training else net.blocks
        return net.norm(run(tokens_BTD))

    def decode(self, tokens_BTD: Tensor, order_BN: Tensor) -> Tensor:
        """Predict all patches (B, N, P), in the order of the image, from the tokens of the visible ones."""
        prefix = self.backbone.num_prefix_tokens
        tokens_BTD = self.embed(tokens_BTD)
        masks_BTD = self.mask_token.expand(len(tokens_BTD), self.num_masked, -1).to(tokens_BTD.dtype)
        patches_BND = torch.cat([tokens_BTD[:, prefix:], masks_BTD], 1)
        # The inverse permutation restores the order of the image, in which positions are added.
        patches_BND = _take(patches_BND, order_BN.argsort(1))
        tokens_BTD = torch.cat([tokens_BTD[:, :prefix], patches_BND], 1) + self.decoder_positions
        return self.predict(self.norm(self.blocks(tokens_BTD)))[:, prefix:]

    def loss(self, predictions_BNP: Tensor, pixels_BCHW: Tensor, order_BN: Tensor) -> Tensor:
        """Return the mean squared error of the masked patches.

        Args:
            predictions_BNP: of `forward`.
            pixels_BCHW: as given to `forward`.
            order_BN: as given to `forward`.
        """
        masked_BM = order_BN[:, self.num_visible :]
        target_BNP = self.target(pixels_BCHW)
        # In float32 at any precision of the network.
        return functional.mse_loss(_take(predictions_BNP, masked_BM).float(), _take(target_BNP, masked_BM).float())

    def target(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the target of the predictions, (B, N, P)."""
        patches_BNP = self.patchify(pixels_BCHW)
        if not self.normalise:
            return patches_BNP
        variance_BN1, mean_BN1 = torch.var_mean(patches_BNP, -1, keepdim=True)
        return (patches_BNP - mean_BN1) / (variance_BN1 + PATCH_EPS).sqrt()

    def patchify(self, pixels_BCHW: Tensor) -> Tensor:
        """Split images into patches (B, N, P) in row-major order; pixels in row-major order, channels last."""
        batch, (rows, columns), (height, width) = len(pixels_BCHW), self.grid, self.patch_size
        split = pixels_BCHW.reshape(batch, self.in_chans, rows, height, columns, width)
        return split.permute(0, 2, 4, 3, 5, 1).reshape(batch, self.num_patches, -1)

    def unpatchify(self, patches_BNP: Tensor) -> Tensor:
        """Assemble images from patches: the inverse of `patchify`."""
        batch, (rows, columns), (height, width) = len(patches_BNP), self.grid, self.patch_size
        split = patches_BNP.reshape(batch, rows, columns, height, width, self.in_chans)
        return split.permute(0, 5, 1, 3, 2, 4).reshape(batch, self.in_chans, rows * height, columns * width)

    def draw_order(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw a uniform random permutation of the patches of each image, int64 (B, N).

        Args:
            batch: number of images.
            generator: on the CPU, so that the same state yields the same masks on every device.
        """
        return torch.rand(batch, self.num_patches, generator=generator).argsort(1)

    def mask(self, order_BN: Tensor) -> Tensor:
        """Return which patches are masked, bool (B, N)."""
        return order_BN.argsort(1) >= self.num_visible

    def reconstruct(self, predictions_BNP: Tensor, pixels_BCHW: Tensor, order_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return images with their masked patches set to 0, the mean, and with their predictions, for display.

        If patches are normalised, mean and standard deviation are those of the true patch.

        Args:
            predictions_BNP: of `forward`.
            pixels_BCHW: as given to `forward`.
            order_BN: as given to `forward`.
        """
        patches_BNP, predicted_BNP = self.patchify(pixels_BCHW), predictions_BNP.float()
        if self.normalise:
            variance_BN1, mean_BN1 = torch.var_mean(patches_BNP, -1, keepdim=True)
            predicted_BNP = predicted_BNP * (variance_BN1 + PATCH_EPS).sqrt() + mean_BN1
        mask_BN1 = self.mask(order_BN)[..., None]
        masked_BCHW = self.unpatchify(patches_BNP.masked_fill(mask_BN1, 0.0))
        return masked_BCHW, self.unpatchify(torch.where(mask_BN1, predicted_BNP, patches_BNP))


def build_mae(backbone: Backbone, config: MaeConfig) -> MaskedAutoencoder:
    """Build a masked autoencoder around an encoder, with random weights; errors as for MaskedAutoencoder."""
    return MaskedAutoencoder(backbone, config)


def sincos_positions(dim: int, grid: tuple[int, int], *, num_prefix_tokens: int = 0) -> Tensor:
    """Return fixed positions of patches: sines and cosines of column and row at geometrically spaced wavelengths.

    With w_i = 10000 ** (-4 i / dim), i from 0 to dim / 4, the position of a patch is sin(column w), cos(column w),
    sin(row w), cos(row w), a quarter of the width each (Vaswani et al., arXiv 1706.03762, in two dimensions; in the
    order of He et al. and Sapiens).

    Args:
        dim: width.
        grid: (rows, columns) of the patches.
        num_prefix_tokens: number of zero rows before them, for the class token.

    Returns:
        float32 (1, prefix + rows * columns, dim).

    Raises:
        ConfigError: if the width is not divisible by 4.
    """
    require(dim >= 4 and not dim % 4, f"mae: width {dim} must be divisible by 4, as positions need")
    frequencies = TEMPERATURE ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in grid)
    row_N, column_N = (axis.flatten() for axis in torch.meshgrid(rows, columns, indexing="ij"))
    angles = [column_N[:, None] * frequencies, row_N[:, None] * frequencies]
    positions_ND = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1)
    return functional.pad(positions_ND, (0, 0, num_prefix_tokens, 0))[None].float()


def _take(tokens_BND: Tensor, index_BV: Tensor) -> Tensor:
    """Select tokens of each image by index, (B, V, D)."""
    return tokens_BND.gather(1, index_BV[..., None].expand(-1, -1, tokens_BND.shape[-1]))


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _sapiens_net(backbone: Backbone) -> VisionTransformer:
    """Return the transformer of a Sapiens (v1) encoder.

    Raises:
        ConfigError: at another kind of encoder, or one whose patches overlap.
    """
    net = backbone.net
    if not isinstance(net, VisionTransformer) or net.pos_embed is None:
        raise ConfigError(
            f"mae: this encoder, timm's {type(net).__name__}, cannot be pre-trained here. Allowed: backbone 'sapiens', "
            f"whose positions are added to its patches"
        )
    if any(cast(tuple[int, ...], cast(nn.Conv2d, net.patch_embed.proj).padding)):
        raise ConfigError(
            "mae: with vit.patch_padding, patches overlap: visible ones would contain pixels of masked neighbours. "
            "Allowed: vit.patch_padding=0; fine-tuning can use the padding of the task checkpoints"
        )
    return net
