"""The dimensions of a model as plain settings. Torch-free, so that bundles can be read without torch."""

import dataclasses
import math
from typing import Any, Literal

from motivnet.config import Settings, bounded, check_bounds
from motivnet.errors import ConfigError, require, unknown_name

HeadKind = Literal["ml_decoder", "linear", "mlp", "attention_pool"]
# Of the ONNX files that a bundle may have.
PRECISIONS = ("fp32", "fp16", "int8")
# Of an input: 2048 x 2048. Of the values of a position embedding: 128 MiB.
MAX_PIXELS, MAX_POSITIONS = 1 << 22, 1 << 25
# Of an encoder of transformers.
MAX_LAYERS, MAX_SETTING = 256, 32_768


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VitConfig(Settings):
    """The dimensions of a Sapiens or Sapiens2 transformer.

    Args:
        embed_dim: width.
        depth: number of blocks.
        num_heads: attention heads, a divisor of `embed_dim`.
        patch_size: side of a patch, in pixels.
        patch_padding: zero padding around the image before patching: 2 in Sapiens task checkpoints, else 0.
        mlp_ratio: hidden width of the MLP divided by `embed_dim`.
        class_token: whether there is a class token, as in Sapiens pre-training; Sapiens2 always has one.
        num_kv_heads: of Sapiens2: key and value heads of the blocks between the first eight and the last eight; None
            takes `num_heads`.
        rope_bfloat16: of Sapiens2: compute the rotary embedding, and rotate with it, in bfloat16, as its authors do by
            default; otherwise in the model's precision, as timm and transformers do. Features of standard deviation 1
            differ by up to 0.006.
    """

    embed_dim: int = bounded(1, 8192)
    depth: int = bounded(1, 256)
    num_heads: int = bounded(0, 256)
    patch_size: int = bounded(1, 256, 16)
    patch_padding: int = bounded(0, 256, 2)
    mlp_ratio: float = bounded(0.01, 64, 4.0)
    class_token: bool = False
    num_kv_heads: int | None = bounded(1, 256, None)
    rope_bfloat16: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig(Settings):
    """The head, which maps tokens to logits.

    Args:
        kind: `ml_decoder`, or a head to compare it with.
        dim: inner width; of `ml_decoder` and `mlp`.
        num_queries: of `ml_decoder`; None takes one per class.
        learnable_queries: of `ml_decoder`; whether the queries are trained. MotivNet's are random and fixed.
        num_layers: of `ml_decoder`.
        num_heads: attention heads, of `ml_decoder` and `attention_pool`.
        ff_dim: hidden width of `ml_decoder`'s feed-forward part.
        dropout: inside the head.
        reference_init: of `ml_decoder`; initial weights as in MotivNet's code: torch's own, up to 60 % smaller than
            those that preserve the scale of the tokens, and the same in every layer.
    """

    kind: HeadKind = "ml_decoder"
    dim: int = bounded(1, 8192, 768)
    num_queries: int | None = bounded(1, 10_000, None)
    learnable_queries: bool = False
    num_layers: int = bounded(1, 64, 1)
    num_heads: int = bounded(1, 256, 8)
    ff_dim: int = bounded(1, 65_536, 2048)
    dropout: float = bounded(0, 1, 0.1)
    reference_init: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """All dimensions of a model, which determine the shapes of its weights.

    Args:
        backbone: `sapiens` or `sapiens2` for a transformer of the dimensions in `vit`, `timm:NAME` for any timm model,
            or `transformers` for a vision model of Hugging Face transformers.
        image_size: (height, width) of the input, in pixels.
        in_chans: channels of the input.
        num_classes: number of logits.
        num_frames: of a clip that the model takes, evenly spaced; None: it takes single images. The head is given the
            tokens of all frames, and learns an embedding of each frame's place unless the encoder takes clips itself.
        vit: dimensions of a `sapiens` or `sapiens2` backbone; None for others.
        transformers: settings of a `transformers` backbone, with `model_type`, as in its config.json; None for others.
        head: maps tokens to logits.
        drop_path: stochastic depth rate of a timm backbone.
        affect: whether the model also predicts valence and arousal, for which ML-Decoder has two more queries.
    """

    backbone: str
    image_size: tuple[int, int]
    in_chans: int = bounded(1, 64, 3)
    num_classes: int = bounded(1, 10_000, 7)
    num_frames: int | None = bounded(2, 256, None)
    vit: VitConfig | None = None
    transformers: dict[str, Any] | None = dataclasses.field(default=None, hash=False)
    head: HeadConfig = dataclasses.field(default_factory=HeadConfig)
    drop_path: float = bounded(0, 1, 0.0)
    affect: bool = False

    def __post_init__(self) -> None:
        """Check that the settings fit together.

        Raises:
            ConfigError: at an unknown backbone, missing dimensions, or a size that is not divisible into patches.
        """
        check_bounds(self)
        if min(self.image_size) < 1 or math.prod(self.image_size) > MAX_PIXELS:
            raise ConfigError(f"image_size {self.image_size!r}: must be at least 1x1 and at most {MAX_PIXELS} pixels")
        own = self.backbone in ("sapiens", "sapiens2")
        if not own and self.backbone != "transformers" and not self.backbone.startswith("timm:"):
            raise ConfigError(f"backbone {self.backbone!r}. Allowed: sapiens, sapiens2, timm:NAME, transformers")
        if (self.backbone == "transformers") != (self.transformers is not None):
            raise ConfigError("transformers: settings belong to the backbone 'transformers', and only to it")
        if own != (self.vit is not None):
            raise ConfigError("vit: dimensions belong to the backbones 'sapiens' and 'sapiens2', and only to them")
        for name, value in (self.transformers or {}).items():
            most = MAX_LAYERS if name.endswith("layers") else MAX_SETTING
            if isinstance(value, int | float) and not 0 <= value <= most:
                raise ConfigError(f"transformers: {name} {value!r}: must be from 0 to {most}")
        if self.vit is not None:
            self._check_vit(self.vit)

    @property
    def input_chans(self) -> int:
        """Channels of the input: of a clip, those of one frame after the other."""
        return self.in_chans * (self.num_frames or 1)

    def _check_vit(self, vit: VitConfig) -> None:
        if any(side % vit.patch_size for side in self.image_size):
            raise ConfigError(
                f"image_size {self.image_size}: height and width must be divisible by patch_size {vit.patch_size}"
            )
        if math.prod(self.image_size) // vit.patch_size**2 * vit.embed_dim > MAX_POSITIONS:
            raise ConfigError(f"image_size {self.image_size}: has too many patches of {vit.patch_size} pixels")
        if vit.num_heads < 1 or vit.embed_dim % vit.num_heads:
            raise ConfigError(f"vit: width {vit.embed_dim} is not divisible by num_heads {vit.num_heads}")
        if self.backbone == "sapiens" and (vit.num_kv_heads is not None or vit.rope_bfloat16):
            raise ConfigError("vit.num_kv_heads and vit.rope_bfloat16 belong to 'sapiens2' only")
        if self.backbone == "sapiens2" and (vit.patch_padding or vit.class_token):
            raise ConfigError("vit.patch_padding and vit.class_token belong to 'sapiens' only")


# MotivNet's head: ML-Decoder as released, with two layers of width 1152.
MOTIVNET_HEAD = HeadConfig(dim=1152, num_layers=2)


def _motivnet(backbone: str, embed_dim: int, depth: int, num_heads: int) -> ModelConfig:
    vit = VitConfig(embed_dim=embed_dim, depth=depth, num_heads=num_heads)
    if backbone == "sapiens2":
        vit = dataclasses.replace(vit, patch_padding=0, num_kv_heads=num_heads // 2)
    return ModelConfig(backbone=backbone, image_size=(1024, 768), vit=vit, head=MOTIVNET_HEAD)


PRESETS = {
    "nano": ModelConfig(
        backbone="timm:mobilenetv1_100", image_size=(96, 96), in_chans=1, head=HeadConfig(dim=128, ff_dim=256)
    ),
    # MotivNet in miniature, for experiments on two CPU cores: 36 patches of 8 pixels, a class token.
    "mini": ModelConfig(
        backbone="sapiens",
        image_size=(48, 48),
        in_chans=1,
        vit=VitConfig(embed_dim=128, depth=4, num_heads=4, patch_size=8, patch_padding=0, class_token=True),
        head=HeadConfig(dim=128, num_heads=4, ff_dim=256),
    ),
    "motivnet-0.3b": _motivnet("sapiens", 1024, 24, 16),
    "motivnet-0.6b": _motivnet("sapiens", 1280, 32, 16),
    "motivnet-1b": _motivnet("sapiens", 1536, 40, 24),
    "motivnet-2b": _motivnet("sapiens", 1920, 48, 32),
    "motivnet-sapiens2-0.1b": _motivnet("sapiens2", 768, 12, 12),
    "motivnet-sapiens2-0.4b": _motivnet("sapiens2", 1024, 24, 16),
    "motivnet-sapiens2-0.8b": _motivnet("sapiens2", 1280, 32, 16),
    "motivnet-sapiens2-1b": _motivnet("sapiens2", 1536, 40, 24),
    "motivnet-sapiens2-5b": _motivnet("sapiens2", 2432, 56, 32),
}


def preset(name: str, *, image_size: tuple[int, int] | None = None) -> ModelConfig:
    """Return the dimensions of a model preset.

    Args:
        name: one of `PRESETS`.
        image_size: (height, width) of the input, in pixels; None takes that of the preset. The cost of a transformer
            depends on the number of patches: 512x384 costs less than a quarter of 1024x768.

    Raises:
        ConfigError: if there is none of that name, or it does not support that size.
    """
    require(name in PRESETS, unknown_name("model preset", name, PRESETS))
    return dataclasses.replace(PRESETS[name], image_size=image_size or PRESETS[name].image_size)
