"""A card for a bundle, with its scores."""

from pathlib import Path

from motivnet.checkpoints.bundle import CARD_NAME, open_bundle, require_head, write_config
from motivnet.checkpoints.card import make_card
from motivnet.config import replace
from motivnet.errors import OutputError, require
from motivnet.evaluation.evaluate import evaluate
from motivnet.evaluation.predictions import Track, no_progress
from motivnet.experiments.protocols import parse_data
from motivnet.storage import write_text


def write_card(
    bundle: str | Path, data: str | None = None, *, overwrite: bool = False, track: Track = no_progress
) -> Path:
    """Write the README.md of a bundle from its config, and its scores into both; what `motivnet card` does.

    Args:
        bundle: folder of the bundle.
        data: `[NAME=]KIND:PATH[@SPLIT]` to score it on, in addition to the scores that its config has; None: no more.
        overwrite: replace a card that exists.
        track: shows progress.

    Returns:
        The file.

    Raises:
        MotivNetError: as for `evaluate`; OutputError if a card exists or cannot be written.
    """
    found = require_head(open_bundle(bundle))
    file = found.path / CARD_NAME
    require(not file.exists() or overwrite, f"{file}: exists already. Allowed: overwrite", OutputError)
    if data is not None:
        name = parse_data(data)
        metrics = evaluate(found.path, name.source, split=name.split, track=track).metrics
        measured = {"images": metrics["n"], **{each: metrics[each] for each in ("war", "uar", "f1_macro", "ece")}}
        scores = {**found.config.scores, name.title: measured}
        found = write_config(found.path, replace(found.config, {"scores": scores}))
    write_text(file, make_card(found.config))
    return file
