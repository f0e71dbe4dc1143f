"""The rows of a video are summarised by track, and plotted."""

import numpy as np
import pytest

from motivnet.inference.rows import Row
from motivnet.video.summary import curves, summarise

LABELS = ("happiness", "sadness")


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
        assert (first.visible_s, first.first_s, first.last_s, first.frames) == (1.5, 0, 1, 2)
        assert first.share("happiness") == pytest.approx(2 / 3)
        assert (first.dominant, second.dominant) == ("happiness", "happiness")
        assert first.mean_C == pytest.approx([0.5, 0.5])
        assert second.visible_s == pytest.approx(0.5 + 4 / 3)  # the last frame lasts as long as the others on average
        # Where the emotion it is captioned with is most probable.
        assert (first.typical, second.typical) == ((0, (1.0, 2.0, 10.0, 10.0)), (1, (1.0, 2.0, 11.0, 10.0)))

    def test_tracks_visible_for_less_are_short(self):
        listed = rows(*((k / 10, {0: 0.9, 1: 0.8} if k == 4 else {0: 0.9}) for k in range(10)))
        found = summarise(listed, LABELS, 0.2)
        assert {track.name: track.short for track in found.tracks} == {"#0": False, "#1 (short)": True}
        assert not any(track.short for track in summarise(listed, LABELS).tracks)

    def test_one_frame(self):
        found = summarise(rows((2, {5: 0.9})), LABELS)
        assert found.tracks[0].visible_s > 0

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
    @pytest.fixture(autouse=True)
    def needs_plots(self):
        pytest.importorskip("matplotlib")
        pytest.importorskip("jinja2")

    @pytest.mark.parametrize("number", [0, 1, 12])
    def test_figures_of_any_number_of_tracks(self, number, tmp_path):
        from motivnet.report.video_report import MAX_TRACKS, draw_timeline, shown_tracks, write_timeline

        listed = rows(*((k / 10, {track: 0.5 + k / 50 for track in range(number) if k % 7}) for k in range(20)))
        found = summarise(listed, LABELS)
        tracks = shown_tracks(found)
        figure = draw_timeline(found, tracks, curves(listed, found, tracks, 50), "a $x_1$ film.mp4")
        write_timeline(figure, tmp_path / "t.png")
        assert len(figure.axes) == max(1, min(number, MAX_TRACKS))
        assert [text.get_text() for legend in figure.legends for text in legend.texts] == [*LABELS] * (number > 0)
        assert ("4 more tracks" in figure.axes[-1].get_xlabel()) == (number == 12)
