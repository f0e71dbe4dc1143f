"""Score a bundle: one forward pass an image through onnxruntime, no test-time augmentation, in each of its precisions.

    python benchmarks/nano_scores.py --fer2013 fer2013.parquet --faces faces/ [--model nano]

`faces/dev.parquet` holds the development faces, see `nano.py`. "Majority" is the emotion that more than half of the
FERPlus annotators' votes for one of the seven agree on.
"""

import argparse
from pathlib import Path
from typing import Any

from nano import development_faces
from tables import markdown_table, write_results

from motivnet.checkpoints.bundle import ONNX_NAMES, Bundle, open_bundle
from motivnet.data.clean import leave_out_repeated
from motivnet.data.manifest import Manifest
from motivnet.data.sources.fer2013 import read_fer2013
from motivnet.evaluation import metrics
from motivnet.evaluation.evaluate import score
from motivnet.evaluation.predictions import Predictions, predict_manifest
from motivnet.evaluation.probabilities import ProbabilityScores
from motivnet.faces import load_detector
from motivnet.inference.backends import OnnxBackend
from motivnet.inference.predictor import Predictor

# The headline, on which nothing was chosen; and the sets that chose the model.
PRIVATE = "FER-2013 PrivateTest, FERPlus majority"
PUBLIC = "FER-2013 PublicTest, FERPlus majority (chosen on)"
DEV = "development faces (chosen on)"
OWN = "FER-2013 PrivateTest, its own labels"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fer2013", type=Path, required=True)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    arguments = parser.parse_args()
    results = measure(open_bundle(arguments.model), scored_sets(arguments.fer2013, arguments.faces))
    for precision, scores in results["scores"].items():
        print(f"{precision}\n{markdown_table([{'measured on': name, **percent(row)} for name, row in scores.items()])}")
    print(f"written: {write_results('nano_scores', results)}")


def scored_sets(fer2013: Path, faces: Path) -> dict[str, Manifest]:
    """Return what is scored, by the names that tables show."""
    own, majority = read_fer2013(fer2013), read_fer2013(fer2013, labels="majority")
    return {
        PRIVATE: majority.split("PrivateTest"),
        DEV: development_faces(faces / "dev.parquet"),
        OWN: own.split("PrivateTest"),
        "the same without images that recur in the Training split": leave_out_repeated(own, "PrivateTest", "Training"),
        PUBLIC: majority.split("PublicTest"),
    }


def measure(bundle: Bundle, sets: dict[str, Manifest]) -> dict[str, Any]:
    """Give scores by precision and set; and confusions, recalls, abstention and robustness in float32."""
    found = {
        precision: {name: predict(bundle, manifest, name, precision) for name, manifest in sets.items()}
        for precision, file in ONNX_NAMES.items()
        if (bundle.path / file).exists()
    }
    whole = found["fp32"]
    return {
        "model": bundle.config.name,
        "preprocessing": bundle.config.preprocessing.fingerprint,
        "scores": {
            precision: {name: scores(one) for name, one in predictions.items()}
            for precision, predictions in found.items()
        },
        "labels": list(bundle.config.labels),
        **{f"{key}_confusion": confusion(whole[name]) for key, name in (("private", PRIVATE), ("dev", DEV))},
        **{f"{key}_recall": recalls(whole[name]) for key, name in (("private", PRIVATE), ("dev", DEV))},
        "robustness": {name: score(whole[name], intervals=False).robustness for name in (PUBLIC, DEV)},
        "abstention": {name: abstention(whole[name], bundle.config.abstain_below) for name in (PRIVATE, DEV)},
    }


def predict(bundle: Bundle, manifest: Manifest, name: str, precision: str) -> Predictions:
    """Predict the rows of a set, whose faces are known."""
    backend = OnnxBackend(bundle, path=bundle.path / ONNX_NAMES[precision])
    predictor = Predictor(bundle.config, backend, load_detector("whole"))
    degrade = precision == "fp32" and name in (PUBLIC, DEV)
    return predict_manifest(predictor, manifest, detect=False, data=name, split=None, degrade=degrade)


def scores(found: Predictions) -> dict[str, float]:
    """Give the metrics of a set."""
    preds, target, probs = found.preds_B, found.target_B, found.probs_BC
    num_classes = probs.shape[1]
    return {
        "images": len(target),
        "war": metrics.war(preds, target, num_classes),
        "uar": metrics.uar(preds, target, num_classes),
        "f1_macro": metrics.f1_macro(preds, target, num_classes),
        "ece": ProbabilityScores(probs, target).ece(),
    }


def confusion(found: Predictions) -> list[list[int]]:
    """Give the confusion matrix, rows by true class."""
    return metrics.confusion_matrix(found.preds_B, found.target_B, found.probs_BC.shape[1]).tolist()


def recalls(found: Predictions) -> list[float]:
    """Give the recall of each class."""
    return metrics.recall_per_class(found.preds_B, found.target_B, found.probs_BC.shape[1]).tolist()


def abstention(found: Predictions, below: float | None) -> dict[str, float] | None:
    """Give the accuracy on what is answered, and its share, at the bundle's threshold."""
    if below is None:
        return None
    answered = found.probs_BC.max(1) >= below
    correct = found.preds_B == found.target_B
    return {"accuracy": float(correct[answered].mean()), "coverage": float(answered.mean())}


def percent(row: dict[str, float]) -> dict[str, str]:
    """Format the metrics of a set for a table."""
    return {name: f"{value:g}" if name == "images" else f"{100 * value:.1f}" for name, value in row.items()}


if __name__ == "__main__":
    main()
