"""Offline distillation: a manifest of faces with and without labels, whose votes are what teachers see in them.

Shape suffixes: B faces, C classes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from motivnet.checkpoints.bundle import Calibration
from motivnet.config import replace
from motivnet.data.clean import fit_for_training, picture_keys, unfitted
from motivnet.data.manifest import Manifest, set_columns, write_manifest
from motivnet.data.sources.named import read_source, split_off
from motivnet.errors import ConfigError, DataError, require
from motivnet.evaluation.external_predictions import read_predictions
from motivnet.evaluation.predictions import Track, no_progress, predict_manifest
from motivnet.experiments.distillation_config import DistillationConfig
from motivnet.inference.backends import Backend, Outputs
from motivnet.inference.predictor import Predictor
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.inference.tables import check_output
from motivnet.labels import EMOTIONS
from motivnet.training.data_module import readable
from motivnet.training.losses import blend_targets

# In place of a probability of 0, of which there is no logarithm.
SMALLEST_PROB = 1e-12


@dataclasses.dataclass(frozen=True)
class Faces:
    """The faces to label.

    Args:
        manifest: labelled faces, cleaned as for training, and those without labels.
        labelled_B: which of them are labelled, bool (B,).
        keys_B: of their pictures.
        others: the other splits of the data.
    """

    manifest: Manifest
    labelled_B: np.ndarray
    keys_B: np.ndarray
    others: Manifest


class Mirrored:
    """A backend that averages the logits of each face and its mirror image; valence and arousal are the face's."""

    def __init__(self, backend: Backend) -> None:
        """Wrap a backend."""
        self._backend = backend
        self.max_batch = backend.max_batch

    def outputs(self, pixels_BCHW: np.ndarray) -> Outputs:
        """Run the model twice on normalised pixels, float32 (B, C, H, W)."""
        mirrored_BCHW = np.ascontiguousarray(pixels_BCHW[..., ::-1])
        one, other = (self._backend.outputs(pixels) for pixels in (pixels_BCHW, mirrored_BCHW))
        return Outputs((one.logits + other.logits) / 2, one.affect)


def distil(
    teachers: Sequence[str | Path],
    data: str | Manifest,
    settings: DistillationConfig | None = None,
    *,
    out: Path,
    unlabelled: Sequence[str] = (),
    config: PredictorConfig | None = None,
    overwrite: bool = False,
    track: Track = no_progress,
    say: Callable[[str], object] = print,
    **options: Any,
) -> Manifest:
    """Label faces with teachers, and write them as a manifest for a student; what `motivnet distil` does.

    `votes` of a labelled face are (1 - weight) x the blend of its label and its annotators' votes + weight x the
    softmax of the teachers' mean logits over the temperature. Those of an unlabelled face are this softmax alone, and
    its label is the most probable one. The other splits are copied. A student is trained on the file with
    `--data manifest:FILE --set loss.vote_weight=1 --set loss.label_smoothing=0`.

    No teacher labels a labelled face that it, or a model that it started from, was trained on; see `unfitted`. Files of
    predictions are taken to be of other faces than their models were trained on. Everything is checked before anything
    is predicted.

    Args:
        teachers: models as `Predictor.load` takes them; or files of predictions for the labelled faces, as
            `read_predictions` takes them.
        data: `KIND:PATH` or a manifest, with the split of `settings`.
        settings: temperature, weights and so on; None takes the defaults.
        out: the Parquet file.
        unlabelled: `KIND:PATH` of faces without labels, or with labels that are ignored. Those that cannot be read are
            left out and named, and so are copies of pictures in `data`.
        config: options of the predictors, of which device, batch size and workers have a meaning.
        overwrite: replace `out`.
        track: shows progress.
        say: receives messages.
        options: fields of `DistillationConfig`, in place of those of `settings`.

    Raises:
        CheckpointError: if there is no such teacher.
        ConfigError: if a teacher has other labels than the emotions, or there is nothing for the teachers to label.
        DataError: if a labelled face has no teacher that was not trained on it, or data cannot be read.
        OutputError: if `out` exists, or cannot be written.
    """
    settings = replace(settings or DistillationConfig(), options)
    check_output(out, overwrite=overwrite, formats=(".parquet",))
    if not teachers or not (unlabelled or settings.weight):
        raise ConfigError("nothing to distil. Allowed: at least one teacher, and --weight above 0 or --unlabelled")
    opened = {str(name): _open(str(name), config or PredictorConfig()) for name in teachers}
    if isinstance(data, str):
        source, split = split_off(data)
        data, settings = read_source(source), replace(settings, {"split": split or settings.split})
    faces = _gather(data.restrict(EMOTIONS), unlabelled, settings.split, say)
    masks = _assign(opened, faces, settings)
    sum_BC = np.zeros((len(faces.manifest), len(EMOTIONS)))
    # Files first: they are read in a moment, and may be wrong.
    for name in sorted(opened, key=lambda name: isinstance(opened[name], Predictor)):
        teacher, label_B = opened[name], masks[name]
        num_labelled = int((label_B & faces.labelled_B).sum())
        say(f"{name}: labels {num_labelled:,} labelled faces, {label_B.sum() - num_labelled:,} without labels")
        if label_B.any():
            rows = faces.manifest.select(label_B)
            sum_BC[label_B] += _log_probs(name, teacher, rows, flip=settings.flip, track=track)
    mean_BC = sum_BC / np.sum([*masks.values()], axis=0).clip(1)[:, None]
    found = _with_targets(faces, Calibration(temperature=settings.temperature).probs(mean_BC), settings)
    write_manifest(found, out)
    return found


def _open(name: str, config: PredictorConfig) -> Predictor | Path:
    """Load a model; a file of predictions is read later, when its rows are known."""
    if Path(name).suffix.lower() in (".parquet", ".csv"):
        return Path(name)
    predictor = Predictor.load(name, config, detector="whole")
    labels = predictor.config.labels
    require(labels == EMOTIONS, f"teacher {name}: its labels are {', '.join(labels)}. Allowed: {', '.join(EMOTIONS)}")
    return predictor


def _gather(data: Manifest, unlabelled: Sequence[str], split: str, say: Callable[[str], object]) -> Faces:
    """Collect and clean the faces to label."""
    data.split(split)  # raises if there is none
    pool = [readable(read_source(name), skip=True).without_labels() for name in unlabelled]
    pool = [set_columns(each.table, split=[split] * len(each)) for each in pool]
    both = dataclasses.replace(data, table=pa.concat_tables([data.table, *pool]))
    keys_B, blank_B = picture_keys(both)
    own_B = np.arange(len(both)) < len(data)
    keep_B, _ = fit_for_training(both, split, keys_B, blank_B)
    keep_B &= own_B | ~np.isin(keys_B, keys_B[own_B])
    others_B = own_B & (np.array(both.table["split"].to_pylist(), dtype=object) != split)
    left_out = [int((mask & ~keep_B & ~others_B).sum()) for mask in (own_B, ~own_B)]
    say(f"left out as blank or copies: {left_out[0]:,} labelled faces, {left_out[1]:,} without labels")
    return Faces(both.select(keep_B), own_B[keep_B], keys_B[keep_B], both.select(others_B))


def _assign(
    teachers: Mapping[str, Predictor | Path], faces: Faces, settings: DistillationConfig
) -> dict[str, np.ndarray]:
    """Mark the faces that each teacher labels, bool (B,).

    Raises:
        DataError: if a face has no teacher.
    """
    labelled_B, masks = faces.labelled_B, {}
    subjects = faces.manifest.select(labelled_B).table["subject"].to_pylist()
    for name, teacher in teachers.items():
        is_file = isinstance(teacher, Path)
        masks[name] = np.zeros_like(labelled_B) if is_file else ~labelled_B
        if settings.weight:
            masks[name][labelled_B] = is_file or unfitted(teacher.config.provenance, subjects, faces.keys_B[labelled_B])
    lacking_B = ~np.any([*masks.values()], axis=0) & (~labelled_B | (settings.weight > 0))
    if lacking_B.any():
        which = ", ".join(name for name, mask_B in masks.items() if not mask_B[lacking_B].any())
        raise DataError(
            f"{lacking_B.sum():,} of {len(lacking_B):,} faces have no teacher. Not {which}: trained on them, or files "
            "of predictions, which are of labelled faces. Allowed: teachers trained with --set split.folds=K, one "
            "without each fold, and --weight 0 to label the unlabelled faces alone"
        )
    return masks


def _log_probs(name: str, teacher: Predictor | Path, faces: Manifest, *, flip: bool, track: Track) -> np.ndarray:
    """Return logarithms of probabilities, (B, C): the logits, but for a constant of each face."""
    if isinstance(teacher, Path):
        found = read_predictions(teacher, faces)
        if found.labels != EMOTIONS or not found.has_probs:
            raise DataError(f"{name}: Allowed: a column of probabilities for each of {', '.join(EMOTIONS)}")
    else:
        backend = Mirrored(teacher.backend) if flip else teacher.backend
        uncalibrated = dataclasses.replace(teacher.config, calibration=Calibration())
        predictor = Predictor(uncalibrated, backend, teacher.detector, teacher.options)
        found = predict_manifest(predictor, faces, detect=False, data="", split=None, track=track, what=name)
    if not found.answered_B.all():
        row = int(np.argmin(found.answered_B))
        raise DataError(f"{name}: no answer for {faces.where(row)}: {found.errors.get(row, found.status[row])}")
    return np.log(found.probs_BC.clip(SMALLEST_PROB))


def _with_targets(faces: Faces, soft_BC: np.ndarray, settings: DistillationConfig) -> Manifest:
    """Write the targets into the votes, and the most probable label where there was none."""
    manifest = faces.manifest
    labels_B, votes_BC = torch.from_numpy(manifest.targets), torch.from_numpy(manifest.votes)
    people_BC = blend_targets(labels_B, votes_BC, vote_weight=settings.vote_weight, label_smoothing=0.0).numpy()
    weight_B1 = np.where(faces.labelled_B, settings.weight, 1.0)[:, None]
    target_BC = (1 - weight_B1) * people_BC + weight_B1 * soft_BC
    target_BC /= target_BC.sum(1, keepdims=True)
    best_B = np.where(faces.labelled_B, manifest.targets, soft_BC.argmax(1))
    labels = [EMOTIONS.names[place] for place in best_B]
    table = set_columns(manifest.table, label=labels, votes=target_BC.astype(np.float32).tolist())
    return dataclasses.replace(manifest, table=pa.concat_tables([table, faces.others.table]))
