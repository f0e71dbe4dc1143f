"""Encoders of Hugging Face transformers, with the interface of timm's models.

Rejected: key maps from these models onto timm's, since transformers itself reads all names that its releases had.

Shape suffixes: B images, T frames of a clip, C channels, H height, W width; N tokens, D token width.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from motivnet.errors import needs_extra

Settings = Mapping[str, Any]


class Kind(NamedTuple):
    """What transformers' vision models do not say of themselves.

    Attributes:
        blocks: name of the list of blocks.
        class_token: whether a class token, and the registers, come first.
        resizes: whether the model resizes its positions only if it is asked to.
        built: arguments of the model.
        fixed: settings, of parts that are not used here.
    """

    blocks: str
    class_token: bool = True
    resizes: bool = False
    built: Settings = {}
    fixed: Settings = {}


KINDS = {
    "clip_vision_model": Kind("encoder.layers", resizes=True),
    "dinov2": Kind("encoder.layer"),
    "dinov2_with_registers": Kind("encoder.layer"),
    "dinov3_vit": Kind("model.layer"),
    "siglip_vision_model": Kind("encoder.layers", class_token=False, resizes=True, fixed={"vision_use_head": False}),
    "vit": Kind("layers", resizes=True, built={"add_pooling_layer": False}),
    "vjepa2": Kind("encoder.layer", class_token=False),
}
# Parts of a file beside the encoder: heads, the predictor of pre-training, the text model of a pair.
DROPPED = re.compile(
    r"(\w+\.)?(classifier|pooler|head|decoder|predictor|text_model|text_projection|visual_projection|logit_scale"
    r"|logit_bias)(\..*)?|.*\.position_ids"
)


class TransformersNet(nn.Module):
    """A vision model of transformers as timm's are: `forward_features` returns all tokens, normalised.

    Attributes:
        takes_clips: whether it also takes clips (B, T, C, H, W).
        block_list: name of the list of blocks.
    """

    def __init__(self, model: Any, kind: Kind, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.model, config = model, model.config
        self.num_features: int = config.hidden_size
        self.num_prefix_tokens = kind.class_token + getattr(config, "num_register_tokens", 0)
        self.takes_clips, self.block_list = config.model_type == "vjepa2", f"model.{kind.blocks}"
        self._options = {}
        if kind.resizes and image_size != (config.image_size,) * 2:
            self._options["interpolate_pos_encoding"] = True
        if self.takes_clips:
            self._options["skip_predictor"] = True
            model.predictor = nn.Identity()
        # CLIP normalises the class token alone, outside of the tokens.
        self._norm = model.post_layernorm if config.model_type == "clip_vision_model" else nn.Identity()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.endswith("mask_token"))  # of pre-training

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Map pixels (B, C, H, W), or a clip (B, T, C, H, W), to tokens (B, N, D), frame by frame.

        An image is a clip of one frame that is repeated to fill one patch in time.

        Raises:
            ValueError: if the frames of a clip do not fill the patches.
        """
        if self.takes_clips:
            frames = self.model.config.tubelet_size
            pixels = pixels if pixels.ndim == 5 else pixels[:, None].expand(-1, frames, -1, -1, -1)
            if pixels.shape[1] % frames:
                raise ValueError(f"a clip of {pixels.shape[1]} frames. Allowed: multiples of {frames}")
        return self._norm(self.model(pixels, **self._options).last_hidden_state)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch recomputation on; it is off at first."""
        if enable:
            self.model.activation_checkpointing_enable({"use_reentrant": False})


def read_settings(data: Settings) -> dict[str, Any]:
    """Return the settings of the encoder that a config.json describes: those of its architecture alone.

    Nothing of it is executed, and no other setting, such as code to load or another kernel, is passed on.

    Raises:
        ValueError: if it is of another kind, or quantised.
    """
    from huggingface_hub.errors import StrictDataclassError

    kind = data.get("model_type")
    if "vision_config" in data:
        data = {"model_type": f"{kind}_vision_model"} | dict(data["vision_config"])
        kind = data["model_type"]
    if kind not in KINDS:
        raise ValueError(f"transformers' {kind!r}. Allowed: clip, siglip, {', '.join(KINDS)}")
    if "quantization_config" in data:
        raise ValueError("quantised weights. Allowed: weights in floating point")
    with needs_extra("transformers", "transformers"):
        from transformers import CONFIG_MAPPING, PreTrainedConfig
    cls = CONFIG_MAPPING[kind]
    try:
        plain = cls.from_dict(dict(data)).to_dict()
    except StrictDataclassError as error:
        raise ValueError(" ".join(str(error).split())) from None
    own = {field.name for field in dataclasses.fields(cls)} - {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return {"model_type": kind} | {name: plain[name] for name in sorted(own & plain.keys())}


def build_transformers(settings: Settings, *, image_size: tuple[int, int], in_chans: int) -> TransformersNet:
    """Build an encoder with random weights.

    Args:
        settings: of `read_settings`; without a setting, transformers' default.
        image_size: (height, width), in pixels; V-JEPA 2 takes squares.
        in_chans: channels of the input.

    Raises:
        ValueError: if they do not fit together.
    """
    config, kind = _config(settings, image_size)
    if (found := getattr(config, "num_channels", getattr(config, "in_chans", 0))) != in_chans:
        raise ValueError(f"transformers' {config.model_type} for images of {found} channels, not {in_chans}")
    if any(side % config.patch_size for side in image_size):
        raise ValueError(f"images of {image_size}: height and width must be divisible by {config.patch_size}")
    from transformers import MODEL_MAPPING

    return TransformersNet(MODEL_MAPPING[type(config)](config, **kind.built), kind, image_size)


def convert_transformers(tensors: Mapping[str, Tensor], settings: Settings) -> dict[str, Tensor]:
    """Return weights of transformers under the names of `TransformersNet`; heads and text models are dropped.

    Raises:
        ValueError: if they are not those of this encoder.
    """
    config, kind = _config(settings)
    from transformers import MODEL_MAPPING

    kept = {name: tensor for name, tensor in tensors.items() if not DROPPED.fullmatch(name)}
    try:
        model, info = MODEL_MAPPING[type(config)].from_pretrained(
            None, config=config, state_dict=kept, dtype=torch.float32, output_loading_info=True, **kind.built
        )
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None
    missing = sorted(name for name in info["missing_keys"] if not DROPPED.fullmatch(name))
    problems = [f"missing {name}" for name in missing]
    problems += [f"unexpected {name}" for name in sorted(info["unexpected_keys"])]
    if problems:
        raise ValueError(f"{len(problems)} differences: {'; '.join(problems[:5])}")
    return TransformersNet(model, kind, (1, 1)).state_dict()


def _config(settings: Settings, image_size: tuple[int, int] | None = None) -> tuple[Any, Kind]:
    from huggingface_hub.errors import StrictDataclassError

    with needs_extra("transformers", "transformers"):
        from transformers import CONFIG_MAPPING
    own = dict(settings)
    name = own.pop("model_type", None)
    if name not in KINDS:
        raise ValueError(f"transformers' {name!r}. Allowed: {', '.join(KINDS)}")
    kind = KINDS[name]
    if name == "vjepa2" and image_size:
        if len(set(image_size)) > 1:
            raise ValueError(f"V-JEPA 2 for images of {image_size}. Allowed: squares")
        own["crop_size"] = image_size[0]
    try:
        return cast(Any, CONFIG_MAPPING[name])(**own | dict(kind.fixed)), kind
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"transformers: {' '.join(str(error).split())}") from None
