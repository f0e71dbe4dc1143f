"""Encoders of Hugging Face transformers, with the interface of timm's models.

Rejected: key maps from these models onto timm's, since transformers itself reads all names that its releases had.

Shape suffixes: B images, T frames of a clip, C channels, H height, W width; N tokens, D token width.
"""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from motivnet.errors import needs_extra

Settings = Mapping[str, Any]
KINDS = ("clip_vision_model", "dinov2", "dinov2_with_registers", "dinov3_vit", "siglip_vision_model", "vit", "vjepa2")
# Parts beside the encoder: what pools its tokens, and the predictor of pre-training.
UNUSED = ("head", "pooler", "predictor")
# The same in a file, and heads of tasks, the text model of a pair, and buffers that were saved once.
DROPPED = re.compile(
    rf"(\w+\.)?({'|'.join(UNUSED)}|classifier|decoder|text_model|text_projection|visual_projection|logit_scale"
    r"|logit_bias)(\..*)?|.*\.position_ids"
)


class TransformersNet(nn.Module):
    """A vision model of transformers as timm's are: `forward_features` returns all tokens, normalised.

    Attributes:
        takes_clips: whether it also takes clips (B, T, C, H, W).
        block_list: name of the list of blocks.
    """

    def __init__(self, model: Any, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.model, config = model, model.config
        for part in UNUSED:
            setattr(model, part, None)
        model.use_head = False
        self.num_features: int = config.hidden_size
        parameters = dict(model.named_parameters())
        class_token = any(name.endswith(("cls_token", "class_embedding")) for name in parameters)
        self.num_prefix_tokens = class_token + getattr(config, "num_register_tokens", 0)
        self.takes_clips = config.model_type == "vjepa2"
        blocks = next(name for name, each in model.named_modules() if isinstance(each, nn.ModuleList))
        self.block_list = f"model.{blocks}"
        resizes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self._options = {"skip_predictor": True} if self.takes_clips else {}
        if resizes and image_size != (config.image_size,) * 2:
            self._options["interpolate_pos_encoding"] = True
        # CLIP normalises the class token alone, outside of the tokens.
        self._norm = model.post_layernorm if config.model_type == "clip_vision_model" else nn.Identity()
        for name, parameter in parameters.items():
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
    if "vision_config" in data:
        data = {"model_type": f"{data.get('model_type')}_vision_model"} | dict(data["vision_config"])
    if "quantization_config" in data:
        raise ValueError("quantised weights. Allowed: weights in floating point")
    allowed = _setting_names(_config({"model_type": data.get("model_type")}))
    settings = {name: value for name, value in data.items() if name in allowed}
    _config(settings)
    return settings


def build_transformers(settings: Settings, *, image_size: tuple[int, int], in_chans: int) -> TransformersNet:
    """Build an encoder with random weights.

    Args:
        settings: of `read_settings`; without a setting, transformers' default.
        image_size: (height, width), in pixels; V-JEPA 2 takes squares.
        in_chans: channels of the input.

    Raises:
        ValueError: if they do not fit together.
    """
    config = _config(settings)
    if (found := getattr(config, "num_channels", getattr(config, "in_chans", 0))) != in_chans:
        raise ValueError(f"transformers' {config.model_type} for images of {found} channels, not {in_chans}")
    if any(side % config.patch_size for side in image_size):
        raise ValueError(f"images of {image_size}: height and width must be divisible by {config.patch_size}")
    if config.model_type == "vjepa2":
        if len(set(image_size)) > 1:
            raise ValueError(f"V-JEPA 2 for images of {image_size}. Allowed: squares")
        config.crop_size = image_size[0]
    return TransformersNet(_class_of(config)(config), image_size)


def convert_transformers(tensors: Mapping[str, Tensor], settings: Settings) -> dict[str, Tensor]:
    """Return weights of transformers under the names of `TransformersNet`; heads and text models are dropped.

    Raises:
        ValueError: if they are not those of this encoder.
    """
    config = _config(settings)
    kept = {name: tensor for name, tensor in tensors.items() if not DROPPED.fullmatch(name)}
    try:
        model, info = _class_of(config).from_pretrained(
            None, config=config, state_dict=kept, dtype=torch.float32, output_loading_info=True
        )
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None
    problems = [f"missing {name}" for name in sorted(info["missing_keys"]) if not DROPPED.fullmatch(name)]
    problems += [f"unexpected {name}" for name in sorted(info["unexpected_keys"])]
    if problems:
        raise ValueError(f"{len(problems)} differences: {'; '.join(problems[:5])}")
    return TransformersNet(model, (1, 1)).state_dict()


def _config(settings: Settings) -> Any:
    from huggingface_hub.errors import StrictDataclassError

    with needs_extra("transformers", "transformers"):
        from transformers import CONFIG_MAPPING
    kind = settings.get("model_type")
    if kind not in KINDS:
        raise ValueError(f"transformers' {kind!r}. Allowed: clip, siglip, {', '.join(KINDS)}")
    cls: Any = CONFIG_MAPPING[kind]
    if unknown := settings.keys() - _setting_names(cls):
        raise ValueError(f"transformers' {kind}: unknown settings {sorted(unknown)}")
    try:
        return cls(**{name: value for name, value in settings.items() if name != "model_type"})
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"transformers' {kind}: {' '.join(str(error).split())}") from None


def _setting_names(cls: Any) -> set[str]:
    """Return the names of an architecture's own settings, and `model_type`."""
    from transformers import PreTrainedConfig

    names, shared = ({field.name for field in dataclasses.fields(each)} for each in (cls, PreTrainedConfig))
    return names - shared | {"model_type"}


def _class_of(config: Any) -> Any:
    from transformers import MODEL_MAPPING

    return MODEL_MAPPING[type(config)]
