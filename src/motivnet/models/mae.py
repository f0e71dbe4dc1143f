"""Masked autoencoding: hide most patches of an image, and tell their pixels from the others.

He et al., arXiv 2111.06377; with Sapiens' encoders, arXiv 2408.12569. What is kept in the end is the encoder, which is
the backbone of a classifier as it stands.

Shape suffixes: B images, C channels, H height, W width of the input; N patches, V visible patches, D token width,
P pixels of a patch in all channels; T tokens, which are patches and perhaps the class token before them.
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

from motivnet.errors import ConfigError
from motivnet.models.backbone import Backbone

# Added to a patch's variance: a patch of one colour must not be divided by zero.
PATCH_EPS = 1e-6
# Longest wavelength of the positions, over that of a whole circle.
TEMPERATURE = 10_000.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MaeConfig:
    """The task, and the decoder that is thrown away in the end. Defaults are those of both papers.

    Args:
        mask_ratio: share of the patches that is hidden; of a broken number, one more is hidden.
        normalise: whether each patch is to be told less its mean and over its standard deviation (of all channels
            together); otherwise as it comes from the preprocessing.
        decoder_dim: width.
        decoder_depth: number of blocks.
        decoder_heads: attention heads, a divisor of `decoder_dim`.
    """

    mask_ratio: float = 0.75
    normalise: bool = True
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: at a number out of range.
        """
        if not 0 < self.mask_ratio < 1:
            raise ConfigError(f"mae: mask_ratio must be between 0 and 1, not {self.mask_ratio}")
        if self.decoder_depth < 1 or self.decoder_heads < 1:
            raise ConfigError("mae: decoder_depth and decoder_heads must be at least 1")
        if self.decoder_dim < 1 or self.decoder_dim % 4 or self.decoder_dim % self.decoder_heads:
            raise ConfigError(
                f"mae: decoder_dim {self.decoder_dim} must be divisible by 4, as positions need, and by "
                f"decoder_heads {self.decoder_heads}"
            )


class MaskedAutoencoder(nn.Module):
    """A Sapiens (v1) encoder that sees the visible patches alone, and a small transformer that tells the others."""

    decoder_positions: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        mask_ratio: float = 0.75,
        normalise: bool = True,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
    ) -> None:
        """Wrap an encoder, and give it and the decoder their random weights and their fixed positions.

        Args:
            backbone: of `build_sapiens`, without patch padding; initialised anew, in place.
            mask_ratio: as in MaeConfig, like all that follows.
            normalise: see there.
            decoder_dim: see there.
            decoder_depth: see there.
            decoder_heads: see there.

        Raises:
            ConfigError: at another kind of encoder, or a ratio that leaves nothing to see or to tell.
        """
        super().__init__()
        net = _sapiens_net(backbone)
        self.backbone = backbone
        self.normalise = normalise
        self.grid = cast(tuple[int, int], net.patch_embed.grid_size)
        self.patch_size = cast(tuple[int, int], net.patch_embed.patch_size)
        self.in_chans = cast(nn.Conv2d, net.patch_embed.proj).in_channels
        self.num_patches = math.prod(self.grid)
        # Rounded first: 0.9 of 10 patches are 9, and not one more for the last binary digit.
        self.num_masked = math.ceil(round(mask_ratio * self.num_patches, 6))
        self.num_visible = self.num_patches - self.num_masked
        if self.num_visible < 1:
            raise ConfigError(f"mae: mask_ratio {mask_ratio} of {self.num_patches} patches leaves none to see")
        self.embed = nn.Linear(backbone.embed_dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        norm: Any = functools.partial(nn.LayerNorm, eps=1e-6)
        blocks = (Block(decoder_dim, decoder_heads, qkv_bias=True, norm_layer=norm) for _ in range(decoder_depth))
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm(decoder_dim)
        self.predict = nn.Linear(decoder_dim, math.prod(self.patch_size) * self.in_chans)
        prefix = backbone.num_prefix_tokens
        self.register_buffer(
            "decoder_positions", sincos_positions(decoder_dim, self.grid, num_prefix_tokens=prefix), persistent=False
        )
        self._initialise(net)

    def _initialise(self, net: VisionTransformer) -> None:
        """Draw weights as He et al. do: Xavier's uniform ones, the patch convolution being a matrix as well."""
        self.apply(_xavier)
        nn.init.xavier_uniform_(net.patch_embed.proj.weight.view(net.embed_dim, -1))
        for token in (self.mask_token, *(() if net.cls_token is None else (net.cls_token,))):
            nn.init.normal_(token, std=0.02)
        assert net.pos_embed is not None
        with torch.no_grad():
            net.pos_embed.copy_(
                sincos_positions(net.embed_dim, self.grid, num_prefix_tokens=self.backbone.num_prefix_tokens)
            )
        net.pos_embed.requires_grad_(False)

    def forward(self, pixels_BCHW: Tensor, order_BN: Tensor) -> Tensor:
        """Tell the pixels of every patch from the visible ones.

        Args:
            pixels_BCHW: normalised images, of the encoder's size.
            order_BN: a permutation of the patches of each image, as `draw_order` gives it; the first `num_visible`
                are visible.

        Returns:
            Predictions (B, N, P) in the order of the image, of visible patches, too, which nothing is learnt from.
        """
        return self.decode(self.encode(pixels_BCHW, order_BN[:, : self.num_visible]), order_BN)

    def encode(self, pixels_BCHW: Tensor, visible_BV: Tensor) -> Tensor:
        """Map images to the tokens (B, T, D) of their visible patches, in the order given, after the class token.

        Nothing of any other patch goes in. With all patches in the order of the image, this is the classifier's
        encoder, whose tokens then are the same.
        """
        net = cast(VisionTransformer, self.backbone.net)
        prefix = self.backbone.num_prefix_tokens
        assert net.pos_embed is not None
        tokens_BND = net.patch_embed(pixels_BCHW) + net.pos_embed[:, prefix:]
        tokens_BTD = _take(tokens_BND, visible_BV)
        if net.cls_token is not None:
            token_11D = net.cls_token + net.pos_embed[:, :1]
            tokens_BTD = torch.cat([token_11D.expand(len(tokens_BTD), -1, -1), tokens_BTD], 1)
        # The flag is timm's own: `set_grad_checkpointing`.
        run = functools.partial(checkpoint_seq, net.blocks) if net.grad_checkpointing and self.training else net.blocks
        return net.norm(run(tokens_BTD))

    def decode(self, tokens_BTD: Tensor, order_BN: Tensor) -> Tensor:
        """Tell all patches (B, N, P), in the order of the image, from the tokens of the visible ones."""
        prefix = self.backbone.num_prefix_tokens
        tokens_BTD = self.embed(tokens_BTD)
        masks_BTD = self.mask_token.expand(len(tokens_BTD), self.num_masked, -1).to(tokens_BTD.dtype)
        patches_BND = torch.cat([tokens_BTD[:, prefix:], masks_BTD], 1)
        # The inverse of the permutation puts every patch where it belongs, and only there it gets its position.
        patches_BND = _take(patches_BND, order_BN.argsort(1))
        tokens_BTD = torch.cat([tokens_BTD[:, :prefix], patches_BND], 1) + self.decoder_positions
        return self.predict(self.norm(self.blocks(tokens_BTD)))[:, prefix:]

    def loss(self, predictions_BNP: Tensor, pixels_BCHW: Tensor, order_BN: Tensor) -> Tensor:
        """Give the mean squared error of the masked patches; visible ones do not count.

        Args:
            predictions_BNP: of `forward`.
            pixels_BCHW: the images that were to be told.
            order_BN: as given to `forward`.
        """
        masked_BM = order_BN[:, self.num_visible :]
        target_BNP = self.target(pixels_BCHW)
        # In float32, whatever the precision of the network.
        return functional.mse_loss(_take(predictions_BNP, masked_BM).float(), _take(target_BNP, masked_BM).float())

    def target(self, pixels_BCHW: Tensor) -> Tensor:
        """Give what is to be told, (B, N, P)."""
        patches_BNP = self.patchify(pixels_BCHW)
        if not self.normalise:
            return patches_BNP
        variance_BN1, mean_BN1 = torch.var_mean(patches_BNP, -1, keepdim=True)
        return (patches_BNP - mean_BN1) / (variance_BN1 + PATCH_EPS).sqrt()

    def patchify(self, pixels_BCHW: Tensor) -> Tensor:
        """Cut images into patches (B, N, P), row by row of the image; within each row by row, channels last."""
        batch, (rows, columns), (height, width) = len(pixels_BCHW), self.grid, self.patch_size
        split = pixels_BCHW.reshape(batch, self.in_chans, rows, height, columns, width)
        return split.permute(0, 2, 4, 3, 5, 1).reshape(batch, self.num_patches, -1)

    def unpatchify(self, patches_BNP: Tensor) -> Tensor:
        """Put patches together again: the inverse of `patchify`."""
        batch, (rows, columns), (height, width) = len(patches_BNP), self.grid, self.patch_size
        split = patches_BNP.reshape(batch, rows, columns, height, width, self.in_chans)
        return split.permute(0, 5, 1, 3, 2, 4).reshape(batch, self.in_chans, rows * height, columns * width)

    def draw_order(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw a permutation of the patches for each of some images, int64 (B, N), evenly among all.

        Args:
            batch: number of images.
            generator: on the CPU, so that the same state gives the same masks on every device.
        """
        return torch.rand(batch, self.num_patches, generator=generator).argsort(1)

    def mask(self, order_BN: Tensor) -> Tensor:
        """Say which patches an order hides, bool (B, N)."""
        return order_BN.argsort(1) >= self.num_visible

    def reconstruct(self, predictions_BNP: Tensor, pixels_BCHW: Tensor, order_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Give images without their masked patches (0, which is the mean), and with these as predicted, for people.

        Where patches are told in normalised form, mean and standard deviation, which are no part of the prediction,
        are those of the true patch.

        Args:
            predictions_BNP: of `forward`.
            pixels_BCHW: the images that were to be told.
            order_BN: as given to `forward`.
        """
        patches_BNP, told_BNP = self.patchify(pixels_BCHW), predictions_BNP.float()
        if self.normalise:
            variance_BN1, mean_BN1 = torch.var_mean(patches_BNP, -1, keepdim=True)
            told_BNP = told_BNP * (variance_BN1 + PATCH_EPS).sqrt() + mean_BN1
        mask_BN1 = self.mask(order_BN)[..., None]
        left_out = self.unpatchify(patches_BNP.masked_fill(mask_BN1, 0.0))
        return left_out, self.unpatchify(torch.where(mask_BN1, told_BNP, patches_BNP))


def build_mae(backbone: Backbone, config: MaeConfig) -> MaskedAutoencoder:
    """Build a masked autoencoder around an encoder, with random weights.

    Raises:
        ConfigError: as MaskedAutoencoder.
    """
    return MaskedAutoencoder(
        backbone,
        mask_ratio=config.mask_ratio,
        normalise=config.normalise,
        decoder_dim=config.decoder_dim,
        decoder_depth=config.decoder_depth,
        decoder_heads=config.decoder_heads,
    )


def sincos_positions(dim: int, grid: tuple[int, int], *, num_prefix_tokens: int = 0) -> Tensor:
    """Give fixed positions of patches: sines and cosines of column and row at wavelengths in geometric progression.

    With w_i = 10000 ** (-4 i / dim), i from 0 to dim / 4, the position of a patch is sin(column w), cos(column w),
    sin(row w), cos(row w), a quarter of the width each (Vaswani et al., arXiv 1706.03762, in two dimensions; the order
    is that of He et al. and of Sapiens).

    Args:
        dim: width.
        grid: (rows, columns) of the patches.
        num_prefix_tokens: of zeros before them, for the class token.

    Returns:
        float32 (1, prefix + rows * columns, dim).

    Raises:
        ConfigError: if the width is not divisible by 4.
    """
    if dim < 4 or dim % 4:
        raise ConfigError(f"mae: width {dim} must be divisible by 4, as positions need")
    frequencies = TEMPERATURE ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in grid)
    row_N, column_N = (axis.flatten() for axis in torch.meshgrid(rows, columns, indexing="ij"))
    angles = [column_N[:, None] * frequencies, row_N[:, None] * frequencies]
    positions_ND = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1)
    return functional.pad(positions_ND, (0, 0, num_prefix_tokens, 0))[None].float()


def _take(tokens_BND: Tensor, places_BV: Tensor) -> Tensor:
    """Take the tokens at some places of each image, (B, V, D)."""
    return tokens_BND.gather(1, places_BV[..., None].expand(-1, -1, tokens_BND.shape[-1]))


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _sapiens_net(backbone: Backbone) -> VisionTransformer:
    """Give a Sapiens (v1) encoder's transformer.

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
            "mae: with vit.patch_padding, patches are not those of the image: a visible one would show pixels of its "
            "masked neighbours. Allowed: vit.patch_padding=0; the task checkpoints' padding can be had afterwards"
        )
    return net
