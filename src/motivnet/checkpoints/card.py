"""The card of a bundle: Markdown for people, and before it the metadata that the Hugging Face hub reads. Torch-free."""

from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from motivnet.config import to_json
from motivnet.errors import needs_extra

if TYPE_CHECKING:
    from motivnet.checkpoints.bundle import BundleConfig

TASK, TAGS = "image-classification", ["facial-expression-recognition", "emotion-recognition"]
# Metrics that have a type of their own on the hub.
METRICS = {"war": "accuracy", "f1_macro": "f1"}
# What a card tells of a model's provenance.
TRAINING = ("recipe", "data", "training_rows", "selected", "trained_on", "versions")


def make_card(config: "BundleConfig", text: str | None = None) -> str:
    """Return the README.md of a bundle, with its scores as `model-index`.

    Args:
        config: of the bundle.
        text: a card that exists, of which what is for people is kept; None writes it.

    Raises:
        MissingExtraError: if huggingface_hub is not installed.
    """
    with needs_extra("huggingface_hub", "hub"):
        from huggingface_hub import EvalResult, ModelCard, ModelCardData
    results = [
        EvalResult(TASK, data_set.lower().replace(" ", "-"), data_set, METRICS.get(metric, metric), value)
        for data_set, scores in config.scores.items()
        for metric, value in scores.items()
        if metric != "images"
    ]
    about = {"license": "other", "library_name": "motivnet", "pipeline_tag": TASK, "tags": TAGS}
    data = ModelCardData(**about, model_name=config.name, eval_results=results or None)
    body = _body(config) if text is None else ModelCard(text, ignore_metadata_errors=True).text
    return f"---\n{data.to_yaml()}\n---\n\n{body.lstrip()}"


def _body(config: "BundleConfig") -> str:
    height, width = config.preprocessing.size
    known = {name: config.provenance[name] for name in TRAINING if name in config.provenance}
    return Template(Path(__file__).with_name("card.md").read_text(encoding="utf-8")).substitute(
        **{name: getattr(config, name) for name in ("name", "summary", "licence")},
        labels=", ".join(config.labels),
        input=f"{width} x {height} pixels, {config.preprocessing.channels}",
        scores="\n".join(f"- {line}" for line in config.measurements.splitlines()),
        training=to_json(known, indent=2),
    )
