import math

import pytest

from motivnet.errors import ConfigError
from motivnet.inference.predictor_config import PredictorConfig, parse_size, parse_threshold


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0: must be at least 1"),
        ({"workers": 0}, "workers 0: must be at least 1"),
        ({"num_heads": 0}, "num_heads 0: must be at least 1"),
        ({"abstain_below": math.nan}, "abstain_below nan. Allowed: a probability from 0 to 1"),
        ({"backend": "tensorrt"}, "unknown backend 'tensorrt'"),
        ({"backend": "onnx", "image_size": (96, 96)}, "Allowed: torch"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PredictorConfig(**options)


@pytest.mark.parametrize(("text", "value"), [("0.6", 0.6), ("1", 1.0), (" .5 ", 0.5), ("stored", "stored")])
def test_thresholds_are_numbers_or_the_stored_one(text, value):
    assert parse_threshold(text) == value


@pytest.mark.parametrize("text", ["", "60%", "Stored", "high"])
def test_other_thresholds_are_refused(text):
    with pytest.raises(ConfigError, match=r"Allowed: a probability such as 0\.6, or stored"):
        parse_threshold(text)


@pytest.mark.parametrize("text", ["1024x768", " 1024 X 768 ", "1024\N{MULTIPLICATION SIGN}768"])
def test_sizes_are_height_by_width(text):
    assert parse_size(text) == (1024, 768)


@pytest.mark.parametrize(
    "text", ["", "1024", "1024x", "x768", "0x768", "1024x0", "-1x2", "1e3x2", "1x2x3", "9" * 9 + "x1"]
)
def test_other_sizes_are_refused(text):
    with pytest.raises(ConfigError, match="HEIGHTxWIDTH"):
        parse_size(text)
