"""Does a model look where it matters? Hide what stands out in its map, and see what becomes of its answer.

    python benchmarks/explain_deletion.py path/to/fer2013.parquet [--model nano] [--split PrivateTest]

On faces drawn from the split, the tenth of the model's input that stands out most in the map of the predicted emotion
is hidden, and the probability of that emotion is looked at again. For comparison the same face loses

- a random tenth of the same shape: the same pixels turned by any right angle, mirrored or not, and moved anywhere (what
  leaves on one side comes in on the other); the mean of several draws;
- the tenth that stands out most in another face: where the model looks in general, not in this face;
- the tenth that stands out least.

Two maps are tested: the one that `motivnet explain` draws, and the bare attention weights on the model's tokens. Hidden
pixels get the mean of the face, or are blurred. A drop is in probability, and a difference of drops is paired: its
interval is a bootstrap of the faces. The way of making the map was chosen on PublicTest.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from tables import markdown_table, write_results

from motivnet.config import to_plain
from motivnet.data.sources.fer2013 import read_fer2013
from motivnet.evaluation.explain import Explainer, spread, token_grid
from motivnet.evaluation.resampling import bootstrap

SHARE = 0.1
BATCH_SIZE = 100
# Of the Gaussian blur, over the input's width.
BLUR = 1 / 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--split", default="PrivateTest")
    parser.add_argument("--faces", type=int, default=500)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    explainer = Explainer.load(arguments.model)
    manifest = read_fer2013(arguments.data).split(arguments.split)
    rng = np.random.default_rng(arguments.seed)
    rows = np.sort(rng.choice(len(manifest), arguments.faces, replace=False)).tolist()
    faces_BHWC = np.stack([explainer.config.preprocessing.face(manifest.read(row)[0]) for row in rows])
    measured = [
        {"map": name} | measure(explainer, faces_BHWC, heat_BHW, fill, arguments.draws, rng)
        for name, heat_BHW in maps(explainer, faces_BHWC).items()
        for fill in FILLS
    ]
    print(markdown_table(measured))
    settings = {
        "model": explainer.config.name,
        "calibration": to_plain(explainer.config.calibration),
        "split": arguments.split,
        "faces": len(rows),
        "share_hidden": SHARE,
        "random_draws": arguments.draws,
        "seed": arguments.seed,
    }
    print(f"\nwritten: {write_results('explain_deletion', settings | {'measured': measured})}")


def maps(explainer: Explainer, faces_BHWC: np.ndarray) -> dict[str, np.ndarray]:
    """Give each kind of map of the predicted emotion, drawn out over the input, (B, H, W)."""
    size = explainer.config.preprocessing.size
    drawn: dict[str, list[np.ndarray]] = {"what attention took": [], "bare attention": []}
    for start in range(0, len(faces_BHWC), BATCH_SIZE):
        found = explainer.attribute(explainer.config.preprocessing.normalise(faces_BHWC[start : start + BATCH_SIZE]))
        rows, columns = token_grid(size, found.attention.shape[2])
        for row, best in enumerate(found.probs.argmax(1)):
            drawn["what attention took"].append(spread(found.maps[row, best], size))
            drawn["bare attention"].append(spread(found.attention[row, best].reshape(rows, columns), size))
    return {name: np.stack(heats) for name, heats in drawn.items()}


def measure(
    explainer: Explainer, faces_BHWC: np.ndarray, heat_BHW: np.ndarray, fill: str, draws: int, rng: np.random.Generator
) -> dict[str, object]:
    """Compare what is lost with the tenth that stands out most, and with the others; all in probability."""
    before_BC = probs(explainer, faces_BHWC)
    preds_B, each_B = before_BC.argmax(1), np.arange(len(faces_BHWC))
    filled_BHWC = np.stack([FILLS[fill](face_HWC) for face_HWC in faces_BHWC])

    def drop(masks_BHW: np.ndarray) -> np.ndarray:
        hidden_BHWC = np.where(masks_BHW[..., None], filled_BHWC, faces_BHWC)
        return (before_BC - probs(explainer, hidden_BHWC))[each_B, preds_B]

    most_BHW = np.stack([most(heat_HW, rng) for heat_HW in heat_BHW])
    least_BHW = np.stack([most(-heat_HW, rng) for heat_HW in heat_BHW])
    most_B = drop(most_BHW)
    random_B = np.mean([drop(np.stack([elsewhere(mask, rng) for mask in most_BHW])) for _ in range(draws)], axis=0)
    other_B, least_B = drop(np.roll(most_BHW, 1, axis=0)), drop(least_BHW)
    return {
        "hidden by": fill,
        "probability before": round(float(before_BC.max(1).mean()), 4),
        "drop, most": round(float(most_B.mean()), 4),
        "drop, random": round(float(random_B.mean()), 4),
        "drop, another face's": round(float(other_B.mean()), 4),
        "drop, least": round(float(least_B.mean()), 4),
        "more than random": difference(most_B - random_B),
        "more than another face's": difference(most_B - other_B),
        "faces that lose more than at random": round(float((most_B > random_B).mean()), 3),
    }


def probs(explainer: Explainer, faces_BHWC: np.ndarray) -> np.ndarray:
    """Give probabilities, (B, C), without maps, which cost more."""
    parts, weight = [], next(explainer.model.parameters())
    for start in range(0, len(faces_BHWC), BATCH_SIZE):
        pixels_BCHW = explainer.config.preprocessing.normalise(faces_BHWC[start : start + BATCH_SIZE])
        with torch.inference_mode():
            logits_BC = explainer.model(torch.from_numpy(pixels_BCHW).to(weight.device, weight.dtype))
        parts.append(explainer.config.calibration.probs(logits_BC.float().cpu().numpy()))
    return np.concatenate(parts)


def most(heat_HW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mark the hottest tenth of the pixels, (H, W); where some are equal, chance decides."""
    order = np.lexsort((rng.random(heat_HW.size), -heat_HW.ravel()))
    marked = np.zeros(heat_HW.size, np.bool_)
    marked[order[: round(SHARE * heat_HW.size)]] = True
    return marked.reshape(heat_HW.shape)


def elsewhere(mask_HW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn, mirror and move the pixels of a square mask at random."""
    turned_HW = np.rot90(mask_HW, int(rng.integers(4)))
    mirrored_HW = turned_HW[:, ::-1] if rng.random() < 0.5 else turned_HW
    return np.roll(mirrored_HW, rng.integers(mask_HW.shape), axis=(0, 1))


def difference(paired_B: np.ndarray) -> dict[str, float]:
    """Give a mean difference and its 95 % interval."""
    found = bootstrap(lambda weights_B: {"mean": float(np.average(paired_B, weights=weights_B))}, len(paired_B))["mean"]
    return {"mean": round(float(paired_B.mean()), 4), "low": round(found.low, 4), "high": round(found.high, 4)}


def mean_fill(face_HWC: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.rint(face_HWC.mean((0, 1))).astype(np.uint8), face_HWC.shape)


def blur_fill(face_HWC: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(face_HWC, (0, 0), BLUR * face_HWC.shape[1]).reshape(face_HWC.shape)


FILLS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"the face's mean": mean_fill, "blur": blur_fill}

if __name__ == "__main__":
    main()
