"""Files of many kinds: numbers, times and what is said about them; resuming, at any frame, changes nothing."""

import importlib.util
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from motivnet.frames.container import upright
from motivnet.frames.reader import Frame, Position, Video, frames_of
from motivnet.frames.selection import Selection
from motivnet.inference.predictor import Predictor
from motivnet.video.video_config import FollowConfig

av = pytest.importorskip("av")


def _load(name: str) -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up, and the second is imported by the other
    spec.loader.exec_module(module)
    return module


kinds = _load("video_kinds")
campaign = _load("campaign_video")
BY_NAME = {kind.name: kind for kind in kinds.KINDS}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory):
    """Return a function that returns the file of a kind, written when it is first asked for."""
    folder, seen = tmp_path_factory.mktemp("kinds"), {}

    def path_of(name: str) -> Path:
        if name not in seen:
            BY_NAME[name].make(folder / name)
            seen[name] = folder / name
        return seen[name]

    return path_of


def read(path: Path, selection: Selection | None = None, after: Frame | None = None) -> tuple[list[tuple], Video]:
    """Return all that is known of each frame, the picture as the number that it shows and its mean."""
    place = after and Position(after.index, after.time_s, after.corrupt, after.picture)
    with Video(path, selection, after=place) as video:
        return [_known(frame) for frame in video], video


def _known(frame: Frame) -> tuple:
    image = frame.image_hwc_u8
    return frame.index, frame.time_s, kinds.number_of(image), float(image.mean()), frame.corrupt, frame.jump


@pytest.mark.parametrize("name", BY_NAME)
def test_numbers_and_times_of_a_file_and_of_its_parts(made, name: str) -> None:
    kind, path = BY_NAME[name], made(name)
    with Video(path) as video:
        frames = list(video)
        notes = "; ".join(video.notes())
    whole = [_known(frame) for frame in frames]
    assert [known[0] for known in whole] == list(range(kinds.FRAMES))
    assert [known[2] for known in whole] == list(range(kinds.FRAMES))
    assert [1000 * known[1] for known in whole] == pytest.approx(kind.times_ms, abs=kind.tolerance_ms)
    assert np.diff([known[1] for known in whole]).min() > 0
    assert notes == "" if not kind.note else kind.note in notes
    assert (video.damage, video.corrupt) == (None, 0)
    for number in (0, 14, 15, 24, 29):
        assert read(path, after=frames[number])[0] == whole[number + 1 :]
    for number in (8, 20):
        late = read(path, Selection(start_s=frames[number].time_s))[0]
        # Whether a cut is uncertain depends on the frames before.
        assert [known[:5] for known in late] == [known[:5] for known in whole[number:]]


@pytest.mark.parametrize("name", ["joined.ts", "b-frames.avi", "late.mkv", "interlaced.ts"])
@pytest.mark.parametrize(
    ("selection", "indices"),
    [
        (Selection(fps=5), [0, 5, 10, 15, 20, 25]),
        (Selection(start_s=0.5, end_s=0.8), [13, 14, 15, 16, 17, 18, 19]),
        (Selection(stride=7, start_s=0.5), [14, 21, 28]),
    ],
)
def test_selections_follow_the_repaired_times(made, name: str, selection: Selection, indices: list[int]) -> None:
    with Video(made(name), selection) as video:
        frames = list(video)
    assert [kinds.number_of(frame.image_hwc_u8) for frame in frames] == indices
    whole = [_known(frame) for frame in frames]
    assert read(made(name), selection, after=frames[1])[0] == whole[2:]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return campaign.stand_in()


@pytest.mark.parametrize("name", ["joined.ts", "b-frames.avi", "late.mkv", "interlaced.ts", "uneven.mp4"])
def test_a_table_does_not_depend_on_where_a_run_was_stopped(made, predictor, tmp_path: Path, name: str) -> None:
    options = {"follow": FollowConfig(checkpoint_every=4, smooth_s=0.2)}
    whole = campaign.label(predictor, made(name), tmp_path / "whole.csv", **options)
    for stop in (9, 18):
        stopped = campaign.label(predictor, made(name), tmp_path / f"{stop}.csv", stop=stop, **options)
        assert stopped.notes == whole.notes
        assert (tmp_path / f"{stop}.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert len((tmp_path / "whole.csv").read_text().splitlines()) == 1 + kinds.FRAMES


def test_an_annotated_copy_of_joined_recordings_has_all_frames_in_order(made, predictor, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.mp4"
    campaign.label(predictor, made("joined.ts"), tmp_path / "rows.csv", annotate=drawn, selection=Selection(fps=5))
    with Video(drawn) as video:
        assert [frame.time_s for frame in video] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0], abs=1e-3)


def test_photographs_of_a_video_come_with_what_was_repaired(made, caplog: pytest.LogCaptureFixture) -> None:
    path = made("joined.ts")
    assert len(list(frames_of(path, every_s=0.5))) > 1
    assert caplog.messages == [f"{path}: times that start again were continued"]


def test_lines_of_two_moments_become_one_picture(tmp_path: Path) -> None:
    """A bar moves to the right by 4 pixels a field; a comb is what interlaced frames show of it."""

    def draw(number: int) -> np.ndarray:
        image_hwc_u8 = np.full((48, 64, 3), 30, np.uint8)
        for field in (0, 1):
            left = 2 + 8 * number + 4 * field
            image_hwc_u8[field::2, left : left + 12] = 220
        return image_hwc_u8

    def comb(name: str, **settings: object) -> float:
        path = kinds.write(tmp_path / name, "libx264", numbers=range(6), draw=draw, **settings)
        with Video(path) as video:
            images = [frame.image_hwc_u8.astype(float) for frame in video]
        return float(np.mean([np.abs(np.diff(image, axis=0)).mean() for image in images[1:-1]]))

    assert comb("progressive.mp4") > 20
    assert comb("interlaced.mp4", options={"x264-params": "tff=1"}) < 2


@pytest.mark.parametrize(("aspect", "shape"), [(Fraction(2), (48, 128)), (Fraction(1, 2), (96, 64))])
def test_oblong_pixels_are_made_square(tmp_path: Path, aspect: Fraction, shape: tuple[int, int]) -> None:
    path = kinds.write(tmp_path / "a.mp4", "libx264", numbers=[9], sample_aspect_ratio=aspect)
    with Video(path) as video:
        (frame,) = video
        assert video.notes() == [f"pixels of {float(aspect):g}:1 were made square"]
    assert frame.image_hwc_u8.shape[:2] == shape
    assert kinds.number_of(frame.image_hwc_u8) == 9


def test_ten_bits_are_as_bright_as_eight(tmp_path: Path) -> None:
    means = []
    for pixels in ("yuv420p", "yuv420p10le"):
        path = kinds.write(tmp_path / f"{pixels}.mkv", "libx264", numbers=[9], pix_fmt=pixels)
        with Video(path) as video:
            (frame,) = video
            assert video.notes() == []
        means.append(frame.image_hwc_u8.mean())
    assert means[1] == pytest.approx(means[0], abs=3)


# What BT.1886 makes of light of 0.6, 0.3 and 0.2 of the reference white, 203 cd/m2, and of that white, in BT.709.
# Coded by ITU-R BT.2100 with PQ, limited range of 10 bits: luma and the two differences of colour.
@pytest.mark.parametrize(
    ("coded", "rgb"),
    [((479, 490, 532), (206, 154, 130)), ((573, 512, 512), (255, 255, 255)), ((64, 512, 512), (0, 0, 0))],
)
def test_hdr_is_shown_as_bright_as_it_is_meant(coded: tuple[int, int, int], rgb: tuple[int, int, int], tables) -> None:
    frame = av.VideoFrame(64, 48, "yuv420p10le")
    for plane, value in zip(frame.planes, coded, strict=True):
        plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
    frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range = 16, 9, 9, 1
    assert upright(frame, 1.0, tables)[24, 32].tolist() == pytest.approx(rgb, abs=4)


@pytest.fixture(scope="module")
def tables():
    """Made once, as that takes seconds."""
    if not hasattr(av.VideoFrame, "color_trc"):
        pytest.skip("PyAV before 17 maps no tones")
    return av.video.reformatter.VideoReformatter()


def test_hdr_is_named(tmp_path: Path) -> None:
    hdr = {"pix_fmt": "yuv420p10le", "color_trc": 18, "color_primaries": 9, "colorspace": 9}
    with Video(kinds.write(tmp_path / "a.mkv", "libx264", numbers=[0], **hdr)) as video:
        (note,) = video.notes()
    assert note in ("HDR was tone mapped", "HDR was not tone mapped, which needs PyAV 17")
