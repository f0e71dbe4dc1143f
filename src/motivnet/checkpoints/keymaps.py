"""Key maps from the tensor names of released checkpoints to ours: declarative, complete, invertible.

A rule maps a foreign name, or a prefix of it up to a dot, to ours; `{i}` stands for a number, and None drops the tensor
on purpose. Every foreign name must match a rule; the longest match counts. The rules of most formats are the rows of
`keymaps.csv`, where None is an empty cell: of Sapiens2, the rotary tables, which are computed; of torchvision, the
classifier, and its hidden layers are there as published and as its classes name them today.
"""

import csv
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
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


def _rules(format: str) -> dict[str, str | None]:
    """Return the rules of one format, of the table beside this file."""
    with Path(__file__).with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        return {row["theirs"]: row["ours"] or None for row in csv.DictReader(file) if row["format"] == format}


def _prefixed(rules: Mapping[str, str | None], foreign: str, ours: str) -> dict[str, str | None]:
    """Add prefixes to both sides of rules."""
    return {foreign + name: None if target is None else ours + target for name, target in rules.items()}


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
SAPIENS = KeyMap("Sapiens", _prefixed(_rules("sapiens"), "", "net.") | _DROPPED, wrapper="backbone.")

# A Sapiens2 encoder, onto Backbone.
SAPIENS2 = KeyMap("Sapiens2", _prefixed(_rules("sapiens2"), "", "net.") | _DROPPED, wrapper="backbone.")

# ML-Decoder as its authors publish it, onto MLDecoder. It is the `head` or `fc` of a classifier.
ML_DECODER_UPSTREAM = KeyMap("ML-Decoder upstream", _rules("ml-decoder"))

# The released MotivNet.pth, onto MotivNet. Its encoder lacks `patch_embed.`; its cross-attention is named `self_attn`.
_ENCODER = {name.removeprefix("patch_embed."): ours for name, ours in _rules("sapiens").items()}
_DECODER = {name.replace("multihead_attn", "self_attn"): ours for name, ours in _rules("ml-decoder").items()}
MOTIVNET_RELEASED = KeyMap(
    "MotivNet released",
    _prefixed(_ENCODER, "pose_encoder.", "backbone.net.") | _prefixed(_DECODER, "decoder.", "head."),
)

# torchvision's vision transformers, onto timm's.
TORCHVISION_VIT = KeyMap("torchvision vision transformer", _rules("torchvision"))

# faceres of the npm package @vladmandic/human, onto timm's mobilenetv1_100.
FACERES = KeyMap("faceres", _faceres_rules())
