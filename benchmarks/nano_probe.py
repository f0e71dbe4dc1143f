r"""Compare targets of the student by linear probes on a teacher's features: minutes, where training takes hours.

    python benchmarks/nano_probe.py runs/nano/teacher-faceres-1/bundle --data runs/nano/data.parquet \
        --fer2013 fer2013.parquet --faces faces/

Each target is scored by the rule of `nano.py`, with shares of the log frequency of its classes taken off the logits.
The last row bounds what these features can give on the development faces: a probe trained on themselves, by subject.
"""

from pathlib import Path

import numpy as np
import torch
from nano import PRIORS, bundle_parser, selection_sets
from sklearn.model_selection import GroupKFold
from tables import markdown_table, write_results
from torch import Tensor
from torch.nn import functional

from motivnet.checkpoints.bundle import open_bundle
from motivnet.checkpoints.load import load_bundle
from motivnet.data.loader import FaceDataset
from motivnet.data.manifest import Manifest, read_manifest
from motivnet.evaluation import metrics
from motivnet.training.losses import blend_targets

EPOCHS, BATCH, RATE, NUM_CLASSES = 8, 256, 2e-3, 7
# Share of the annotators' votes in the target; the rest is the label.
VOTES = (0.0, 0.5, 0.75, 1.0)


def main() -> None:
    arguments = bundle_parser(__doc__).parse_args()
    train = read_manifest(arguments.data).split("Training")
    sets = selection_sets(arguments.fer2013, arguments.faces / "dev.parquet")
    features_BD, *others = features(arguments.bundle, [train, *sets.values()])
    labels_B, votes_BC = torch.from_numpy(train.targets), torch.from_numpy(train.votes)
    rows = []
    for share in VOTES:
        target_BC = blend_targets(labels_B, votes_BC, vote_weight=share, label_smoothing=0.0)
        probe, log_prior_C = fit(features_BD, target_BC.float()), target_BC.mean(0).log().numpy()
        logits = [probe(tests_BD).detach().numpy() for tests_BD in others]
        rows += [
            {"share of votes": share, "prior": prior, **scores(logits, [*sets.values()], prior * log_prior_C)}
            for prior in PRIORS
        ]
    dev = [*sets.values()][-1]
    bound = by_subject(others[-1], dev)
    print(markdown_table(rows), "\nprobe of the development faces on themselves:", bound)
    print(f"written: {write_results('nano_probe', {'targets': rows, 'development faces on themselves': bound})}")


def features(folder: Path, manifests: list[Manifest]) -> list[Tensor]:
    """Return the standardised mean tokens of each manifest's faces, by the first one's statistics: float32 (B, D)."""
    bundle = open_bundle(folder)
    model = load_bundle(bundle).float().eval()
    found = []
    for manifest in manifests:
        faces = FaceDataset(manifest, bundle.config.preprocessing)
        with torch.inference_mode():
            batches = [
                model.forward_features(faces.__getitems__([*places]).pixels).mean(1)
                for places in np.array_split(np.arange(len(manifest)), len(manifest) // 128 + 1)
            ]
        found.append(torch.cat(batches))
    mean_D, std_D = found[0].mean(0), found[0].std(0) + 1e-3
    return [((one - mean_D) / std_D).clone() for one in found]


def fit(features_BD: Tensor, target_BC: Tensor) -> torch.nn.Linear:
    """Train a linear probe."""
    torch.manual_seed(0)
    probe = torch.nn.Linear(features_BD.shape[1], NUM_CLASSES)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=1.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / EPOCHS, total_iters=EPOCHS - 1)
    for _ in range(EPOCHS):
        for places_B in torch.randperm(len(features_BD)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(probe(features_BD[places_B]), target_BC[places_B]).backward()
            optimizer.step()
        schedule.step()
    return probe


def scores(logits: list[np.ndarray], manifests: list[Manifest], shift_C: np.ndarray) -> dict[str, float]:
    """Return WAR and UAR of each set and their mean, in %."""
    found: dict[str, float] = {}
    for place, (logits_BC, manifest) in enumerate(zip(logits, manifests, strict=True)):
        preds_B = (logits_BC - shift_C).argmax(1)
        name = ("PublicTest", "development")[place]
        found[f"{name}: WAR"] = round(100 * metrics.war(preds_B, manifest.targets, NUM_CLASSES), 2)
        found[f"{name}: UAR"] = round(100 * metrics.uar(preds_B, manifest.targets, NUM_CLASSES), 2)
    return {**found, "mean": round(float(np.mean([*found.values()])), 2)}


def by_subject(features_BD: Tensor, manifest: Manifest) -> dict[str, float]:
    """Score a probe of a set on itself, in five folds of its subjects."""
    target_BC = functional.one_hot(torch.from_numpy(manifest.targets), NUM_CLASSES).float()
    preds_B = np.empty(len(manifest), int)
    for train, test in GroupKFold(5).split(features_BD, groups=manifest.table["subject"].to_pylist()):
        probe = fit(features_BD[train], target_BC[train])
        log_prior_C = target_BC[train].mean(0).log()
        preds_B[test] = (probe(features_BD[test]) - 0.5 * log_prior_C).argmax(1).numpy()
    recalls_C = [float((preds_B[manifest.targets == place] == place).mean()) for place in range(NUM_CLASSES)]
    war, uar = metrics.war(preds_B, manifest.targets, NUM_CLASSES), float(np.mean(recalls_C))
    return {"WAR": round(100 * war, 2), "UAR": round(100 * uar, 2)} | {
        name: round(100 * recall, 1) for name, recall in zip(manifest.labels.names, recalls_C, strict=True)
    }


if __name__ == "__main__":
    main()
