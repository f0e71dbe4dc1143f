"""Does a model look where it matters? Hide what it attends to most, and see what becomes of its answer.

    python benchmarks/explain_deletion.py path/to/fer2013.parquet [--model nano] [--split PrivateTest]

On faces drawn from the split, the tenth of the model's input with the most attention for the predicted emotion is
hidden, and the probability of that emotion is looked at again. For comparison the same face loses

- a random tenth of the same kind: the map with its tokens shuffled, so that the hidden parts have the same sizes and
  shapes and stand anywhere; the mean of several draws;
- the tenth that the model attended to most in another face: where it looks in general, not in this face;
- the tenth that it attended to least.

Hidden pixels get the mean of the face, or are blurred. A drop is in probability, and a difference of drops is paired:
its interval is a bootstrap of the faces.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from tables import markdown_table, write_results

from motivnet.data.sources.fer2013 import read_fer2013
from motivnet.evaluation.explain import Explainer, spread, token_grid
from motivnet.evaluation.resampling import bootstrap
from motivnet.images import decode_image

SHARE = 0.1
BATCH_SIZE = 100
# Of the Gaussian blur, over the input's width.
BLUR = 1 / 12

Fill = Callable[[np.ndarray], np.ndarray]


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
    preprocessing = explainer.config.preprocessing
    faces_BHWC = np.stack([preprocessing.face(decode_image(manifest.source(row))) for row in rows])
    measured = [measure(explainer, faces_BHWC, name, fill, arguments.draws, rng) for name, fill in FILLS.items()]
    print(markdown_table(measured))
    settings = {
        "model": explainer.config.name,
        "split": arguments.split,
        "faces": len(rows),
        "share_hidden": SHARE,
        "random_draws": arguments.draws,
        "seed": arguments.seed,
        "tokens": list(token_grid(preprocessing.size, explainer.look(pixels(explainer, faces_BHWC[:1]))[1].shape[2])),
    }
    print(f"\nwritten: {write_results('explain_deletion', settings | {'fills': measured})}")


def measure(
    explainer: Explainer, faces_BHWC: np.ndarray, name: str, fill: Fill, draws: int, rng: np.random.Generator
) -> dict[str, object]:
    """Compare what is lost with the most attended tenth, and with the others; all in probability."""
    before_BC, maps_BCN = look(explainer, faces_BHWC)
    preds_B, each_B = before_BC.argmax(1), np.arange(len(faces_BHWC))
    filled_BHWC = np.stack([fill(face) for face in faces_BHWC])
    size = explainer.config.preprocessing.size
    maps_Bij = maps_BCN[each_B, preds_B].reshape(-1, *token_grid(size, maps_BCN.shape[2]))

    def drop(shown_Bij: np.ndarray) -> np.ndarray:
        masks_BHW = np.stack([most(spread(map_ij, size), rng) for map_ij in shown_Bij])
        hidden_BHWC = np.where(masks_BHW[..., None], filled_BHWC, faces_BHWC)
        return (before_BC - look(explainer, hidden_BHWC)[0])[each_B, preds_B]

    attended_B = drop(maps_Bij)
    random_B = np.mean(
        [drop(rng.permuted(maps_Bij.reshape(len(each_B), -1), axis=1).reshape(maps_Bij.shape)) for _ in range(draws)],
        axis=0,
    )
    other_B, least_B = drop(np.roll(maps_Bij, 1, axis=0)), drop(-maps_Bij)
    return {
        "hidden by": name,
        "probability before": round(float(before_BC.max(1).mean()), 4),
        "drop, most attended": round(float(attended_B.mean()), 4),
        "drop, random": round(float(random_B.mean()), 4),
        "drop, another face's": round(float(other_B.mean()), 4),
        "drop, least attended": round(float(least_B.mean()), 4),
        "more than random": difference(attended_B - random_B),
        "more than another face's": difference(attended_B - other_B),
        "faces that lose more than at random": round(float((attended_B > random_B).mean()), 3),
    }


def look(explainer: Explainer, faces_BHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give probabilities and maps of any number of faces."""
    starts = range(0, len(faces_BHWC), BATCH_SIZE)
    parts = [explainer.look(pixels(explainer, faces_BHWC[start : start + BATCH_SIZE])) for start in starts]
    return np.concatenate([probs for probs, _ in parts]), np.concatenate([maps for _, maps in parts])


def pixels(explainer: Explainer, faces_BHWC: np.ndarray) -> np.ndarray:
    return explainer.config.preprocessing.normalise(faces_BHWC)


def most(heat_HW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mark the hottest tenth of the pixels, (H, W); where some are equal, chance decides."""
    order = np.lexsort((rng.random(heat_HW.size), -heat_HW.ravel()))
    marked = np.zeros(heat_HW.size, np.bool_)
    marked[order[: round(SHARE * heat_HW.size)]] = True
    return marked.reshape(heat_HW.shape)


def difference(paired_B: np.ndarray) -> dict[str, float]:
    """Give a mean difference and its 95 % interval."""
    found = bootstrap(lambda weights_B: {"mean": float(np.average(paired_B, weights=weights_B))}, len(paired_B))["mean"]
    return {"mean": round(float(paired_B.mean()), 4), "low": round(found.low, 4), "high": round(found.high, 4)}


def mean_fill(face_HWC: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.rint(face_HWC.mean((0, 1))).astype(np.uint8), face_HWC.shape)


def blur_fill(face_HWC: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(face_HWC, (0, 0), BLUR * face_HWC.shape[1]).reshape(face_HWC.shape)


FILLS: dict[str, Fill] = {"the face's mean": mean_fill, "blur": blur_fill}

if __name__ == "__main__":
    main()
