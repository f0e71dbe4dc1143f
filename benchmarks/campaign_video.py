"""Read videos of many kinds, stop their labelling at random frames, and go on: is every frame and every byte right?

    python benchmarks/campaign_video.py [--stops 50] [--seed 0] [--out campaign_video.json]

For each kind of `video_kinds`, the numbers and times of all frames are compared with those that are known. Then a run
of `label_video`, with settings at random, is stopped at a random frame and continued, `--stops` times, and its table is
compared with that of a run which was not stopped. Where ffprobe is installed, its list of frames is compared as well,
which has the times that are repaired here as they are. The model is replaced by the mean of each face, as it plays no
part.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import video_kinds

from motivnet.errors import MotivNetError
from motivnet.frames.reader import Video
from motivnet.frames.selection import Selection
from motivnet.inference.predictor import Predictor
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.video.label import LabelledVideo, label_video
from motivnet.video.video_config import FollowConfig

# ffprobe prints microseconds.
FFPROBE_TOLERANCE_S = 2e-6
# Stops of one table.
STOPS_A_TABLE = 10


def stand_in() -> Predictor:
    """Return a predictor that takes each frame for a face, and judges it by its brightness."""
    predictor = Predictor.load("nano", PredictorConfig(detector="whole", workers=2))

    def classify(faces_HWC_u8: list[np.ndarray]) -> Iterator[tuple[list[float], tuple[None, None]]]:
        for face_HWC_u8 in faces_HWC_u8:
            share = float(face_HWC_u8.mean()) / 255
            yield [share, 1 - share, *[0.0] * (len(predictor.config.labels.names) - 2)], (None, None)

    predictor.classify = classify  # pyright: ignore[reportAttributeAccessIssue]
    return predictor


def label(predictor: Predictor, path: Path, out: Path, *, stop: int | None = None, **options: Any) -> LabelledVideo:
    """Label a video; with `stop`, Ctrl-C is pressed when so many frames are done, and the run is continued."""

    def press(step: str, done: int, total: int | None) -> None:
        if done == stop:
            raise KeyboardInterrupt

    with mock.patch.object(Predictor, "load", return_value=predictor):
        try:
            (result,) = label_video(path, out, progress=press, **options)
        except KeyboardInterrupt:
            (result,) = label_video(path, out, resume=True, **options)
    return result


def wrong_frames(kind: video_kinds.Kind, path: Path) -> int:
    """Count the frames whose number, picture or time is not as it was written, or that are missing."""
    with Video(path) as video:
        found = {frame.index: frame for frame in video}
    return sum(
        number not in found
        or video_kinds.number_of(found[number].image_hwc_u8) != number
        or abs(1000 * found[number].time_s - time_ms) > kind.tolerance_ms
        for number, time_ms in enumerate(kind.times_ms)
    ) + sum(number >= video_kinds.FRAMES for number in found)


def beside_ffprobe(path: Path) -> str:
    """Say how the frames and times of a file differ from those that ffprobe lists."""
    command = ["ffprobe", "-v", "quiet", "-select_streams", "v:0", "-of", "json"]
    command += ["-show_entries", "frame=best_effort_timestamp_time:format=start_time", str(path)]
    listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    stated = [frame.get("best_effort_timestamp_time") for frame in listed["frames"]]
    with Video(path) as video:
        found = [frame.time_s for frame in video]
    if len(found) != len(stated):
        return f"{len(found)} frames, by ffprobe {len(stated)}"
    if None in stated:
        return "no times by ffprobe"
    start_s = float(listed["format"].get("start_time", 0))
    apart_s = max(abs(mine - float(other) + start_s) for mine, other in zip(found, stated, strict=True))
    return "same" if apart_s < FFPROBE_TOLERANCE_S else f"times up to {apart_s:.3f} s apart"


def campaign(stops: int, seed: int) -> dict[str, Any]:
    """Return the counts: of kinds, frames, stops, and of what was wrong."""
    counts, wrong, predictor = Counter[str](), Counter[str](), stand_in()
    ffprobe = Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in video_kinds.KINDS:
            chance, path = random.Random(f"{seed} {kind.name}"), folder / kind.name
            kind.make(path)
            counts += Counter(kinds=1, frames=video_kinds.FRAMES, wrong_frames=wrong_frames(kind, path))
            if shutil.which("ffprobe"):
                said = beside_ffprobe(path)
                ffprobe[said if said == "same" else f"{kind.name}: {said}"] += 1
            for number in range(stops):
                if number % STOPS_A_TABLE == 0:
                    options = _options(chance)
                    whole = label(predictor, path, folder / f"{kind.name}{number}.csv", **options)
                    expected = (folder / f"{kind.name}{number}.csv").read_bytes()
                    assert whole.summary
                    frames = whole.summary.frames
                out = folder / f"{kind.name}{number}.part.csv"
                counts["stops"] += 1
                try:
                    result = label(predictor, path, out, stop=chance.randint(1, frames), **options)
                    same = out.read_bytes() == expected and result.notes == whole.notes
                except MotivNetError:
                    counts["errors"] += 1
                    same = False
                if not same:
                    counts["different_tables"] += 1
                    wrong[kind.name] += 1
    zeros = dict.fromkeys(("wrong_frames", "errors", "different_tables"), 0)
    return {"seed": seed, **zeros, **counts, "wrong": dict(wrong), "ffprobe": dict(ffprobe)}


def _options(chance: random.Random) -> dict[str, Any]:
    selection = chance.choice(
        [Selection(), Selection(fps=10), Selection(stride=2), Selection(start_s=0.3), Selection(start_s=0.2, end_s=1.0)]
    )
    follow = FollowConfig(
        checkpoint_every=chance.randint(1, 8), detect_every=chance.randint(1, 3), smooth_s=chance.choice((0, 0.2))
    )
    return {"selection": selection, "follow": follow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    counts = campaign(given.stops, given.seed)
    text = json.dumps(counts, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(bool(counts["wrong_frames"] or counts["errors"] or counts["different_tables"]))


if __name__ == "__main__":
    main()
