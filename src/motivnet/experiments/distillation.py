"""Offline distillation: a manifest of faces with and without labels, whose votes are what teachers see in them.

Shape suffixes: B faces, C classes, T teachers.
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
from motivnet.data.clean import fit_for_training, picture_keys, share_pictures
from motivnet.data.manifest import SCHEMA, Manifest, write_manifest
from motivnet.data.sampling import fold_of
from motivnet.data.sources.named import read_source
from motivnet.errors import ConfigError, DataError, ImageError
from motivnet.evaluation.external_predictions import read_predictions
from motivnet.evaluation.predictions import Predictions, Track, no_progress, predict_manifest
from motivnet.experiments.distillation_config import DistillationConfig
from motivnet.images import decode_image
from motivnet.inference.backends import Backend, Outputs
from motivnet.inference.predictor import Predictor
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.inference.tables import check_output
from motivnet.labels import EMOTIONS
from motivnet.training.losses import blend_targets

# In place of a probability of 0, of which there is no logarithm.
SMALLEST_PROB = 1e-12
NUM_REASONS = 3
ANSWERS = (".parquet", ".csv")


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
    """A backend that averages the logits of each face and its mirror image."""

    def __init__(self, backend: Backend) -> None:
        """Wrap a backend."""
        self._backend = backend
        self.max_batch = backend.max_batch

    def outputs(self, pixels_BCHW: np.ndarray) -> Outputs:
        """Run the model twice on normalised pixels, float32 (B, C, H, W)."""
        mirrored_BCHW = np.ascontiguousarray(pixels_BCHW[..., ::-1])
        both = [self._backend.outputs(pixels).logits for pixels in (pixels_BCHW, mirrored_BCHW)]
        return Outputs((both[0] + both[1]) / 2, None)


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
    names = [str(name) for name in teachers]
    opened = [_open(name, config or PredictorConfig()) for name in names]
    data = read_source(data) if isinstance(data, str) else data
    faces = _gather(data.restrict(EMOTIONS), unlabelled, settings.split, track, say)
    label_TB = np.array([_may_label(teacher, faces, settings) for teacher in opened])
    _check_all_labelled(names, label_TB, faces, settings)
    labelled = faces.manifest.select(faces.labelled_B)
    # Files first: they are read in a moment, and may be wrong.
    order = sorted(range(len(names)), key=lambda place: isinstance(opened[place], Predictor))
    sum_BC = np.zeros((len(faces.manifest), len(EMOTIONS)))
    for place in order:
        name, teacher, label_B = names[place], opened[place], label_TB[place]
        known = int(label_B[faces.labelled_B].sum())
        say(f"{name}: labels {known:,} of {len(labelled):,} labelled faces, {label_B.sum() - known:,} others")
        if not label_B.any():
            continue
        if isinstance(teacher, Path):
            answers = read_predictions(teacher, labelled)
        else:
            answers = _predict(teacher, faces.manifest.select(label_B), flip=settings.flip, track=track, what=name)
        sum_BC[label_B] += _log_probs(name, answers)
    mean_BC = sum_BC / label_TB.sum(0).clip(1)[:, None]
    found = _with_targets(faces, Calibration(temperature=settings.temperature).probs(mean_BC), settings)
    write_manifest(found, out)
    return found


def unfitted(provenance: Any, subjects: Sequence[str | None], keys: np.ndarray) -> np.ndarray:
    """Mark the rows whose labels neither a model nor those that it started from were trained on.

    These are the rows of the fold that its training left out, or all, if its training set was another one: it had none
    of the pictures by which its provenance describes the set (`some_pictures`). A model whose provenance is not of
    `motivnet train` is taken to be trained elsewhere.

    Args:
        provenance: of a bundle.
        subjects: person shown in each row, or None.
        keys: of each row's picture.

    Returns:
        bool (B,).
    """
    rows = np.ones(len(keys), np.bool_)
    while isinstance(provenance, Mapping):
        # Pre-training, which uses no labels, has no split.
        split, report = provenance.get("recipe", {}).get("split"), provenance.get("training_rows", {})
        if split and ("pictures" not in report or share_pictures(report["pictures"], keys)):
            folds = split.get("folds", 1)
            rows &= (fold_of(subjects, keys.tolist(), folds) == split["fold"]) if folds > 1 else False
        init = provenance.get("init")
        provenance = init.get("provenance") if isinstance(init, Mapping) else None
    return rows


def _open(name: str, config: PredictorConfig) -> Predictor | Path:
    """Load a model, or check that a file of predictions exists."""
    if Path(name).suffix.lower() in ANSWERS:
        if not Path(name).is_file():
            raise DataError(f"{name}: no such file of predictions")
        return Path(name)
    predictor = Predictor.load(name, config, detector="whole")
    _check_labels(name, predictor.config.labels.names)
    return predictor


def _check_labels(name: str, labels: Sequence[str]) -> None:
    if tuple(labels) != EMOTIONS.names:
        raise ConfigError(f"teacher {name}: its labels are {', '.join(labels)}. Allowed: {', '.join(EMOTIONS)}")


def _gather(data: Manifest, unlabelled: Sequence[str], split: str, track: Track, say: Callable[[str], object]) -> Faces:
    """Collect and clean the faces to label."""
    data.split(split)  # raises if there is none
    pool = [_read_unlabelled(name, split, track, say) for name in unlabelled]
    both = dataclasses.replace(data, table=pa.concat_tables([data.table, *pool]))
    keys_B, blank_B = picture_keys(both)
    own_B = np.arange(len(both)) < len(data)
    keep_B, _ = fit_for_training(both, split, keys_B, blank_B)
    keep_B &= own_B | ~np.isin(keys_B, keys_B[own_B])
    others_B = own_B & (np.array(both.table["split"].to_pylist(), dtype=object) != split)
    left_out = [int((mask & ~keep_B & ~others_B).sum()) for mask in (own_B, ~own_B)]
    say(f"left out as blank or copies: {left_out[0]:,} labelled faces, {left_out[1]:,} without labels")
    return Faces(both.select(keep_B), own_B[keep_B], keys_B[keep_B], both.select(others_B))


def _read_unlabelled(name: str, split: str, track: Track, say: Callable[[str], object]) -> pa.Table:
    """Read faces without their labels, and leave out those that cannot be decoded."""
    found, errors = read_source(name), {}
    for row in track(range(len(found)), total=len(found), what=name):
        try:
            decode_image(found.source(row))
        except ImageError as error:
            errors[row] = f"{found.where(row)}: {error}"
    if errors:
        named = "; ".join([*errors.values()][:NUM_REASONS])
        say(f"{name}: {len(errors):,} of {len(found):,} faces cannot be read and are left out: {named}")
    table = found.select(~np.isin(np.arange(len(found)), [*errors])).table
    count = len(table)
    nothing = {name: [None] * count for name in ("valence", "arousal", "votes")}
    return _replace(table, label=[EMOTIONS.names[0]] * count, split=[split] * count, **nothing)


def _may_label(teacher: Predictor | Path, faces: Faces, settings: DistillationConfig) -> np.ndarray:
    """Mark the faces that a teacher labels, bool (B,)."""
    wanted_B = faces.labelled_B & (settings.weight > 0)
    if isinstance(teacher, Path):
        return wanted_B
    subjects = faces.manifest.table["subject"].to_pylist()
    labelled = np.flatnonzero(faces.labelled_B)
    wanted_B[labelled] &= unfitted(
        teacher.config.provenance, [subjects[row] for row in labelled], faces.keys_B[labelled]
    )
    return wanted_B | ~faces.labelled_B


def _check_all_labelled(names: list[str], label_TB: np.ndarray, faces: Faces, settings: DistillationConfig) -> None:
    """Refuse faces that no teacher may label; DataError."""
    lacking_B = ~label_TB.any(0)
    if (lacking_B & ~faces.labelled_B).any():
        raise DataError("files of predictions are of labelled faces. Allowed for --unlabelled: a model as a teacher")
    if settings.weight and lacking_B.any():
        trained = ", ".join(
            name for name, label_B in zip(names, label_TB, strict=True) if not label_B[faces.labelled_B].all()
        )
        raise DataError(
            f"{lacking_B.sum():,} of {faces.labelled_B.sum():,} labelled faces have no teacher that was not trained on "
            f"them; {trained}: trained on these rows. Allowed: teachers trained with --set split.folds=K, one without "
            "each fold, or --weight 0 to label the unlabelled faces alone"
        )


def _predict(teacher: Predictor, faces: Manifest, *, flip: bool, track: Track, what: str) -> Predictions:
    backend = Mirrored(teacher.backend) if flip else teacher.backend
    uncalibrated = dataclasses.replace(teacher.config, calibration=Calibration())
    predictor = Predictor(uncalibrated, backend, teacher.detector, teacher.options)
    return predict_manifest(predictor, faces, detect=False, data="", split=None, track=track, what=what)


def _log_probs(name: str, answers: Predictions) -> np.ndarray:
    """Return logarithms of probabilities, (B, C): the logits, but for a constant of each face."""
    _check_labels(name, answers.labels.names)
    if not answers.has_probs:
        raise DataError(f"{name}: has no probabilities. Allowed: a column of probabilities per label")
    if not answers.answered_B.all():
        row = int(np.argmin(answers.answered_B))
        where, error = answers.manifest.where(row), answers.errors.get(row, answers.status[row])
        raise DataError(f"{name}: no answer for {where}: {error}")
    return np.log(answers.probs_BC.clip(SMALLEST_PROB))


def _with_targets(faces: Faces, soft_BC: np.ndarray, settings: DistillationConfig) -> Manifest:
    """Write the targets into the votes, and the most probable label where there was none."""
    manifest = faces.manifest
    labels_B, votes_BC = torch.from_numpy(manifest.targets), torch.from_numpy(manifest.votes)
    people_BC = blend_targets(labels_B, votes_BC, vote_weight=settings.vote_weight, label_smoothing=0.0).numpy()
    weight_B1 = np.where(faces.labelled_B, settings.weight, 1.0)[:, None]
    target_BC = (1 - weight_B1) * people_BC + weight_B1 * soft_BC
    target_BC /= target_BC.sum(1, keepdims=True)
    best = [EMOTIONS.names[place] for place in soft_BC.argmax(1)]
    known = zip(faces.labelled_B, manifest.table["label"].to_pylist(), best, strict=True)
    labels = [own if labelled else seen for labelled, own, seen in known]
    table = _replace(manifest.table, label=labels, votes=target_BC.astype(np.float32).tolist())
    return dataclasses.replace(manifest, table=pa.concat_tables([table, faces.others.table]))


def _replace(table: pa.Table, **columns: list[Any]) -> pa.Table:
    for name, values in columns.items():
        field = SCHEMA.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table
