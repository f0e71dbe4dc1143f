"""The options of distillation. Imports nothing heavy: `--help` reads it."""

import dataclasses

from motivnet.config import Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DistillationConfig(Settings):
    """The options of `distil`: what soft labels consist of.

    Args:
        split: Split of the labelled faces that get soft labels; the others are copied.
        temperature: The teachers' mean logits are divided by it: above 1 is softer.
        weight: Share of the teachers in the target of a labelled face; 0: they label the unlabelled faces alone.
        vote_weight: Share of the annotators' votes in the rest of the target, where there are any.
        flip: Average the logits of each face and its mirror image, or take those of the face.
    """

    split: str = setting("Training")
    temperature: float = setting(1.0, min=0.01)
    weight: float = setting(0.5, min=0.0, max=1.0)
    vote_weight: float = setting(0.5, min=0.0, max=1.0)
    flip: bool = setting(True)
