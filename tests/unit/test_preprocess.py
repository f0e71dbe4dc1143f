import dataclasses
import json
import math
import subprocess
import sys

import cv2
import numpy as np
import pytest

from motivnet import config, preprocess
from motivnet.errors import ConfigError
from motivnet.preprocess import (
    MOTIVNET_PAD,
    MOTIVNET_STRETCH,
    NANO,
    PREPROCESSINGS,
    TEMPLATE,
    Box,
    Preprocessing,
    crop,
)

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (50, 70, 3), dtype=np.uint8)


def square(side=24, **changes):
    settings = {
        "geometry": "square",
        "size": (side, side),
        "channels": "rgb",
        "filter": "bilinear",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
    }
    return Preprocessing(**(settings | changes))


# One of each geometry, small enough to run often.
SMALL = [
    square(24, margin=0.2),
    dataclasses.replace(NANO, size=(32, 32)),
    dataclasses.replace(MOTIVNET_STRETCH, size=(40, 32)),
    dataclasses.replace(MOTIVNET_PAD, size=(40, 32)),
]


def cut_slowly(image, box, fill):
    """What `crop` should give, one pixel after the other."""
    height, width = image.shape[:2]
    left, top = round(box.x), round(box.y)
    right, bottom = max(left + 1, round(box.x + box.width)), max(top + 1, round(box.y + box.height))
    rows = []
    for y in range(top, bottom):
        for x in range(left, right):
            inside = 0 <= y < height and 0 <= x < width
            nearest = image[min(max(y, 0), height - 1), min(max(x, 0), width - 1)]
            rows.append(nearest if inside or fill is None else np.full_like(nearest, fill))
    return np.stack(rows).reshape(bottom - top, right - left, image.shape[2])


# Cropping


PLACES = {
    "inside": Box(10, 20, 30, 15),
    "the whole image": Box(0, 0, 70, 50),
    "fractions": Box(10.4, 19.6, 30.3, 15.2),
    "over the left edge": Box(-5, 10, 20, 20),
    "over the upper edge": Box(10, -7, 20, 20),
    "over the right edge": Box(60, 10, 20, 20),
    "over the lower edge": Box(10, 40, 20, 20),
    "over a corner": Box(55, 35, 30, 30),
    "around the image": Box(-10, -20, 100, 100),
    "wholly above": Box(10, -40, 20, 20),
    "wholly below": Box(10, 70, 20, 20),
    "wholly left": Box(-50, 10, 20, 20),
    "wholly right": Box(90, 10, 20, 20),
    "wholly beyond the upper left": Box(-50, -40, 20, 20),
    "wholly beyond the lower right": Box(100, 90, 20, 20),
    "wholly above and far wider": Box(-100, -40, 300, 20),
    "touching from above": Box(10, -20, 20, 20),
    "touching from the right": Box(70, 10, 20, 20),
    "smaller than a pixel": Box(10.2, 10.2, 0.1, 0.1),
    "no size": Box(69, 49, 0, 0),
}


@pytest.mark.parametrize("fill", [None, 0, 255])
@pytest.mark.parametrize("place", PLACES)
def test_crop_is_exact_wherever_the_box_is(place, fill):
    box = PLACES[place]
    np.testing.assert_array_equal(crop(IMAGE, box, fill), cut_slowly(IMAGE, box, fill))


def test_crop_of_random_boxes():
    rng = np.random.default_rng(1)
    for _ in range(100):
        x, y = rng.uniform(-40, 90, 2)
        box = Box(x, y, *rng.uniform(0, 40, 2))
        fill = None if rng.random() < 0.5 else int(rng.integers(0, 256))
        np.testing.assert_array_equal(crop(IMAGE, box, fill), cut_slowly(IMAGE, box, fill), err_msg=f"{box} {fill}")


def test_crop_takes_images_of_any_number_of_channels():
    grey = IMAGE[:, :, :1]
    for place in ("inside", "over a corner", "wholly above"):
        np.testing.assert_array_equal(crop(grey, PLACES[place], None), cut_slowly(grey, PLACES[place], None))


# Stretch and pad: MotivNet's own


@pytest.mark.parametrize("shape", [(480, 640), (700, 500), (768, 768), (1024, 768), (2000, 1500), (1, 1)])
def test_pad_is_a_square_of_768_with_128_white_rows_on_both_sides(shape):
    image = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    face = MOTIVNET_PAD.face(image)
    assert face.shape == (1024, 768, 3)
    assert face.dtype == np.uint8
    assert (face[:128] == 255).all()
    assert (face[896:] == 255).all()
    expected = cv2.resize(image, (768, 768), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(face[128:896], expected)


@pytest.mark.parametrize("shape", [(480, 640), (700, 500), (1024, 768), (2000, 1500), (1, 1)])
def test_stretch_fills_the_whole_input(shape):
    image = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = cv2.resize(image, (768, 1024), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(MOTIVNET_STRETCH.face(image), expected)


def test_pad_of_a_wide_input_pads_the_sides_and_odd_rests_go_to_the_end():
    wide = dataclasses.replace(MOTIVNET_PAD, size=(10, 15), fill=7)
    face = wide.face(np.full((4, 4, 3), 200, np.uint8))
    assert (face[:, :2] == 7).all()
    assert (face[:, 2:12] == 200).all()
    assert (face[:, 12:] == 7).all()


def test_pad_without_fill_repeats_the_edge():
    edge = dataclasses.replace(MOTIVNET_PAD, size=(14, 10), fill=None)
    image = RNG.integers(0, 256, (10, 10, 3), dtype=np.uint8)
    face = edge.face(image)
    np.testing.assert_array_equal(face[2:12], image)
    np.testing.assert_array_equal(face[:2], np.repeat(image[:1], 2, axis=0))
    np.testing.assert_array_equal(face[12:], np.repeat(image[-1:], 2, axis=0))


@pytest.mark.parametrize("preprocessing", [MOTIVNET_STRETCH, MOTIVNET_PAD])
def test_stretch_and_pad_take_the_box_as_it_is(preprocessing):
    box = Box(10, 5, 40, 20)
    np.testing.assert_array_equal(preprocessing.face(IMAGE, box), preprocessing.face(IMAGE[5:25, 10:50]))
    margin = dataclasses.replace(preprocessing, margin=0.5)
    np.testing.assert_array_equal(margin.face(IMAGE, box), preprocessing.face(IMAGE, box))


# Square


@pytest.mark.parametrize(
    ("box", "margin", "side", "left", "top"),
    [
        (Box(20, 10, 24, 24), 0.0, 24, 20, 10),
        (Box(20, 10, 20, 24), 0.0, 24, 18, 10),  # squared about its centre
        (Box(20, 10, 24, 20), 0.0, 24, 20, 8),
        (Box(26, 16, 16, 12), 0.25, 24, 22, 10),  # 16 + 2 * 0.25 * 16
        (Box(30, 16, 8, 4), 1.0, 24, 22, 6),
        (Box(-4, -4, 12, 12), 0.5, 24, -10, -10),
        (Box(64, 44, 12, 12), 0.5, 24, 58, 38),
        (Box(100, 100, 12, 12), 0.5, 24, 94, 94),
        (Box(20, -60, 12, 12), 0.5, 24, 14, -66),
    ],
)
@pytest.mark.parametrize("fill", [None, 90])
def test_square_widens_and_squares_the_box(box, margin, side, left, top, fill):
    # The crop is as large as the input, so that no resampling blurs the comparison.
    face = square(side, margin=margin, fill=fill).face(IMAGE, box)
    np.testing.assert_array_equal(face, cut_slowly(IMAGE, Box(left, top, side, side), fill))


def test_memory_does_not_grow_with_the_square_of_a_strip(monkeypatch):
    sides = []
    real = preprocess.crop
    monkeypatch.setattr(preprocess, "crop", lambda image, box, fill: sides.append(box[2:]) or real(image, box, fill))
    strip = np.zeros((100, 20_000, 3), np.uint8)
    strip[:, 5000:10_000] = 200
    face = preprocess.NANO.face(strip)
    # A square of 20,000 pixels, shrunk by 2; white from a quarter to a half of its width.
    assert sides == [(10_000, 10_000)]
    np.testing.assert_array_equal(np.unique(face[48, 30:44]), [200])
    np.testing.assert_array_equal(np.unique(face[48, 54:]), [0])


def test_a_whole_image_gets_no_margin():
    tile = IMAGE[:24, :24]
    np.testing.assert_array_equal(square(24, margin=0.5).face(tile), tile)
    assert not np.array_equal(square(24, margin=0.5).face(tile, Box(0, 0, 24, 24)), tile)


@pytest.mark.parametrize(("shape", "place"), [((24, 16), (0, 4)), ((16, 24), (4, 0))])
def test_a_whole_image_that_is_no_square_is_squared_and_none_of_it_is_lost(shape, place):
    tile = IMAGE[: shape[0], : shape[1]]
    face = square(24, fill=1).face(tile)
    y, x = place
    np.testing.assert_array_equal(face[y : y + shape[0], x : x + shape[1]], tile)
    outside = np.ones((24, 24), bool)
    outside[y : y + shape[0], x : x + shape[1]] = False
    assert (face[outside] == 1).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (3, 5)])
def test_the_smallest_images_still_become_faces(shape):
    image = np.full((*shape, 3), 77, np.uint8)
    for preprocessing in PREPROCESSINGS.values():
        for box in (None, Box(0, 0, 1, 1), Box(-3, -3, 0.2, 0.2), Box(400, 5, 3, 9)):
            face = preprocessing.face(image, box)
            assert face.shape == (*preprocessing.size, preprocessing.num_channels)
            assert ((face == 77) | (face == 255)).all()


def test_boxes_of_detectors_may_be_numpy_numbers():
    box = Box(*np.array([20, 10, 20, 24], np.float32))
    np.testing.assert_array_equal(square().face(IMAGE, box), square().face(IMAGE, Box(20, 10, 20, 24)))


# Filters


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("nearest", cv2.INTER_NEAREST),
        ("bilinear", cv2.INTER_LINEAR),
        ("bicubic", cv2.INTER_CUBIC),
        ("area", cv2.INTER_AREA),
        ("lanczos", cv2.INTER_LANCZOS4),
    ],
)
def test_filters_are_those_of_opencv(name, flag):
    for geometry in ("square", "stretch"):
        enlarged = square(100, filter=name, geometry=geometry).face(IMAGE[:40, :40])
        np.testing.assert_array_equal(enlarged, cv2.resize(IMAGE[:40, :40], (100, 100), interpolation=flag))
    shrunk = square(16, filter=name, geometry="stretch").face(IMAGE[:40, :40])
    np.testing.assert_array_equal(shrunk, cv2.resize(IMAGE[:40, :40], (16, 16), interpolation=flag))


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_square_averages_when_it_shrinks(name):
    # Stripes one pixel wide average to mid grey; a filter that skips pixels makes new stripes of them.
    stripes = np.zeros((960, 960, 3), np.uint8)
    stripes[:, ::2] = 255
    face = square(96, filter=name).face(stripes)
    assert np.abs(face.astype(int) - 128).max() <= 1


def test_an_image_of_the_right_size_is_not_resampled():
    for preprocessing in (square(50, filter="lanczos"), square(50, filter="lanczos", geometry="stretch")):
        np.testing.assert_array_equal(preprocessing.face(IMAGE[:50, :50]), IMAGE[:50, :50])


# Grey, and numbers


def grey(side):
    return square(side, channels="grey", mean=(0.0,), std=(1.0,))


def test_grey_is_luma():
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]], np.uint8)
    expected = [76, 150, 29, 255, 0]
    for color, luma in zip(colors[0], expected, strict=True):
        face = grey(4).face(np.tile(color, (4, 4, 1)))
        assert face.shape == (4, 4, 1)
        assert face.dtype == np.uint8
        assert (face == luma).all()


def test_grey_of_a_grey_image_changes_nothing():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    face = grey(16).face(np.repeat(values[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(face[:, :, 0], values)


def test_grey_agrees_with_opencv_and_pillow():
    from PIL import Image

    face = grey(50).face(IMAGE[:50, :50])[:, :, 0].astype(int)
    assert np.abs(face - cv2.cvtColor(IMAGE[:50, :50], cv2.COLOR_RGB2GRAY)).max() <= 1
    assert np.abs(face - np.asarray(Image.fromarray(IMAGE[:50, :50]).convert("L"))).max() <= 1


def test_normalise_per_channel_in_rgb_order():
    faces = RNG.integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
    preprocessing = dataclasses.replace(MOTIVNET_STRETCH, size=(5, 4))
    pixels = preprocessing.normalise(faces)
    assert pixels.dtype == np.float32
    assert pixels.shape == (3, 3, 5, 4)
    assert pixels.flags.c_contiguous
    for channel, (mean, std) in enumerate(zip((123.5, 116.5, 103.5), (58.5, 57.0, 57.5), strict=True)):
        np.testing.assert_allclose(pixels[:, channel], (faces[..., channel] - mean) / std, rtol=1e-6, atol=1e-6)


def test_calling_is_cropping_and_normalising():
    for preprocessing in SMALL:
        box = Box(5, 6, 20, 30)
        pixels = preprocessing(IMAGE, box)
        assert pixels.shape == (preprocessing.num_channels, *preprocessing.size)
        np.testing.assert_array_equal(pixels, preprocessing.normalise(preprocessing.face(IMAGE, box)[None])[0])


def test_the_image_is_left_alone():
    before = IMAGE.copy()
    for preprocessing in SMALL:
        for box in (None, *PLACES.values()):
            preprocessing(IMAGE, box)
    np.testing.assert_array_equal(IMAGE, before)


def test_images_that_may_not_be_written_to_or_lie_oddly_in_memory():
    view = np.asfortranarray(IMAGE[::-1, ::-1])
    view.flags.writeable = False
    for preprocessing in SMALL:
        for box in (None, PLACES["over a corner"], PLACES["inside"]):
            expected = preprocessing(np.ascontiguousarray(view), box)
            np.testing.assert_array_equal(preprocessing(view, box), expected)


# Settings


CHANGES = {
    "geometry": "pad",
    "size": (32, 32),
    "channels": "grey",
    "filter": "area",
    "mean": (0.0, 0.0, 1e-9),
    "std": (1.0, 1.0, 2.0),
    "margin": 0.001,
    "fill": 0,
    "align": True,
}


def test_every_field_changes_the_fingerprint():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(Preprocessing)}
    base = square()
    seen = {base.fingerprint}
    for name, value in CHANGES.items():
        changes = {name: value}
        if name == "channels":
            changes |= {"mean": (0.0,), "std": (1.0,)}
        seen.add(dataclasses.replace(base, **changes).fingerprint)
    assert len(seen) == 1 + len(CHANGES)


def test_fingerprints_never_change_between_versions_and_processes():
    assert MOTIVNET_PAD.fingerprint == "p49b4e5c7b045"
    assert MOTIVNET_STRETCH.fingerprint == "pfbe4e2ae1b96"
    assert NANO.fingerprint == "p22228679e344"
    code = "from motivnet.preprocess import MOTIVNET_PAD; print(MOTIVNET_PAD.fingerprint)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "p49b4e5c7b045"


def test_equal_preprocessings_have_equal_fingerprints():
    whole = square(mean=(1, 2, 3), std=(1, 1, 1), margin=0)
    decimal = square(mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0), margin=0.0)
    assert whole == decimal
    assert whole.fingerprint == decimal.fingerprint


@pytest.mark.parametrize("preprocessing", [*PREPROCESSINGS.values(), square(fill=3, margin=2.0)])
def test_there_and_back_through_json(preprocessing):
    restored = config.from_plain(Preprocessing, json.loads(json.dumps(config.to_plain(preprocessing))))
    assert restored == preprocessing
    assert restored.fingerprint == preprocessing.fingerprint
    assert hash(restored) == hash(preprocessing)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"geometry": "squash"}, "geometry 'squash'. Allowed: stretch, pad, square"),
        ({"channels": "bgr"}, "channels 'bgr'. Allowed: rgb, grey"),
        ({"filter": "cubic"}, "filter 'cubic'. Allowed: nearest, bilinear"),
        ({"size": (0, 24)}, "both must be positive"),
        ({"size": (-24, -24)}, "both must be positive"),
        ({"size": (24, 32)}, "must be square"),
        ({"channels": "grey"}, "mean and std must have 1 values"),
        ({"mean": (0.0,)}, "mean and std must have 3 values"),
        ({"std": (1.0,) * 4}, "mean and std must have 3 values"),
        ({"std": (1.0, 0.0, 1.0)}, "std .* must be positive, from 1e-6 to 1e6"),
        ({"std": (1.0, -1.0, 1.0)}, "std .* must be positive, from 1e-6 to 1e6"),
        ({"std": (1.0, math.nan, 1.0)}, "std .* must be positive, from 1e-6 to 1e6"),
        ({"std": (1.0, math.inf, 1.0)}, "std .* must be positive, from 1e-6 to 1e6"),
        ({"mean": (1.0, math.nan, 1.0)}, "mean .* must be finite"),
        ({"margin": -0.1}, "margin -0.1 must be from 0 to 2"),
        ({"margin": 2.1}, "margin 2.1 must be from 0 to 2"),
        ({"margin": math.nan}, "margin nan must be from 0 to 2"),
        ({"fill": 256}, "fill 256 must be from 0 to 255, or None"),
        ({"fill": -1}, "fill -1 must be from 0 to 255, or None"),
    ],
)
def test_settings_that_are_refused(changes, message):
    with pytest.raises(ConfigError, match=f"preprocessing: .*{message}"):
        square(**changes)
    plain = config.to_plain(square()) | {key: config.to_plain(value) for key, value in changes.items()}
    with pytest.raises(ConfigError):
        config.from_plain(Preprocessing, plain)


def test_settings_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="unknown setting 'crop_margin'; did you mean 'margin'"):
        config.from_plain(Preprocessing, config.to_plain(NANO) | {"crop_margin": 0.1})


def test_preprocessings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        NANO.margin = 0.5  # type: ignore[misc]


def test_a_box_unpacks():
    assert tuple(Box(1, 2, 3, 4)) == (1, 2, 3, 4)


@pytest.mark.parametrize("box", [None, Box(12.4, 9.6, 30, 22), Box(-8, 20, 40, 45), Box(50, -3, 33.3, 20)])
@pytest.mark.parametrize("preprocessing", SMALL, ids=lambda preprocessing: preprocessing.geometry)
def test_placement_leads_from_the_face_back_to_the_image(preprocessing, box):
    # A smooth image, so that resizing there and back changes little, and a value that tells the place.
    y, x = np.mgrid[:50, :70]
    image = np.stack([3 * x, 4 * y, 2 * x + y], axis=2).astype(np.uint8)
    face = preprocessing.face(image, box)
    seen, filled = preprocessing.placement((50, 70), box)
    left, top, width, height = map(int, filled)
    inside = face[top : top + height, left : left + width]
    back = cv2.resize(inside, (int(seen.width), int(seen.height)), interpolation=cv2.INTER_LINEAR)
    expected = crop(image, seen, preprocessing.fill).astype(float)
    if preprocessing.channels == "grey":
        expected = expected @ (0.299, 0.587, 0.114)
    difference = np.abs(back.astype(float) - expected)
    # A shift of one pixel would be a difference of 2 to 4 everywhere.
    assert np.median(difference) <= 1.0
    assert (filled.width, filled.height) == ((32, 32) if preprocessing.geometry == "pad" else preprocessing.size[::-1])
    if preprocessing.geometry == "pad":
        assert (face[:top] == 255).all()
        assert (face[top + height :] == 255).all()
        assert top == 4


# Alignment


def landmarks_at(centre, side, degrees=0.0):
    """Where the landmarks are of a face whose box, with sides of this length, is turned clockwise about its centre."""
    turn = side * np.exp(1j * np.radians(degrees))
    points = complex(*centre) + turn * (np.asarray(TEMPLATE) @ (1, 1j) - (0.5 + 0.5j))
    return [(point.real, point.imag) for point in points]


def smooth(height=200, width=240):
    rows, columns = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(rows / a) * np.cos(columns / b) for a, b in ((20, 31), (27, 18), (35, 25))]
    return np.stack(waves, axis=2).astype(np.uint8)


@pytest.mark.parametrize("side", [24, 60, 121])
@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_landmarks_of_an_average_upright_face_give_the_plain_crop(side, margin):
    plain, aligned = square(margin=margin), square(margin=margin, align=True)
    box = Box(70, 50, side, side)
    face = aligned.face(smooth(), None, landmarks_at((70 + side / 2, 50 + side / 2), side))
    # The sides with their margin may round to one pixel more.
    assert np.abs(face.astype(int) - plain.face(smooth(), box)).max() <= (0 if margin == 0 else 8)


@pytest.mark.parametrize("degrees", [-50, 20, 90, 180])
def test_a_turned_face_is_turned_back(degrees):
    image, centre, side = smooth(), (120.0, 100.0), 80
    # OpenCV turns counterclockwise, about the centre of a pixel.
    matrix = cv2.getRotationMatrix2D((centre[0] - 0.5, centre[1] - 0.5), -degrees, 1)
    turned = cv2.warpAffine(image, matrix, image.shape[1::-1], flags=cv2.INTER_CUBIC)
    upright = square().face(image, Box(80, 60, side, side))
    face = square(align=True).face(turned, None, landmarks_at(centre, side, degrees))
    assert np.abs(face.astype(int) - upright).max() <= 6


def test_aligned_faces_may_reach_beyond_the_image_which_keeps_its_pixels():
    image = smooth()
    before = image.copy()
    repeated, filled = (
        square(align=True, fill=fill).face(image, None, landmarks_at((0, 0), 60, 30)) for fill in (None, 7)
    )
    assert (filled == 7).all(axis=2).mean() > 0.6
    assert (repeated == 7).all(axis=2).mean() < 0.1
    np.testing.assert_array_equal(image, before)
    assert square(align=True).face(np.zeros((10, 20_000, 3), np.uint8), None, landmarks_at((19_000, 5), 9)).any() == 0


@pytest.mark.parametrize("landmarks", [None, (), [(5.0, 5.0)] * 5, [(math.nan, 1.0)] * 5, landmarks_at((0, 0), 1e9)])
def test_without_landmarks_that_fit_a_face_is_cropped_plainly(landmarks):
    for box in (None, PLACES["inside"], PLACES["over a corner"]):
        plain = square(margin=0.1).face(IMAGE, box)
        np.testing.assert_array_equal(square(margin=0.1, align=True).face(IMAGE, box, landmarks), plain)


def test_only_aligned_preprocessing_looks_at_landmarks():
    for preprocessing in SMALL:
        plain = preprocessing.face(IMAGE, PLACES["inside"])
        face = preprocessing.face(IMAGE, PLACES["inside"], landmarks_at((30, 30), 20, 40))
        np.testing.assert_array_equal(face, plain)


def test_aligned_faces_need_a_square_and_are_not_mapped_back():
    with pytest.raises(ConfigError, match="align needs geometry 'square', found 'pad'"):
        dataclasses.replace(MOTIVNET_PAD, align=True)
    with pytest.raises(ConfigError, match="cannot be mapped back"):
        square(align=True).placement((50, 70), PLACES["inside"])


def test_whether_a_face_has_pixels_enough_is_the_same_with_alignment():
    for box in (Box(3, 4, 20, 24), Box(3, 4, 20, 23)):
        assert square(align=True).fills(box) == square().fills(box) == (box.height == 24)
