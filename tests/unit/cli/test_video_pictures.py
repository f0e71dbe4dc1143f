"""What is drawn of videos: plates, notes, timelines; and what the rows are summed up to."""

import numpy as np
import pytest

from motivnet.inference.results import FaceResult
from motivnet.preprocess import Box
from motivnet.video.follow import FrameResult
from motivnet.video.overlay import draw_frame, draw_note
from motivnet.video.summary import Row, curves, summarise

LABELS = ("happiness", "sadness")


def result(*boxes: Box, size: tuple[int, int] = (240, 320)) -> FrameResult:
    probs = {"happiness": 0.75, "sadness": 0.25}
    faces = tuple(FaceResult(box, 0.9, "happiness", probs) for box in boxes)
    return FrameResult(0, 0.0, faces, tuple(range(len(boxes))), np.full((*size, 3), 100, np.uint8))


class TestDrawing:
    @pytest.mark.parametrize(
        "box",
        [
            Box(100, 100, 80, 90),
            Box(100, 2, 80, 200),
            Box(-30, -40, 60, 60),
            Box(300, 220, 60, 60),
            Box(-10, -10, 400, 300),
            Box(900, 900, 10, 10),
            Box(10.4, 20.6, 0.2, 0.2),
        ],
    )
    def test_boxes_anywhere(self, box):
        picture = draw_frame(result(box))
        assert picture.shape == (240, 320, 3)

    def test_a_face_gets_a_box_and_a_plate_with_a_bar(self):
        picture = draw_frame(result(Box(100, 100, 120, 90)))
        assert (picture[145, 100] != 100).any()
        assert (picture[145, 160] == 100).all()
        plate = picture[60:98, 100:220]
        yellow, blue = (
            np.abs(plate.astype(int) - color).sum(axis=2) < 12 for color in ((255, 210, 63), (90, 169, 255))
        )
        bar = np.nonzero(yellow.sum(axis=1) > 60)[0]
        assert yellow[bar[0]].sum() == pytest.approx(3 * blue[bar[0]].sum(), abs=4)

    @pytest.mark.parametrize("size", [(8, 8), (48, 64), (2000, 1200)])
    def test_pictures_of_any_size(self, size):
        picture = draw_frame(result(Box(2, 2, 4, 4), size=size))
        draw_note(picture, "30 fps")
        assert picture.shape == (*size, 3)

    def test_an_image_that_was_not_kept_is_our_mistake(self):
        with pytest.raises(ValueError, match="not kept"):
            draw_frame(FrameResult(0, 0.0, (), ()))


def rows(*frames: tuple[float, dict[int, float]]) -> list[Row]:
    """Give rows of frames: time, and happiness of each track."""
    listed: list[Row] = []
    for number, (time_s, faces) in enumerate(frames):
        common: Row = {"frame": number, "time_s": time_s}
        for track_id, prob in faces.items():
            face = {"x": 1.0, "y": 2.0, "width": 10.0 + number, "height": 10.0, "face_score": 0.9, "status": "ok"}
            probs = {"prob_happiness": prob, "prob_sadness": 1 - prob}
            emotion = "happiness" if prob > 0.5 else "sadness"
            listed.append(common | face | probs | {"track": track_id, "emotion": emotion})
        if not faces:
            listed.append(common | {"status": "no_face"})
    return listed


class TestSummary:
    def test_times_follow_the_frames_whatever_their_rate(self):
        found = summarise(rows((0, {0: 0.9}), (1, {0: 0.1, 1: 0.8}), (1.5, {}), (4, {1: 0.6})), LABELS)
        assert (found.frames, found.empty, found.faces, found.start_s, found.end_s) == (4, 1, 4, 0, 4)
        first, second = sorted(found.tracks, key=lambda track: track.track_id)
        assert (first.seen_s, first.first_s, first.last_s, first.frames) == (1.5, 0, 1, 2)
        assert first.share("happiness") == pytest.approx(2 / 3)
        assert (first.dominant, second.dominant) == ("happiness", "happiness")
        assert first.mean_C == pytest.approx([0.5, 0.5])
        assert second.seen_s == pytest.approx(0.5 + 4 / 3)  # the last frame lasts as long as the others on average
        assert second.best_s == 4

    def test_one_frame(self):
        found = summarise(rows((2, {5: 0.9})), LABELS)
        assert found.tracks[0].seen_s > 0

    def test_no_face_at_all(self):
        found = summarise(rows((0, {}), (1, {})), LABELS)
        assert (found.tracks, found.empty) == ([], 2)

    def test_gaps_stay_gaps(self):
        listed = rows((0, {0: 0.9}), (1, {}), (2, {0: 0.7}), (3, {0: 0.5}))
        found = summarise(listed, LABELS)
        drawn = curves(listed, found, found.tracks, 100)
        assert drawn.time_N.tolist() == [0, 1, 2, 3]
        assert drawn.probs_KNC[0, :, 0] == pytest.approx([0.9, np.nan, 0.7, 0.5], nan_ok=True)

    def test_many_frames_share_points(self):
        listed = rows(*((float(k), {0: 0.6, 1: 0.2}) for k in range(1001)))
        found = summarise(listed, LABELS)
        drawn = curves(listed, found, found.tracks[:1], 100)
        assert drawn.probs_KNC.shape == (1, 91, 2)
        assert drawn.probs_KNC[0, :, 0] == pytest.approx(0.6)


class TestTimeline:
    def test_labels_keep_their_distance(self):
        from motivnet.report.timeline import spread

        assert spread([], 0.1) == []
        assert spread([0.2, 0.8], 0.1) == [0.2, 0.8]
        for heights in ([0.5, 0.5, 0.52], [0.97, 0.98, 0.99, 1.0], [0.0] * 5):
            moved = spread(heights, 0.1)
            assert np.diff(moved).min() >= 0.1 - 1e-9
            assert moved[0] >= 0
            assert moved[-1] <= 1

    @pytest.mark.parametrize("number", [0, 1, 12])
    def test_figures_of_any_number_of_tracks(self, number, tmp_path):
        pytest.importorskip("matplotlib")
        pytest.importorskip("jinja2")
        from motivnet.report.timeline import MAX_TRACKS, draw_timeline, shown_tracks, write_timeline

        listed = rows(*((k / 10, {track: 0.5 + k / 50 for track in range(number) if k % 7}) for k in range(20)))
        found = summarise(listed, LABELS)
        tracks = shown_tracks(found)
        figure = draw_timeline(found, tracks, curves(listed, found, tracks, 50), "a $x_1$ film.mp4")
        write_timeline(figure, tmp_path / "t.png")
        assert len(figure.axes) == max(1, min(number, MAX_TRACKS))
        assert ("4 more tracks" in figure.axes[-1].get_xlabel()) == (number == 12)
