"""The options of distillation. Imports nothing heavy: `--help` reads it."""

import dataclasses

from motivnet.config import Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DistillationConfig(Settings):
    """The options of `distil`: what soft labels consist of."""

    split: str = setting("Training", "Split of the labelled faces that get soft labels; the others are copied.")
    temperature: float = setting(1.0, "The teachers' mean logits are divided by it: above 1 is softer.", min=0.01)
    weight: float = setting(
        0.5,
        "Share of the teachers in the target of a labelled face; 0: they label the unlabelled faces alone.",
        min=0.0,
        max=1.0,
    )
    vote_weight: float = setting(
        0.5, "Share of the annotators' votes in the rest of the target, where there are any.", min=0.0, max=1.0
    )
    flip: bool = setting(True, "Average the logits of each face and its mirror image, or take those of the face.")
