"""Cuts end tracks; flashes, fades and movement do not."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motivnet.frames.cuts import CUT, SAME, UNCERTAIN
from motivnet.frames.reader import Frame, Position, Video
from motivnet.frames.selection import Selection
from motivnet.inference.predictor import Predictor
from motivnet.video.follow import FrameResult, follow
from motivnet.video.video_config import FollowConfig

av = pytest.importorskip("av")

HEIGHT, WIDTH, FPS = 120, 160, 25


@pytest.fixture(scope="module")
def shots(astronaut: np.ndarray, grace_hopper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures with a face at the same place, before different backgrounds."""
    first, second = (
        np.asarray(Image.fromarray(face).resize((WIDTH, HEIGHT)))
        for face in (astronaut[0:300, 25:425], grace_hopper[20:320, 50:450])
    )
    return first, second


def draw(path: Path, images: Sequence[np.ndarray]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.gop_size = 10
        for position, image in enumerate(images):
            pixels = np.clip(image, 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = position, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read(path: Path, selection: Selection | None = None, after: Position | None = None) -> list[Frame]:
    with Video(path, selection, after=after) as video:
        return list(video)


def cuts(path: Path, selection: Selection | None = None) -> list[int]:
    return [frame.index for frame in read(path, selection) if frame.jump == CUT]


def followed(path: Path, bundle, selection: Selection | None = None, **config: int) -> list[FrameResult]:
    with Video(path, selection) as video:
        return list(follow(Predictor.load(bundle.path, long_side=WIDTH), video, FollowConfig(**config)))


@pytest.fixture
def cut(shots, tmp_path: Path) -> Path:
    """Ten frames of each shot."""
    return draw(tmp_path / "cut.mp4", [shots[0]] * 10 + [shots[1]] * 10)


@pytest.mark.parametrize("every", [1, 4, 40])
def test_a_cut_ends_tracks_and_forces_a_search(cut: Path, tiny_bundle, every: int) -> None:
    results = followed(cut, tiny_bundle, detect_every=every)
    assert [result.tracks for result in results] == [(0,)] * 10 + [(1,)] * 10
    boxes = [result.faces[0].box for result in results]
    # The faces are at the same place, and yet none is read in the box of the other.
    assert len({box.width for box in boxes[:10]} & {box.width for box in boxes[10:]}) == 0


@pytest.mark.parametrize("selection", [Selection(fps=3), Selection(stride=6), Selection(start_s=0.2), Selection(fps=2)])
def test_a_cut_between_selected_frames_is_found(cut: Path, tiny_bundle, selection: Selection) -> None:
    results = followed(cut, tiny_bundle, selection)
    assert [result.tracks for result in results] == [(int(result.frame.index >= 10),) for result in results]
    assert len({result.tracks for result in results}) == 2


def test_a_picture_of_one_frame_is_two_cuts(shots, tmp_path: Path) -> None:
    path = draw(tmp_path / "a.mp4", [shots[0]] * 5 + [shots[1]] + [shots[0]] * 5)
    assert cuts(path) == [5, 6]


def test_flashes_are_no_cuts(shots, tiny_bundle, tmp_path: Path) -> None:
    shot = shots[0].astype(float)
    flashes = [shot * 1.8 + 40, shot * 3 + 60, np.full_like(shot, 255)]
    images = [image for flash in flashes for image in (*[shot] * 5, flash, *[shot] * 4)]
    path = draw(tmp_path / "a.mp4", images)
    assert cuts(path) == []
    tracks = [result.tracks for result in followed(path, tiny_bundle, detect_every=3)]
    assert {track for found in tracks for track in found} == {0}
    # In a blank picture there is no face, and the next one is searched.
    assert tracks[25:27] == [(), (0,)]


def test_a_fade_through_black_is_a_cut_where_the_next_shot_appears(shots, tmp_path: Path) -> None:
    fade = np.linspace(1, 0, 12)
    out, back, other = ([shot * share for share in fade] for shot in (shots[0], shots[0], shots[1]))
    assert cuts(draw(tmp_path / "same.mp4", [*out, *back[::-1]])) == []
    (found,) = cuts(draw(tmp_path / "other.mp4", [*out, *other[::-1]]))
    assert 12 < found < 16


def test_camera_movement_is_no_cut(astronaut: np.ndarray, tmp_path: Path) -> None:
    pan = [astronaut[100:220, 8 * number : 8 * number + WIDTH] for number in range(40)]
    zoom = [
        np.asarray(Image.fromarray(astronaut[s : 512 - s, s : 512 - s]).resize((WIDTH, HEIGHT)))
        for s in range(0, 200, 8)
    ]
    assert cuts(draw(tmp_path / "pan.mp4", pan)) == []
    assert cuts(draw(tmp_path / "zoom.mp4", zoom)) == []


def test_reading_resumes_with_the_same_jumps(shots, tmp_path: Path) -> None:
    black = np.zeros_like(shots[0])
    path = draw(tmp_path / "a.mp4", [shots[0]] * 8 + [black] * 3 + [shots[1]] * 8 + [black] + [shots[1]] * 4)
    frames = read(path)
    jumps = [frame.jump for frame in frames]
    assert jumps[8:12] == [UNCERTAIN, UNCERTAIN, UNCERTAIN, CUT]
    assert jumps[19:21] == [UNCERTAIN, UNCERTAIN]
    assert jumps[21:] == [SAME] * 3
    for frame in frames[6:-1]:
        again = read(path, after=Position(frame.index, frame.time_s, picture=frame.picture))
        assert [each.jump for each in again] == jumps[frame.index + 1 :]
