"""Turn a trained bundle into the embedded model `nano`: measure it, write its card, put it under assets/.

    python scripts/publish_nano.py runs/nano-fer2013/bundle path/to/fer2013.parquet

Every number in the card is measured by this run, through the exported ONNX file.
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

from motivnet.checkpoints.bundle import ASSETS, CARD_NAME, ONNX_NAME, WEIGHTS_NAME, Bundle, open_bundle, write_config  # noqa: E402
from motivnet.data.sources.fer2013 import read_fer2013  # noqa: E402
from motivnet.export.onnx import export_onnx  # noqa: E402
from motivnet.export.verify import verify_onnx  # noqa: E402
from motivnet.preprocess import NANO  # noqa: E402

SUMMARY = "MobileNetV2 and ML-Decoder on 96 x 96 grey faces, trained on FER-2013"
LICENCE = "research and teaching: trained on FER-2013 (images from the web), from ImageNet weights"
CARD = Path(__file__).parent / "nano_card.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    trained = open_bundle(arguments.bundle)
    # The margin around a detector's box plays no part in training, whose images are crops already.
    assert dataclasses.replace(trained.config.preprocessing, margin=NANO.margin) == NANO
    config = dataclasses.replace(trained.config, name="nano", summary=SUMMARY, licence=LICENCE, preprocessing=NANO)
    bundle = write_config(ASSETS / "nano", config)
    shutil.copyfile(trained.weights, bundle.path / WEIGHTS_NAME)
    export_onnx(bundle)
    agreement = verify_onnx(bundle)
    results = measure(bundle, read_fer2013(arguments.data))
    bundle = write_config(bundle.path, dataclasses.replace(config, scores=results["scores"]))
    write_results("nano_fer2013", results)
    (bundle.path / CARD_NAME).write_text(card(bundle, results, agreement.largest), encoding="utf-8")
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
    )


def stages(provenance: dict[str, Any]) -> list[str]:
    """Name the runs that led to a bundle, the first one first."""
    recipe, init = provenance["recipe"], provenance["init"]
    run = f"{recipe['run']['epochs']} epochs by the recipe `{recipe['name']}`"
    if isinstance(init, dict):
        return [*stages(init["provenance"]), f"{run}, from its result"]
    return [f"{run}, from torchvision's ImageNet weights of MobileNetV2 (`{init}`)"]


def count_parameters(bundle: Bundle) -> int:
    """Count what the weights file holds, batch norm's statistics included."""
    from motivnet.checkpoints.load import read_weights

    return sum(tensor.numel() for tensor in read_weights(bundle.weights).values())


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
