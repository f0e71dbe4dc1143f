"""Key maps from the tensor names of released checkpoints to ours: declarative, complete, invertible.

A rule maps a foreign name, or a prefix of it up to a dot, to ours; `{i}` stands for a number, and None drops the tensor
on purpose. Every foreign name must match a rule; the longest match counts.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import TypeVar

from motivnet.errors import CheckpointError

TensorT = TypeVar("TensorT")


@dataclasses.dataclass(frozen=True)
class KeyMap:
    """The key map of one format.

    Args:
        format: its name, for messages.
        rules: foreign pattern -> ours, or None to drop it.
        wrapper: prefix that some files of the format put before these names; the inverse map adds it.
    """

    format: str
    rules: Mapping[str, str | None]
    wrapper: str = ""

    def apply(self, state: Mapping[str, TensorT]) -> tuple[dict[str, TensorT], tuple[str, ...]]:
        """Rename tensors.

        Returns:
            Tensors under our names, and the foreign names that were dropped on purpose.

        Raises:
            CheckpointError: at a name that matches no rule, or two names that become one.
        """
        longest_first = sorted(self.rules.items(), key=lambda rule: -len(rule[0]))
        patterns = [(_compile(pattern), target) for pattern, target in longest_first]
        renamed: dict[str, TensorT] = {}
        dropped = []
        for name, tensor in state.items():
            ours = self._rename(name, patterns)
            if ours is None:
                dropped.append(name)
            elif ours in renamed:
                raise CheckpointError(f"{self.format}: two tensors become {ours!r}, the second is {name!r}")
            else:
                renamed[ours] = tensor
        return renamed, tuple(dropped)

    def inverse(self) -> "KeyMap":
        """Return the key map from our names to the foreign ones."""
        rules = {ours: self.wrapper + name for name, ours in self.rules.items() if ours is not None}
        return KeyMap(f"{self.format}, inverted", rules)

    def _rename(self, name: str, patterns: list[tuple[re.Pattern[str], str | None]]) -> str | None:
        bare = name.removeprefix(self.wrapper)
        for pattern, target in patterns:
            if match := pattern.match(bare):
                return target and match.expand(target.replace("{i}", r"\1")) + bare[match.end() :]
        raise CheckpointError(f"{self.format}: unexpected tensor {name!r}")


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\{i\}", r"(\d+)") + r"(?=\.|$)")


def _prefixed(rules: Mapping[str, str | None], foreign: str, ours: str) -> dict[str, str | None]:
    """Add prefixes to both sides of rules."""
    return {foreign + name: None if target is None else ours + target for name, target in rules.items()}


def _ml_decoder_rules(attention: str) -> dict[str, str | None]:
    layer = "decoder.layers.{i}."
    return {
        "decoder.embed_standart": "embed",
        "decoder.query_embed.weight": "queries",
        f"{layer}norm1": "layers.{i}.norm_query",
        f"{layer}norm2": "layers.{i}.norm_attn",
        f"{layer}norm3": "layers.{i}.norm_ff",
        f"{layer}{attention}.in_proj_weight": "layers.{i}.attn.in_proj.weight",
        f"{layer}{attention}.in_proj_bias": "layers.{i}.attn.in_proj.bias",
        f"{layer}{attention}.out_proj": "layers.{i}.attn.out_proj",
        f"{layer}linear1": "layers.{i}.ff_in",
        f"{layer}linear2": "layers.{i}.ff_out",
        "decoder.duplicate_pooling": "group_weight",
        "decoder.duplicate_pooling_bias": "group_bias",
    }


def _sapiens_rules(patch_projection: str) -> dict[str, str | None]:
    return {
        patch_projection: "patch_embed.proj",
        "pos_embed": "pos_embed",
        "cls_token": "cls_token",
        "layers.{i}.ln1": "blocks.{i}.norm1",
        "layers.{i}.attn.qkv": "blocks.{i}.attn.qkv",
        "layers.{i}.attn.proj": "blocks.{i}.attn.proj",
        "layers.{i}.ln2": "blocks.{i}.norm2",
        "layers.{i}.ffn.layers.0.0": "blocks.{i}.mlp.fc1",
        "layers.{i}.ffn.layers.1": "blocks.{i}.mlp.fc2",
        "ln1": "norm",
    }


_SAPIENS2_RULES: dict[str, str | None] = {
    "cls_token": "cls_token",
    "storage_tokens": "reg_token",
    "patch_embed.projection": "patch_embed.proj",
    "blocks.{i}.ln1": "blocks.{i}.norm1",
    "blocks.{i}.attn.wq": "blocks.{i}.attn.q_proj",
    "blocks.{i}.attn.wk": "blocks.{i}.attn.k_proj",
    "blocks.{i}.attn.wv": "blocks.{i}.attn.v_proj",
    "blocks.{i}.attn.q_norm": "blocks.{i}.attn.q_norm",
    "blocks.{i}.attn.k_norm": "blocks.{i}.attn.k_norm",
    "blocks.{i}.attn.proj": "blocks.{i}.attn.proj",
    "blocks.{i}.attn.gamma.weight": "blocks.{i}.gamma_1",
    "blocks.{i}.ln2": "blocks.{i}.norm2",
    "blocks.{i}.ffn.w12": "blocks.{i}.mlp.fc1",
    "blocks.{i}.ffn.w3": "blocks.{i}.mlp.fc2",
    "ln1": "norm",
    # Rotary tables, which are computed.
    "rope_embed": None,
    "rope": None,
}


def _torchvision_vit_rules() -> dict[str, str | None]:
    theirs, ours = "encoder.layers.encoder_layer_{i}.", "blocks.{i}."
    return {
        "class_token": "cls_token",
        "conv_proj": "patch_embed.proj",
        "encoder.pos_embedding": "pos_embed",
        f"{theirs}ln_1": f"{ours}norm1",
        f"{theirs}self_attention.in_proj_weight": f"{ours}attn.qkv.weight",
        f"{theirs}self_attention.in_proj_bias": f"{ours}attn.qkv.bias",
        f"{theirs}self_attention.out_proj": f"{ours}attn.proj",
        f"{theirs}ln_2": f"{ours}norm2",
        # As published, and as its classes name them today.
        **{f"{theirs}mlp.{name}": f"{ours}mlp.fc1" for name in ("linear_1", "0")},
        **{f"{theirs}mlp.{name}": f"{ours}mlp.fc2" for name in ("linear_2", "3")},
        "encoder.ln": "norm",
        "heads": None,
    }


def _mobilenet_v1_places() -> list[tuple[int, int]]:
    """Return timm's stage and block of each of the 13 depthwise separable convolutions of MobileNet-v1."""
    return [(stage, block) for stage, blocks in enumerate((1, 2, 2, 6, 2)) for block in range(blocks)]


def _faceres_rules() -> dict[str, str | None]:
    """Batch norms are folded: a kernel, for depthwise ones with a factor apart, and a bias."""
    rules: dict[str, str | None] = {
        "conv1/convolution/merged_input": "conv_stem.weight",
        "conv1_bn/batchnorm_1/sub": "bn1.bias",
        # Its outputs: age, gender, and a descriptor, which is the mean of the last features.
        **dict.fromkeys(
            f"{part}/{name}" for part in ("age_pred", "feats", "gender_pred") for name in ("kernel", "bias")
        ),
        "global_pooling/Mean/reduction_indices": None,
    }
    for number, (stage, block) in enumerate(_mobilenet_v1_places(), start=1):
        place = f"blocks.{stage}.{block}."
        rules[f"conv_dw_{number}/depthwise_kernel"] = f"{place}conv_dw.weight"
        rules[f"conv_dw_{number}_bn/batchnorm_1/mul"] = f"{place}bn1.weight"
        rules[f"conv_dw_{number}_bn/batchnorm_1/sub"] = f"{place}bn1.bias"
        rules[f"conv_pw_{number}/convolution/merged_input"] = f"{place}conv_pw.weight"
        rules[f"conv_pw_{number}_bn/batchnorm_1/sub"] = f"{place}bn2.bias"
    relus = ("conv1", *(f"conv_{part}_{number}" for part in ("dw", "pw") for number in range(1, 14)))
    return rules | {f"{relu}_relu/{name}": None for relu in relus for name in ("Cast", "Const_1")}


# Parts of a file beside the encoder: heads and necks of tasks, and the decoder of pre-training.
_TASK_PARTS = ("head", "neck", "decode_head", "auxiliary_head", "data_preprocessor")
_PRETRAIN_PARTS = ("decoder_embed", "decoder_pos_embed", "decoder_blocks", "decoder_norm", "decoder_pred", "mask_token")
_DROPPED: dict[str, str | None] = dict.fromkeys((*_TASK_PARTS, *_PRETRAIN_PARTS))

# A Sapiens (v1) encoder, onto Backbone. The class token of pre-training is dropped when the model has none.
_SAPIENS_RULES = _prefixed(_sapiens_rules("patch_embed.projection"), "", "net.")
SAPIENS = KeyMap("Sapiens", _SAPIENS_RULES | _DROPPED, wrapper="backbone.")

# A Sapiens2 encoder, onto Backbone.
SAPIENS2 = KeyMap("Sapiens2", _prefixed(_SAPIENS2_RULES, "", "net.") | _DROPPED, wrapper="backbone.")

# ML-Decoder as its authors publish it, onto MLDecoder. It is the `head` or `fc` of a classifier.
ML_DECODER_UPSTREAM = KeyMap("ML-Decoder upstream", _ml_decoder_rules("multihead_attn"))

# The released MotivNet.pth, onto MotivNet. Its encoder lacks `patch_embed.`; its cross-attention is named `self_attn`.
MOTIVNET_RELEASED = KeyMap(
    "MotivNet released",
    _prefixed(_sapiens_rules("projection"), "pose_encoder.", "backbone.net.")
    | _prefixed(_ml_decoder_rules("self_attn"), "decoder.", "head."),
)

# torchvision's vision transformers, onto timm's.
TORCHVISION_VIT = KeyMap("torchvision vision transformer", _torchvision_vit_rules())

# faceres of the npm package @vladmandic/human, onto timm's mobilenetv1_100.
FACERES = KeyMap("faceres", _faceres_rules())
