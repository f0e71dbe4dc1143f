"""Turn a trained bundle into the embedded model `nano`: calibrate it, measure it, write its card, put it under assets/.

    python scripts/publish_nano.py runs/nano-fer2013/bundle path/to/fer2013.parquet

Every number in the card is measured by this run, through the exported ONNX file. The calibration is fitted on
PublicTest, as `motivnet calibrate` does it. `--card` writes the card of the model that is there, and nothing else.
"""

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from nano_fer2013 import measure  # noqa: E402
from tables import markdown_table, write_results  # noqa: E402

from motivnet.checkpoints.bundle import (  # noqa: E402
    ASSETS,
    CARD_NAME,
    ONNX_NAME,
    WEIGHTS_NAME,
    Bundle,
    BundleConfig,
    open_bundle,
    write_config,
)
from motivnet.data.manifest import Manifest  # noqa: E402
from motivnet.data.sources.fer2013 import read_fer2013  # noqa: E402
from motivnet.evaluation.calibration import RECORD, calibrated_config  # noqa: E402
from motivnet.evaluation.predictions import predict_manifest  # noqa: E402
from motivnet.export.onnx import (  # noqa: E402
    export_onnx,
    state_calibration,
    verify_onnx,
)
from motivnet.faces import load_detector  # noqa: E402
from motivnet.inference.backends import OnnxBackend  # noqa: E402
from motivnet.inference.predictor import Predictor  # noqa: E402
from motivnet.preprocess import NANO  # noqa: E402

SUMMARY = "MobileNetV2 and ML-Decoder on 96 x 96 grey faces, trained on FER-2013"
LICENCE = "research and teaching: trained on FER-2013 (images from the web), from ImageNet weights"
CARD = Path(__file__).parent / "nano_card.md"
# What the model is calibrated on, and the share of right answers that its threshold of abstention is for.
SPLIT, ACCURACY = "PublicTest", 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--card", action="store_true", help="only the card, of a bundle that is complete")
    arguments = parser.parse_args()
    manifest = read_fer2013(arguments.data)
    if arguments.card:
        bundle = open_bundle(arguments.bundle)
        write_card(bundle, measure(bundle, manifest))
        return
    trained = open_bundle(arguments.bundle)
    # The margin around a detector's box plays no part in training, whose images are crops already.
    assert dataclasses.replace(trained.config.preprocessing, margin=NANO.margin) == NANO
    config = dataclasses.replace(trained.config, name="nano", summary=SUMMARY, licence=LICENCE, preprocessing=NANO)
    bundle = write_config(ASSETS / "nano", config)
    shutil.copyfile(trained.weights, bundle.path / WEIGHTS_NAME)
    export_onnx(bundle)
    config = calibrated(bundle, manifest, f"fer2013:{arguments.data.name}")
    state_calibration(bundle.onnx, config.calibration)
    results = measure(Bundle(bundle.path, config), manifest)
    bundle = write_config(bundle.path, dataclasses.replace(config, scores=results["scores"]))
    write_results("nano_fer2013", results)
    write_card(bundle, results)


def calibrated(bundle: Bundle, manifest: Manifest, data: str) -> BundleConfig:
    """Fit the calibration, and the threshold that 90 % right answers need, on PublicTest."""
    predictor = Predictor(bundle.config, OnnxBackend(bundle), load_detector("whole"))
    split = manifest.split(SPLIT)
    predictions = predict_manifest(predictor, split, detect=False, data=data, split=SPLIT)
    return calibrated_config(bundle.config, predictions, exponent=True, accuracy=ACCURACY)


def write_card(bundle: Bundle, results: dict[str, Any]) -> None:
    (bundle.path / CARD_NAME).write_text(card(bundle, results, verify_onnx(bundle)), encoding="utf-8")
    print((bundle.path / CARD_NAME).read_text(encoding="utf-8"))


def card(bundle: Bundle, results: dict[str, Any], onnx_difference: float) -> str:
    """Fill the card's template with what was measured."""
    labels, confusion, provenance = results["labels"], results["private_confusion"], bundle.config.provenance
    scores = [
        {
            "measured on": name,
            "images": row["images"],
            "WAR %": f"{100 * row['war']:.1f}",
            "UAR %": f"{100 * row['uar']:.1f}",
            "Top-2 %": f"{100 * row['top2']:.1f}",
            "F1 % (macro)": f"{100 * row['f1_macro']:.1f}",
        }
        for name, row in results["scores"].items()
    ]
    confusions = [
        {"true \\ predicted": f"**{label}**", **dict(zip(labels, row, strict=True)), "recall %": f"{100 * recall:.0f}"}
        for label, row, recall in zip(labels, confusion, results["private_recall"], strict=True)
    ]
    return CARD.read_text(encoding="utf-8").format(
        scores=markdown_table(scores),
        confusions=markdown_table(confusions),
        parameters=f"{count_parameters(bundle) / 1e6:.2f}",
        onnx_mb=f"{(bundle.path / ONNX_NAME).stat().st_size / 1e6:.1f}",
        weights_mb=f"{bundle.weights.stat().st_size / 1e6:.1f}",
        onnx_difference=f"{onnx_difference:.0e}",
        rows=provenance["training_rows"],
        stages="; then ".join(stages(provenance)),
        worst=worst_confusions(labels, confusion),
        **calibration(bundle, results),
    )


def calibration(bundle: Bundle, results: dict[str, Any]) -> dict[str, str]:
    """Word what the card says of probabilities."""
    fitted, abstention = bundle.config.provenance[RECORD], bundle.config.provenance[RECORD]["abstention"]
    return {
        "temperature": f"{bundle.config.calibration.temperature:.3f}",
        "exponent": f"{bundle.config.calibration.exponent:.3f}",
        "ece_before": f"{results['private_ece']['before']:.3f}",
        "ece_after": f"{results['private_ece']['after']:.3f}",
        "calibrated_on": f"{fitted['split']} ({fitted['n']} images)",
        "abstain_below": f"{abstention['abstain_below']:.3f}",
        "wanted": f"{100 * abstention['wanted_accuracy']:.0f}",
        "private_accuracy": f"{100 * results['private_abstention']['accuracy']:.1f}",
        "private_coverage": f"{100 * results['private_abstention']['coverage']:.1f}",
    }


def stages(provenance: dict[str, Any]) -> list[str]:
    """Name the runs that led to a bundle, the first one first."""
    recipe, init = provenance["recipe"], provenance["init"]
    run = f"{recipe['run']['epochs']} epochs by the recipe `{recipe['name']}`"
    if isinstance(init, dict):
        return [*stages(init["provenance"]), f"{run}, from its result"]
    return [f"{run}, from torchvision's ImageNet weights of MobileNetV2 (`{init}`)"]


def count_parameters(bundle: Bundle) -> int:
    """Count what the weights file holds, batch norm's statistics included."""
    from motivnet.checkpoints.files import open_weights

    return sum(tensor.numel() for tensor in open_weights(bundle.weights).tensors.values())


def worst_confusions(labels: list[str], confusion: list[list[int]]) -> str:
    """Name the three commonest mistakes, as shares of the true class."""
    shares = [
        (row[column] / sum(row), labels[true], labels[column])
        for true, row in enumerate(confusion)
        for column in range(len(labels))
        if column != true
    ]
    return "; ".join(f"{true} taken for {taken} ({100 * share:.0f} %)" for share, true, taken in sorted(shares)[:-4:-1])


if __name__ == "__main__":
    main()
