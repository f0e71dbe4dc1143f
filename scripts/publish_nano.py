"""Turn a trained bundle into the embedded model `nano`: calibrate, quantise and measure it, write its card.

    python scripts/publish_nano.py runs/nano/chosen --data runs/nano/data.parquet --fer2013 FILE --faces FOLDER

Every number in the card is measured by this run, through the ONNX files. The calibration is fitted on the images that
the model was chosen with (split Selection of `--data`, see `benchmarks/nano.py`), int8's ranges on training faces.
`--card` writes the card of the model that is there, and nothing else.
"""

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from nano_scores import DEV, PRIVATE, PUBLIC, measure, percent, scored_sets  # noqa: E402
from tables import markdown_table, write_results  # noqa: E402

from motivnet.checkpoints.bundle import (  # noqa: E402
    ASSETS,
    CARD_NAME,
    ONNX_NAMES,
    WEIGHTS_NAME,
    Bundle,
    open_bundle,
    write_config,
)
from motivnet.evaluation.calibration import RECORD, calibrate  # noqa: E402
from motivnet.evaluation.quantization import quantize  # noqa: E402
from motivnet.export.onnx import export_onnx, verify_onnx  # noqa: E402

SUMMARY = "MobileNet-v1 and ML-Decoder on 96 x 96 grey faces: FER-2013 with FERPlus' votes, distilled on more faces"
LICENCE = "research and teaching: trained on FER-2013 and faces of the web, from weights trained on VGGFace2"
TRAINED_ON = ["fer2013", "lfw", "utkface"]
CARD = Path(__file__).parent / "nano_card.md"
# Share of right answers that the threshold of abstention is for.
ACCURACY = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fer2013", type=Path, required=True)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--card", action="store_true", help="only the card, of a bundle that is complete")
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.bundle)
    if not arguments.card:
        bundle = published(bundle, f"manifest:{arguments.data}")
    results = measure(bundle, scored_sets(arguments.fer2013, arguments.faces))
    bundle = write_config(bundle.path, dataclasses.replace(bundle.config, scores=results["scores"]["fp32"]))
    write_results("nano_scores", results)
    (bundle.path / CARD_NAME).write_text(card(bundle, results, verify_onnx(bundle)), encoding="utf-8")
    print((bundle.path / CARD_NAME).read_text(encoding="utf-8"))


def published(trained: Bundle, data: str) -> Bundle:
    """Copy a bundle to the embedded model, with its files in all precisions, calibrated."""
    provenance = with_domains(trained.config.provenance)
    config = dataclasses.replace(trained.config, name="nano", summary=SUMMARY, licence=LICENCE, provenance=provenance)
    bundle = write_config(ASSETS / "nano", config)
    shutil.copyfile(trained.weights, bundle.path / WEIGHTS_NAME)
    export_onnx(bundle)
    calibrate("nano", data, split="Selection", exponent=True, accuracy=ACCURACY, overwrite=True)
    return quantize("nano", data, split="Training", evaluate="Selection", overwrite=True)


def with_domains(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """State what a model and those that it started from were trained on: a manifest of several sources does not say."""
    found = {**provenance, "trained_on": TRAINED_ON}
    if isinstance(init := found.get("init"), Mapping):
        found["init"] = {**init, "provenance": with_domains(init["provenance"])}
    return found


def card(bundle: Bundle, results: dict[str, Any], onnx_difference: float) -> str:
    """Fill the card's template with what was measured."""
    labels, provenance = results["labels"], bundle.config.provenance
    fitted = provenance[RECORD]
    private = results["abstention"][PRIVATE]
    return CARD.read_text(encoding="utf-8").format(
        scores=score_table(results["scores"]),
        robustness=robustness_table(results["robustness"]),
        confusions=confusion_table(labels, results["private_confusion"], results["private_recall"]),
        dev_confusions=confusion_table(labels, results["dev_confusion"], results["dev_recall"]),
        parameters=f"{count_parameters(bundle) / 1e6:.2f}",
        files=file_table(bundle),
        onnx_difference=f"{onnx_difference:.0e}",
        rows=provenance["training_rows"],
        epochs=provenance["recipe"]["run"]["epochs"],
        temperature=f"{bundle.config.calibration.temperature:.3f}",
        exponent=f"{bundle.config.calibration.exponent:.3f}",
        calibrated_on=f"{fitted['n']:,} images",
        abstain_below=f"{fitted['abstention']['abstain_below']:.3f}",
        wanted=f"{100 * fitted['abstention']['wanted_accuracy']:.0f}",
        private_accuracy=f"{100 * private['accuracy']:.1f}",
        private_coverage=f"{100 * private['coverage']:.1f}",
    )


def score_table(scores: dict[str, dict[str, dict[str, float]]]) -> str:
    """Lay out the scores, a row for each set and precision."""
    titles = {"war": "WAR %", "uar": "UAR %", "f1_macro": "F1 % (macro)", "ece": "ECE %"}
    return markdown_table(
        [
            {"measured on": name, "precision": precision, "images": row["images"]}
            | {title: percent(row)[metric] for metric, title in titles.items()}
            for name in scores["fp32"]
            for precision, rows in scores.items()
            for row in [rows[name]]
        ]
    )


def robustness_table(robustness: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Lay out the points of WAR that degradations cost."""
    return markdown_table(
        [
            {"degradation": kind, **{name: f"{100 * robustness[name][kind]['war_loss']:.1f}" for name in (PUBLIC, DEV)}}
            for kind in robustness[PUBLIC]
        ]
    )


def confusion_table(labels: list[str], counts: list[list[int]], recalls: list[float]) -> str:
    """Lay out a confusion matrix with recalls."""
    return markdown_table(
        [
            {
                "true \\ predicted": f"**{label}**",
                **dict(zip(labels, row, strict=True)),
                "recall %": f"{100 * value:.0f}",
            }
            for label, row, value in zip(labels, counts, recalls, strict=True)
        ]
    )


def file_table(bundle: Bundle) -> str:
    """Lay out the weight files with their sizes."""
    files = [WEIGHTS_NAME, *(name for name in ONNX_NAMES.values() if (bundle.path / name).exists())]
    return markdown_table(
        [{"file": f"`{name}`", "MB": f"{(bundle.path / name).stat().st_size / 1e6:.1f}"} for name in files]
    )


def count_parameters(bundle: Bundle) -> int:
    """Count what the weights file holds, batch norm's statistics included."""
    from motivnet.checkpoints.files import open_weights

    return sum(tensor.numel() for tensor in open_weights(bundle.weights).tensors.values())


if __name__ == "__main__":
    main()
