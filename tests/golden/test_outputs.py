"""What the program answers and writes: nano's answer to a fixed photograph, and the schema of every output.

A golden file has a line per column: its name, its type, and its values in all rows. The rows are those of four small
inputs: a broken file, a photograph of one face, two faces in one image, and an image without a face.
"""

import base64
import csv
import importlib.resources
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from motivnet import Predictor

PHOTOGRAPHS = ("broken.png", "face.png", "faces.png", "grey.png")
FORMATS = ("csv", "jsonl", "parquet")


def json_type(value: Any) -> str:
    """Name the type of a JSON value; of a list with the types that its values have."""
    if isinstance(value, list):
        return f"array of {len(value)} {' or '.join(dict.fromkeys(map(json_type, value)))}"
    names = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string", dict: "object"}
    return names[type(value)]


def columns_of(objects: Sequence[Mapping[str, Any]], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Give path and values of each field of JSON objects, in order; those of objects in a list as `list[].field`."""
    for key in dict.fromkeys(itertools.chain.from_iterable(objects)):
        values = [each[key] for each in objects if key in each]
        path = f"{prefix}{key}"
        lists = [value for value in values if isinstance(value, list)]
        if all(isinstance(value, dict) for value in values):
            yield from columns_of(values, f"{path}.")
        elif lists and all(isinstance(entry, dict) for entry in itertools.chain(*lists)):
            yield f"{path}.length", list(map(len, lists))
            yield from columns_of(list(itertools.chain(*lists)), f"{path}[].")
        else:
            yield path, values


def spell(objects: Sequence[Mapping[str, Any]], *, values: bool = True) -> str:
    """Spell the fields of JSON objects: a line each, with name, types and, unless they vary by run, values."""
    lines = []
    for path, found in columns_of(objects):
        kinds = " or ".join(sorted(set(map(json_type, found))))
        lines.append(line(path, kinds, found) if values else f"{path}: {kinds}")
    return "\n".join(lines)


def line(name: str, kind: str, values: Iterable[Any]) -> str:
    return f"{name}: {kind}: {' | '.join(rounded(value) for value in values)}"


def rounded(value: Any) -> str:
    """Spell a value as JSON does, floats with six digits."""
    if isinstance(value, list):
        return f"[{', '.join(map(rounded, value))}]"
    return repr(float(f"{value:.6g}")) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def spell_table(path: Path) -> str:
    """Spell the columns of a CSV, JSONL or Parquet file: a line each, with name, type if it has one, and values."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        columns = zip(header, *rows, strict=True)
        return "\n".join(f"{name}: {' | '.join(map(rounded_text, values))}" for name, *values in columns)
    if path.suffix == ".jsonl":
        rows = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
        assert {tuple(row) for row in rows} == {tuple(rows[0])}, "all rows have the same columns, in the same order"
        return spell(rows)
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    lines = [line(field.name, str(field.type), table[field.name].to_pylist()) for field in table.schema]
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return "\n".join([*lines, *(f"metadata {key}: {value}" for key, value in metadata.items())])


def rounded_text(cell: str) -> str:
    """Round the number of a CSV cell, if it is one with a point."""
    try:
        return rounded(float(cell)) if "." in cell else cell
    except ValueError:
        return cell


def tables_of(run: Callable[..., str], *command: object, exit_code: int = 0) -> str:
    """Run a command with `--out` once per format; spell the tables."""
    text = []
    for suffix in FORMATS:
        out = Path(f"rows.{suffix}")
        run(*command, "--out", out, exit_code=exit_code)
        text += [f"[{suffix}]", spell_table(out)]
    return "\n".join(text)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    """A folder of the four inputs: PNG, as decoders of JPEG differ."""
    folder = tmp_path_factory.mktemp("golden") / "photographs"
    folder.mkdir()
    for name, image in zip(PHOTOGRAPHS[1:], pictures(astronaut), strict=True):
        Image.fromarray(image).save(folder / name)
    (folder / PHOTOGRAPHS[0]).write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def pictures(astronaut: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give 200 x 200 pixels about the face; the same with its mirror image, every other pixel; and grey."""
    face = np.ascontiguousarray(astronaut[10:210, 120:320])
    two = np.full((200, 400, 3), 90, np.uint8)
    two[:, :200] = face
    two[50:150, 250:350] = face[::2, ::-2]
    return face, two, np.full((200, 300, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def affect_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with valence and arousal: nano's, whose logits of happiness and sadness give them."""
    onnx = pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("bundles") / "affect"
    with importlib.resources.as_file(importlib.resources.files("motivnet") / "assets" / "nano") as nano:
        shutil.copytree(nano, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["name"], config["model"]["affect"] = "affect", True
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = onnx.load(folder / "model.onnx")
    weight = np.zeros((7, 2), np.float32)
    weight[1, 0], weight[2, 1] = 0.1, -0.1
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "affect_weight"))
    logits = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("MatMul", [logits, "affect_weight"], ["affect"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("affect", onnx.TensorProto.FLOAT, ["batch", 2]))
    onnx.save(model, folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    """A video of three frames without loss: one face, none, two."""
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    path = tmp_path_factory.mktemp("clips") / "clip.mkv"
    one, two, none = pictures(astronaut)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 200, 400, "bgr0"
        for number, image in enumerate((one, none, two)):
            frame_image = np.full((200, 400, 3), 90, np.uint8)
            frame_image[:, : image.shape[1]] = image
            frame = av.VideoFrame.from_ndarray(frame_image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def nearby(monkeypatch: pytest.MonkeyPatch, photographs: Path, tmp_path: Path) -> Path:
    """The current folder, with the photographs, so that paths in outputs are the same on any machine."""
    shutil.copytree(photographs, tmp_path / "photographs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nanos_answer_to_a_photograph(golden, astronaut):
    (result,) = Predictor.load("nano").predict([astronaut])
    golden.check("nano_astronaut.txt", spell([result.to_dict()]))


def test_predict(golden, run, nearby):
    text = tables_of(run, "predict", "photographs", exit_code=1)
    objects = [json.loads(each) for each in run("predict", "photographs", "--json", exit_code=1).splitlines()]
    golden.check("schemas/predict.txt", f"{text}\n[--json]\n{spell(objects)}")


def test_predict_with_valence_and_arousal(golden, run, nearby, affect_model):
    text = tables_of(run, "predict", *sorted(Path("photographs").glob("[fg]*.png")), "--model", affect_model)
    golden.check("schemas/predict_affect.txt", text)


def test_results_as_a_data_frame(golden, nearby):
    pytest.importorskip("pandas", reason="the extra `notebook` is not installed")
    table = Predictor.load("nano").predict("photographs/face.png").to_pandas()
    golden.check("schemas/results_pandas.txt", "\n".join(f"{name}: {kind}" for name, kind in table.dtypes.items()))


def test_bulk(golden, run, nearby):
    pytest.importorskip("fsspec", reason="the extra `scale` is not installed")
    summary = json.loads(run("bulk", "photographs", "out", "--json", exit_code=1))
    assert {path.name for path in Path("out").iterdir()} == {"_plan.json", "_summary.json", "part-00000.parquet"}
    assert json.loads(Path("out/_summary.json").read_text(encoding="utf-8")) == summary
    rows = spell_table(Path("out/part-00000.parquet")).replace(str(Path.cwd()), "FOLDER")
    golden.check("schemas/bulk.txt", f"[parquet]\n{rows}\n[summary]\n{spell([summary], values=False)}")


def test_video(golden, run, nearby, clip):
    golden.check("schemas/video.txt", tables_of(run, "video", shutil.copy(clip, "clip.mkv")))


def test_several_videos(golden, run, nearby, clip):
    files = [shutil.copy(clip, name) for name in ("a.mkv", "b.mkv")]
    Path("broken.mkv").write_bytes(b"broken")
    text = tables_of(run, "video", *files, "broken.mkv", "--end", 0.08, exit_code=1)
    golden.check("schemas/video_several.txt", text)


def test_video_with_valence_and_arousal(golden, run, nearby, clip, affect_model):
    text = tables_of(run, "video", shutil.copy(clip, "clip.mkv"), "--model", affect_model)
    golden.check("schemas/video_affect.txt", text)


def ask(predictor: Predictor) -> dict[str, dict[str, Any]]:
    """Give the server's answers by route."""
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    from fastapi.testclient import TestClient

    from motivnet.server import ServerSettings, create_app

    data = {name: (Path("photographs") / name).read_bytes() for name in PHOTOGRAPHS}
    images = [{"data": base64.b64encode(content).decode(), "name": name} for name, content in data.items()]
    app = create_app(predictor, ServerSettings(allow_urls=True))
    with TestClient(app, "http://localhost") as client:
        answers = {
            "POST /v1/predict": client.post("/v1/predict", files=[("files", each) for each in data.items()]),
            "POST /v1/predict/base64": client.post("/v1/predict/base64", json={"images": images}),
            "POST /v1/predict/urls": client.post("/v1/predict/urls", json={"urls": ["http://127.0.0.1/face.png"]}),
            "GET /v1/models": client.get("/v1/models"),
            "GET /openapi.json": client.get("/openapi.json"),
        }
    assert {answer.status_code for answer in answers.values()} == {200}
    return {route: answer.json() for route, answer in answers.items()}


def test_server(golden, nearby, affect_model):
    answers = ask(Predictor.load("nano"))
    del answers["GET /openapi.json"]
    answers["POST /v1/predict, with valence and arousal"] = ask(Predictor.load(affect_model))["POST /v1/predict"]
    sections = (
        f"[{route}]\n{spell([answer], values='results' in answer)}" for route, answer in sorted(answers.items())
    )
    golden.check("schemas/server.txt", "\n".join(sections))


def test_schemas_that_the_server_publishes(golden, nearby):
    published = ask(Predictor.load("nano"))["GET /openapi.json"]
    lines = []
    for path, methods in published["paths"].items():
        for method, route in methods.items():
            answer = route["responses"]["200"].get("content", {}).get("application/json", {}).get("schema", {})
            returned = answer.get("$ref", "text").rpartition("/")[2]
            lines.append(f"{method.upper()} {path}: {returned}: {' '.join(sorted(route['responses']))}")
    for name, schema in sorted(published["components"]["schemas"].items()):
        for field, facts in schema["properties"].items():
            kind = json.dumps({key: fact for key, fact in facts.items() if key not in ("title", "description")})
            lines.append(f"{name}.{field}: {'required' if field in schema['required'] else 'optional'}: {kind}")
    golden.check("schemas/server_openapi.txt", "\n".join(lines))
