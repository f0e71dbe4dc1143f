"""JAFFE: subject and label in the name."""

import pytest

from motivnet.data.sources.jaffe import read_jaffe
from motivnet.errors import DataError
from motivnet.images import decode_image

NAMES = ["KA.AN1.39", "KA.DI1.42", "KL.FE1.174", "KL.HA2.159", "NM.NE3.93", "UY.SA1.143", "YM.SU2.59"]


@pytest.mark.parametrize("suffix", ["tiff", "jpg"])
def test_names_tell_everything(draw, write, tmp_path, suffix):
    for name in NAMES:
        draw(f"jaffe/{name}.{suffix}")
    write("jaffe/README", "The images")
    write("jaffe/.DS_Store", "")
    manifest = read_jaffe(tmp_path / "jaffe")
    table = manifest.table
    expected = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
    assert table["label"].to_pylist() == expected
    assert table["subject"].to_pylist() == [name[:2] for name in NAMES]
    assert table["split"].to_pylist() == ["all"] * 7
    assert table["groups"][0].as_py() == [("setting", "posed")]
    assert decode_image(manifest.source(0)).shape == (4, 6, 3)


@pytest.mark.parametrize("name", ["KA.XX1.39.tiff", "KA.AN.39.tiff", "face.png", "KA.AN1.39.copy.tiff"])
def test_a_name_that_is_not_as_published(draw, tmp_path, name):
    draw("KA.HA1.29.tiff")
    draw(name)
    with pytest.raises(DataError, match=f"{name}: the name is not SUBJECT.EMOTION.NUMBER"):
        read_jaffe(tmp_path)
