"""Key maps from the tensor names of released checkpoints to ours: declarative, complete, invertible.

A rule maps a foreign name, or a prefix of it up to a dot, to ours; `{i}` stands for a number, and None drops the tensor
on purpose. Every foreign name must match a rule; the longest match counts. The rules are in `assets/key_maps.csv`.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import TypeVar

from motivnet.errors import CheckpointError
from motivnet.storage import ASSETS, read_csv

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


def _read_rules() -> dict[str, dict[str, str | None]]:
    """Return the rules of each map, by its name."""
    rules: dict[str, dict[str, str | None]] = {}
    for row in read_csv(ASSETS / "key_maps.csv"):
        rules.setdefault(row["map"], {})[row["theirs"]] = row["ours"] or None
    return rules


_RULES = _read_rules()

# Encoders, onto Backbone. Dropped are heads and necks of tasks, the decoder of pre-training, and Sapiens2's rotary
# tables, which are computed; the class token of pre-training later, when the model has none.
SAPIENS = KeyMap("Sapiens", _RULES["Sapiens"], wrapper="backbone.")
SAPIENS2 = KeyMap("Sapiens2", _RULES["Sapiens2"], wrapper="backbone.")

# ML-Decoder as its authors publish it, onto MLDecoder. It is the `head` or `fc` of a classifier.
ML_DECODER_UPSTREAM = KeyMap("ML-Decoder upstream", _RULES["ML-Decoder upstream"])

# The released MotivNet.pth, onto MotivNet. Its encoder lacks `patch_embed.`; its cross-attention is named `self_attn`.
MOTIVNET_RELEASED = KeyMap("MotivNet released", _RULES["MotivNet released"])

# torchvision's vision transformers, as published and as its classes name them today, onto timm's.
TORCHVISION_VIT = KeyMap("torchvision vision transformer", _RULES["torchvision vision transformer"])

# faceres of the npm package @vladmandic/human, onto timm's mobilenetv1_100. Batch norms are folded: a kernel, for
# depthwise ones with a factor apart, and a bias. Dropped are its outputs: age, gender, and a descriptor, which is the
# mean of the last features.
FACERES = KeyMap("faceres", _RULES["faceres"])
