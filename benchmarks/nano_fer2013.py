"""Score a bundle on FER-2013: one forward pass an image through onnxruntime, no test-time augmentation.

    python benchmarks/nano_fer2013.py path/to/fer2013.parquet [--model nano]

PrivateTest is reported in whole, and without the images whose exact pixels recur in the Training split (the recipe has
taken those out of training, too).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tables import markdown_table, write_results

from motivnet.checkpoints.bundle import Bundle, open_bundle
from motivnet.data.clean import repeated_rows
from motivnet.data.manifest import Manifest
from motivnet.data.sources.fer2013 import read_fer2013
from motivnet.evaluation import metrics
from motivnet.evaluation.calibration import apply_calibration
from motivnet.evaluation.probabilities import ProbabilityScores
from motivnet.images import decode_image
from motivnet.inference.backends import OnnxBackend

BATCH_SIZE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="nano")
    arguments = parser.parse_args()
    results = measure(open_bundle(arguments.model), read_fer2013(arguments.data))
    print(markdown_table([{"measured on": name, **_percent(scores)} for name, scores in results["scores"].items()]))
    print(f"\nwritten: {write_results('nano_fer2013', results)}")


def measure(bundle: Bundle, manifest: Manifest) -> dict[str, Any]:
    """Give scores, and the confusions on PrivateTest, as plain data."""
    private = manifest.split("PrivateTest")
    fresh = ~repeated_rows(manifest, "PrivateTest", "Training")
    public_probs, private_probs = _probs(bundle, manifest.split("PublicTest")), _probs(bundle, private)
    target = private.targets
    preds, inverse = private_probs.argmax(1), bundle.config.calibration.inverse()
    num_classes = len(bundle.config.labels)
    return {
        "model": bundle.config.name,
        "preprocessing": bundle.config.preprocessing.fingerprint,
        "scores": {
            "FER-2013 PrivateTest": _scores(private_probs, target),
            "the same without images that recur in the Training split": _scores(private_probs[fresh], target[fresh]),
            "FER-2013 PublicTest (the epoch was chosen on it)": _scores(
                public_probs, manifest.split("PublicTest").targets
            ),
        },
        "labels": list(bundle.config.labels),
        "private_confusion": metrics.confusion_matrix(preds, target, num_classes).tolist(),
        "private_ece": {
            "before": round(ProbabilityScores(apply_calibration(private_probs, inverse), target).ece(), 4),
            "after": round(ProbabilityScores(private_probs, target).ece(), 4),
        },
        "private_abstention": _abstention(private_probs, target, bundle.config.abstain_below),
        "private_recall": metrics.recall_per_class(preds, target, num_classes).round(4).tolist(),
    }


def _probs(bundle: Bundle, manifest: Manifest) -> np.ndarray:
    backend, preprocessing = OnnxBackend(bundle), bundle.config.preprocessing
    faces = np.stack([preprocessing.face(decode_image(manifest.source(row))) for row in range(len(manifest))])
    batches = [faces[start : start + BATCH_SIZE] for start in range(0, len(faces), BATCH_SIZE)]
    logits = np.concatenate([backend.logits(preprocessing.normalise(batch)) for batch in batches])
    return bundle.config.calibration.probs(logits)


def _scores(probs: np.ndarray, target: np.ndarray) -> dict[str, float]:
    preds, num_classes = probs.argmax(1), probs.shape[1]
    return {
        "images": len(target),
        "war": round(metrics.war(preds, target, num_classes), 4),
        "uar": round(metrics.uar(preds, target, num_classes), 4),
        "top2": round(metrics.top_k_accuracy(probs, target, 2), 4),
        "f1_macro": round(metrics.f1_macro(preds, target, num_classes), 4),
    }


def _abstention(probs: np.ndarray, target: np.ndarray, below: float | None) -> dict[str, float] | None:
    """Give accuracy on what is answered, and its share, at the bundle's threshold."""
    if below is None:
        return None
    answered = probs.max(1) >= below
    right = probs.argmax(1) == target
    return {"accuracy": round(float(right[answered].mean()), 4), "coverage": round(float(answered.mean()), 4)}


def _percent(scores: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:g}" if name == "images" else f"{100 * value:.1f}" for name, value in scores.items()}


if __name__ == "__main__":
    main()
