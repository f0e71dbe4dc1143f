import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import motivnet
from motivnet.inference.draw import COLORS, INK, draw_faces, draw_frame
from motivnet.inference.results import FaceResult
from motivnet.labels import EMOTIONS
from motivnet.preprocess import Box


def face(box: Box, emotion: str = "happiness") -> FaceResult:
    return FaceResult(box, 0.9, emotion, {"neutral": 0.07, emotion: 0.93})


def pixels_of(image: Image.Image, color: str) -> np.ndarray:
    """Give (row, column) of the pixels of exactly this colour."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere((np.asarray(image) == wanted).all(axis=2))


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((48, 48), Box(0, 0, 48, 48)),
        ((20, 30), Box(2, 2, 10, 10)),
        ((640, 480), Box(300, 200, 80, 100)),
        ((6000, 4000), Box(10, 10, 60, 60)),
        ((640, 480), Box(-50, -50, 900, 900)),
        ((640, 480), Box(600, 440, 100, 100)),
        ((640, 480), Box(700, 500, 10, 10)),
        ((1, 700), Box(0, 0, 1, 1)),
    ],
)
def test_box_and_label_are_inside_and_large_enough_to_read(size, box):
    drawn = draw_faces(Image.new("RGB", size), [face(box)])
    assert max(drawn.size) >= 480
    found = pixels_of(drawn, COLORS["happiness"])
    assert len(found)
    if min(size) > 10:
        rows, columns = found[:, 0], found[:, 1]
        # The label is a filled rectangle: some row of it has many more pixels of the colour than a box's two sides.
        assert np.ptp(rows) + 1 >= 14
        assert np.ptp(columns) + 1 >= 60


def test_box_is_where_the_face_is():
    found = pixels_of(draw_faces(Image.new("RGB", (640, 480)), [face(Box(300, 200, 80, 100))]), COLORS["happiness"])
    assert found[:, 1].min() == pytest.approx(300, abs=2)
    assert found[:, 0].max() == pytest.approx(300, abs=2)


def test_what_the_model_abstains_from_has_a_question_mark_and_no_colour():
    certain = face(Box(300, 200, 80, 100))
    drawn = draw_faces(Image.new("RGB", (640, 480)), [dataclasses.replace(certain, abstained=True)])
    assert len(pixels_of(drawn, COLORS["happiness"])) == 0
    white = pixels_of(drawn, "#ffffff")
    box = pixels_of(draw_faces(Image.new("RGB", (640, 480)), [certain]), COLORS["happiness"])
    # The label above the box is wider by the question mark.
    assert np.ptp(white[white[:, 0] < 195, 1]) > np.ptp(box[box[:, 0] < 195, 1])


def test_labels_of_neighbours_do_not_cover_each_other():
    boxes = [Box(100, 200, 40, 40), Box(110, 200, 40, 40)]
    one = draw_faces(Image.new("RGB", (640, 480)), [face(boxes[0]), face(Box(500, 400, 40, 40), "anger")])
    both = draw_faces(Image.new("RGB", (640, 480)), [face(boxes[0]), face(boxes[1], "anger")])
    above = (slice(150, 198), slice(100, 240))
    np.testing.assert_array_equal(np.asarray(one)[above], np.asarray(both)[above])
    assert len(pixels_of(both, COLORS["anger"])) > 200


def test_every_emotion_has_its_own_colour():
    assert set(COLORS) == set(EMOTIONS)
    assert len(set(COLORS.values())) == len(COLORS)


def test_a_label_of_another_model_is_drawn_too():
    assert len(pixels_of(draw_faces(Image.new("RGB", (640, 480)), [face(Box(9, 99, 80, 80), "contempt")]), "#ffffff"))


def test_the_original_is_not_drawn_on():
    image = Image.new("RGB", (640, 480))
    draw_faces(image, [face(Box(300, 200, 80, 100))])
    assert image.getextrema() == ((0, 0),) * 3


class TestFrames:
    @staticmethod
    def draw(*boxes: Box, size: tuple[int, int] = (240, 320), note: str = "") -> np.ndarray:
        probs = {"happiness": 0.75, "sadness": 0.25}
        faces = [FaceResult(box, 0.9, "happiness", probs) for box in boxes]
        image = np.full((*size, 3), 100, np.uint8)
        drawn = draw_frame(image, faces, range(len(boxes)), note)
        assert (image == 100).all()
        return drawn

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
        assert self.draw(box).shape == (240, 320, 3)

    def test_a_face_gets_a_box_and_a_panel_with_a_bar(self):
        drawn = self.draw(Box(100, 100, 120, 90))
        assert (drawn[145, 100] != 100).any()
        assert (drawn[145, 160] == 100).all()
        panel = drawn[60:98, 100:220]
        wanted = (tuple(bytes.fromhex(COLORS[name][1:])) for name in ("happiness", "sadness"))
        yellow, blue = (np.abs(panel.astype(int) - color).sum(axis=2) < 12 for color in wanted)
        bar = np.nonzero(yellow.sum(axis=1) > 60)[0]
        assert yellow[bar[0]].sum() == pytest.approx(3 * blue[bar[0]].sum(), abs=4)

    def test_panels_of_neighbours_do_not_cover_each_other(self):
        one = self.draw(Box(100, 100, 120, 90))
        both = self.draw(Box(100, 100, 120, 90), Box(110, 100, 120, 90))
        np.testing.assert_array_equal(one[62:97], both[62:97])

    @pytest.mark.parametrize("size", [(8, 8), (48, 64), (2000, 1200)])
    def test_frames_of_any_size_with_a_note(self, size):
        drawn = self.draw(Box(2, 2, 4, 4), size=size, note="30 fps")
        assert drawn.shape == (*size, 3)
        assert (drawn[:8, :8] != 100).all()


# What the red, green and blue light of a screen becomes for people without one kind of cones: Machado, Oliveira and
# Fernandes, A physiologically-based model for simulation of color vision deficiency, 2009, severity 1.
VISION = {
    "usual": [(1, 0, 0), (0, 1, 0), (0, 0, 1)],
    "protan": [(0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)],
    "deutan": [(0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)],
    "tritan": [(1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)],
}


def light(color: str) -> np.ndarray:
    """Give the red, green and blue of a colour as light, 0 to 1."""
    values = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def brightness(color: str) -> float:
    """Give WCAG's relative luminance."""
    return float(light(color) @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("vision", VISION)
def test_colours_differ_for_everybody(vision):
    skimage_color = pytest.importorskip("skimage.color", reason="scikit-image is not installed")
    seen = {name: np.clip(np.array(VISION[vision]) @ light(color), 0, 1) for name, color in COLORS.items()}
    lab = {name: skimage_color.xyz2lab(np.array(skimage_color.colorconv.xyz_from_rgb) @ v) for name, v in seen.items()}
    pairs = itertools.combinations(lab, 2)
    assert min(np.linalg.norm(lab[one] - lab[other]) for one, other in pairs) > 14


def test_text_and_lines_in_the_colours_can_be_read():
    for color in COLORS.values():
        assert (brightness(color) + 0.05) / (brightness(INK) + 0.05) >= 4.5
        assert 1.05 / (brightness(color) + 0.05) >= 2.2


def test_several_faces_have_their_numbers():
    one = draw_faces(Image.new("RGB", (640, 480)), [face(Box(50, 200, 80, 100))])
    both = draw_faces(
        Image.new("RGB", (640, 480)), [face(Box(50, 200, 80, 100)), face(Box(400, 200, 80, 100), "anger")]
    )
    # The label is wider by the number.
    assert np.ptp(pixels_of(both, COLORS["happiness"])[:, 1]) > np.ptp(pixels_of(one, COLORS["happiness"])[:, 1]) + 10


def test_the_page_has_the_same_colours():
    code = (Path(motivnet.__file__).parent / "server" / "page" / "draw.js").read_text(encoding="utf-8")
    block = code[code.index("const COLORS = {") : code.index("};")]
    assert dict(re.findall(r'(\w+): "(#\w{6})"', block)) == COLORS
