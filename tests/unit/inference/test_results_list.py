"""Results as tables, figures and pages of a notebook."""

import base64
import html.parser
import io
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motivnet.errors import ImageError, MissingExtraError
from motivnet.inference import display as page
from motivnet.inference.predictor import Predictor
from motivnet.inference.results import FaceResult, ImageResult, Results
from motivnet.inference.rows import all_columns
from motivnet.labels import EMOTIONS
from motivnet.preprocess import Box

BOX = Box(10, 20, 30, 40)


def face(emotion: str = "happiness", box: Box = BOX, **changes: object) -> FaceResult:
    probs = dict.fromkeys(EMOTIONS.names, 0.05) | {emotion: 0.7}
    return FaceResult(box, 0.9, emotion, probs, **changes)  # type: ignore[arg-type]


def result(source: str = "a.jpg", *faces: FaceResult, **changes: object) -> ImageResult:
    known = {"status": "ok" if faces else "no_face", "model": "tiny", "preprocessing": "abc", "width": 64, "height": 80}
    return ImageResult(source=source, faces=faces, **known | changes)  # type: ignore[arg-type]


def unreadable(source: str = "b.jpg", error: str = "no such file") -> ImageResult:
    return result(source, status="unreadable", error=error, width=None, height=None)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (80, 64, 3), np.uint8)


class Tags(html.parser.HTMLParser):
    """Checks that tags are closed in order, and collects them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self) -> list[Image.Image]:
        sources = [attrs["src"] or "" for tag, attrs in self.seen if tag == "img"]
        assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
        return [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]


class TestList:
    def test_it_is_a_list(self) -> None:
        all_of_them = [result("a", face()), result("b"), unreadable("c")]
        results = Results(all_of_them)
        assert results == all_of_them
        assert isinstance(results, list)
        assert results[0] is all_of_them[0]
        assert isinstance(results[1:], Results)
        assert results[1:] == all_of_them[1:]

    def test_it_survives_pickling(self) -> None:
        results = Results([result("a", face())], labels=("x",))
        again = pickle.loads(pickle.dumps(results))
        assert again == results
        assert again.columns() == results.columns()

    def test_a_slice_without_faces_keeps_the_models_columns(self) -> None:
        results = Results([result("a")], labels=("x", "y"))
        assert list(results[:0].columns()) == list(all_columns(("x", "y")))
        assert list(results[:0].to_arrow().schema.names) == list(results.columns())

    def test_any_results_have_the_columns_of_their_faces(self) -> None:
        columns = Results([result("a"), result("b", face(valence=0.5, arousal=0.1))]).columns()
        assert list(columns) == list(all_columns(EMOTIONS, affect=True))
        assert "prob_anger" not in Results([result("a")]).columns()


class TestTables:
    @pytest.fixture
    def results(self) -> Results:
        return Results([result("a\udcff.jpg", face(), face("fear", Box(0, 0, 10, 10))), result("b"), unreadable("c")])

    def test_arrow_is_what_the_command_line_writes(self, results: Results, tmp_path: Path) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        results.write(tmp_path / "x.parquet")
        assert results.to_arrow().equals(parquet.read_table(tmp_path / "x.parquet"))

    def test_pandas_has_a_row_per_face_and_types_that_can_be_missing(self, results: Results) -> None:
        pytest.importorskip("pandas")
        table = results.to_pandas()
        assert list(table.columns) == list(results.columns())
        assert table["source"].tolist() == ["a\\udcff.jpg"] * 2 + ["b", "c"]
        assert table["emotion"].tolist()[:2] == ["happiness", "fear"]
        assert table["emotion"].isna().tolist() == [False, False, True, True]
        assert table["prob_fear"].mean() == pytest.approx((0.05 + 0.7) / 2)
        assert table["tiny"].sum() == 1
        assert table["image_width"].isna().tolist() == [False, False, False, True]

    def test_pandas_of_nothing(self) -> None:
        pytest.importorskip("pandas")
        table = Results(labels=EMOTIONS.names).to_pandas()
        assert len(table) == 0
        assert str(table["face"].dtype) == "Int32"

    @pytest.mark.parametrize(
        ("package", "method"), [("pyarrow", "to_arrow"), ("pandas", "to_pandas"), ("matplotlib", "plot")]
    )
    def test_what_is_missing_is_named(self, monkeypatch: pytest.MonkeyPatch, package: str, method: str) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=rf"this needs {package}.*motivnet\[notebook\]"):
            getattr(Results([result()]), method)()


class TestPicture:
    def test_arrays_bytes_and_files_are_read_again(self, tmp_path: Path) -> None:
        image = picture()
        path = tmp_path / "a.png"
        Image.fromarray(image).save(path)
        for kept in (image, path, str(path), path.read_bytes()):
            np.testing.assert_array_equal(result(image=kept).picture(), image)

    def test_files_that_have_gone_or_changed(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        with pytest.raises(ImageError, match="no such file"):
            result(image=path).picture()
        Image.fromarray(picture()[:50]).save(path)
        with pytest.raises(ImageError, match=r"a\.jpg: has changed since it was read"):
            result(image=path).picture()

    def test_what_was_not_kept(self) -> None:
        with pytest.raises(ImageError, match="was not kept; stream"):
            result().picture()
        with pytest.raises(ImageError, match=r"b\.jpg: no such file"):
            unreadable().picture()

    def test_the_image_is_neither_compared_nor_printed_nor_written(self) -> None:
        with_image = result("a", face(), image=picture())
        assert with_image == result("a", face())
        assert "array" not in repr(with_image)
        assert "image" not in with_image.to_dict()


class TestHtml:
    def test_one_result_has_its_picture_and_all_probabilities(self) -> None:
        shown = Tags(result("a.jpg", face(), image=picture())._repr_html_())
        (drawn,) = shown.images()
        assert max(drawn.size) >= 64
        for name in EMOTIONS.names:
            assert name in shown.text
        assert shown.text.count("70%") == 2  # heading and bar
        assert shown.text.count("5%") == 6

    def test_many_faces_are_counted(self) -> None:
        faces = [face(box=Box(x, x, 20, 20)) for x in range(-9, 41)]
        shown = Tags(result("a.jpg", *faces, image=picture())._repr_html_())
        assert len(shown.images()) == 1
        assert f"and {50 - page.MAX_FACES} smaller faces" in shown.text

    def test_an_overview_says_what_there_is_and_stays_small(self) -> None:
        results = Results([result(f"{n}.jpg", face(), image=picture()) for n in range(500)] + [result(), unreadable()])
        text = results._repr_html_()
        shown = Tags(text)
        assert "500 faces in 502 images; 1 without a face; 1 unreadable" in shown.text
        assert len(shown.images()) == page.MAX_IMAGES
        assert f"and {502 - page.MAX_IMAGES} more images" in shown.text
        assert len(text) < 1_500_000

    def test_large_pictures_are_reduced(self) -> None:
        large = result("a", face(), width=3000, height=2000, image=np.zeros((2000, 3000, 3), np.uint8))
        (drawn,) = Tags(large._repr_html_()).images()
        assert drawn.size == (page.ALONE_PX, page.ALONE_PX * 2 // 3)

    def test_boxes_shrink_with_the_picture(self) -> None:
        image = np.full((1000, 2000, 3), 255, np.uint8)
        large = result("a", face(box=Box(1000, 500, 500, 400)), width=2000, height=1000, image=image)
        (drawn,) = Tags(large._repr_html_()).images()
        marked = np.argwhere(np.asarray(drawn.convert("L")) < 100)
        scale = drawn.width / 2000
        low, high = marked.min(axis=0) / scale, marked.max(axis=0) / scale
        assert high == pytest.approx([900, 1500], abs=12)
        assert low[1] == pytest.approx(1000, abs=12)

    @pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "a' onerror='alert(1)", '"><b>', "\udcff"])
    def test_nothing_that_is_shown_is_taken_for_markup(self, hostile: str) -> None:
        results = Results([result(hostile, face(), image=picture()), unreadable(hostile, hostile), result(hostile)])
        for text in (results._repr_html_(), *(each._repr_html_() for each in results)):
            shown = Tags(text)
            assert {tag for tag, _ in shown.seen} <= {"div", "span", "b", "br", "img", "code"}
            assert {name for _, attrs in shown.seen for name in attrs} <= {"style", "alt", "src"}
            text.encode()

    def test_without_a_picture_the_rest_is_shown(self) -> None:
        shown = Tags(result("a.jpg", face(), face())._repr_html_())
        assert "no picture" in shown.text
        assert shown.text.count("happiness") == 4

    def test_unreadable_and_empty_and_abstained(self) -> None:
        assert "unreadable: no such file" in Tags(unreadable()._repr_html_()).text
        assert "no face" in Tags(result(image=picture())._repr_html_()).text
        assert "0 faces in 0 images" in Tags(Results()._repr_html_()).text
        assert "happiness?" in Tags(result("a", face(abstained=True))._repr_html_()).text
        assert "valence -0.50, arousal +0.25" in Tags(result("a", face(valence=-0.5, arousal=0.25))._repr_html_()).text

    def test_it_asks_nobody_for_anything(self) -> None:
        text = Results([result("https://x.test/a.jpg", face(), image=picture())])._repr_html_()
        assert not re.search(r"(?:src|href)='(?!data:)", text)


class TestPlot:
    @pytest.fixture(autouse=True)
    def no_window(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("matplotlib").use("agg")

    def test_a_row_per_image_with_bars_per_face(self) -> None:
        from matplotlib import pyplot as plt

        faces = [face(box=Box(x, 5, 20, 20)) for x in range(6)]
        figure = Results([result("a", *faces, image=picture()), result("b"), unreadable("c", "x" * 300)]).plot()
        assert len(figure.axes) == 3 + page.MAX_BARS
        assert plt.get_fignums() == []
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=30)
        assert len(buffer.getvalue()) > 1000
        assert figure.axes[0].get_xlabel() == "and 2 smaller"

    def test_only_the_first_images_are_drawn(self) -> None:
        figure = Results([result(str(n)) for n in range(page.MAX_ROWS + 3)]).plot()
        assert len(figure.axes) == page.MAX_ROWS
        assert figure.get_suptitle() == f"the first {page.MAX_ROWS} of {page.MAX_ROWS + 3} images"

    def test_one_result_and_none(self) -> None:
        assert len(result("$a_b$ \udcff", face(), image=picture()).plot().axes) == 2
        assert Results().plot().get_suptitle() == "no images"


class TestPredictor:
    @pytest.fixture
    def whole(self, tiny_bundle) -> Predictor:
        return Predictor.load(tiny_bundle.path, detector="whole")

    def test_predict_gives_results_that_show_themselves(self, whole: Predictor, tmp_path: Path) -> None:
        image = picture()
        Image.fromarray(image).save(tmp_path / "a.png")
        results = whole.predict([tmp_path / "a.png", image, (tmp_path / "a.png").read_bytes(), Image.fromarray(image)])
        assert isinstance(results, Results)
        for each in results:
            np.testing.assert_array_equal(each.picture(), image)
        assert len(Tags(results._repr_html_()).images()) == 4
        assert list(whole.predict([]).columns()) == list(results.columns())

    def test_colours_are_right_whatever_order_the_array_had(self, whole: Predictor) -> None:
        image = picture()
        (got,) = whole.predict(image[:, :, ::-1], color="bgr")
        np.testing.assert_array_equal(got.picture(), image)

    def test_streams_keep_nothing_but_paths_unless_asked(self, whole: Predictor, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        Image.fromarray(picture()).save(path)
        inputs = [path, picture(), path.read_bytes()]
        assert [each.image is None for each in whole.stream(inputs)] == [False, True, True]
        assert [each.image is None for each in whole.stream(inputs, keep_images=True)] == [False, False, False]

    def test_predict_keeps_no_more_than_its_bound(self, whole: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("motivnet.inference.predictor.KEPT_BYTES", 2 * picture().nbytes)
        results = whole.predict(picture(n) for n in range(9))
        assert [each.image is not None for each in results] == [True, True] + [False] * 7
