"""The parts of AGRA and ECAN: regions about landmarks, graphs, running means."""

import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")

import torch

from motivnet.images import decode_image
from motivnet.models.config import preset
from motivnet.models.motivnet import build_backbone
from motivnet.preprocess import NANO, TEMPLATE
from motivnet.training.aligners import WINDOW, Agra, Ecan, Regions, View, find_landmarks, windows


def test_windows_are_gaussians_about_the_points() -> None:
    points = torch.tensor([[[0.25, 0.75], [0.5, 0.5]]])
    found = windows(points, 2, 4)
    for place, (x, y) in enumerate(points[0].tolist()):
        # Row by row: two rows of four cells.
        cells = [((column + 0.5) / 4, (row + 0.5) / 2) for row in range(2) for column in range(4)]
        heights = [math.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * WINDOW**2)) for u, v in cells]
        assert found[0, place].tolist() == pytest.approx([each / sum(heights) for each in heights], abs=1e-6)


@pytest.mark.parametrize(("name", "width", "cells"), [("nano", 256, 12), ("mini", 128, 6)])
def test_regions_are_read_from_any_backbone(name: str, width: int, cells: int) -> None:
    torch.manual_seed(0)
    model = preset(name)
    backbone = build_backbone(model).eval()
    regions = Regions(backbone)
    pixels = torch.randn(2, 1, *model.image_size)
    with torch.no_grad():
        tokens, found = regions.read(backbone, pixels, NANO)
        torch.testing.assert_close(tokens, backbone(pixels))
    assert regions.width == width
    assert found.shape == (2, 5, width)
    assert math.isqrt(windows(torch.zeros(1, 5, 2), cells, cells).shape[2]) == cells


def test_landmarks_are_the_detectors_and_else_those_of_an_average_face() -> None:
    skimage_data = pytest.importorskip("skimage.data")
    face = NANO.face(decode_image(skimage_data.astronaut())[0:200, 130:330])
    pixels = torch.from_numpy(NANO.normalise(np.stack([face, np.zeros_like(face)])))
    found = find_landmarks(pixels, NANO)
    np.testing.assert_allclose(found[1], TEMPLATE, atol=1e-6)
    right_eye, left_eye, nose, right_mouth, left_mouth = found[0]
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_eye[1] < nose[1] < min(right_mouth[1], left_mouth[1])
    assert np.abs(found[0] - TEMPLATE).max() > 0.01


def test_the_absent_domain_is_the_nearest_class_mean() -> None:
    torch.manual_seed(0)
    graph = Agra(width=3, region_width=2, num_classes=4)
    own = torch.randn(5, 6, 64)
    graph.remember(torch.stack([own[0], own[2], own[2] + 1]), torch.tensor([1, 3, 3]), domain=1)
    torch.testing.assert_close(graph.means_2CGH[1, 3], own[2] + 0.5)
    graph.remember(own[:1] + 10, torch.tensor([1]), domain=1)
    torch.testing.assert_close(graph.means_2CGH[1, 1], 0.9 * own[0] + 0.1 * (own[0] + 10))
    found = graph.propagate(own, domain=0)
    for row in range(5):
        distances = {c: float((own[row] - graph.means_2CGH[1, c]).norm()) for c in (1, 3)}
        other = graph.means_2CGH[1, min(distances, key=distances.__getitem__)]
        state = [*own[row], *other]
        for edges, layer in zip((graph.intra, graph.inter), graph.layers, strict=True):
            mixed = [sum(edges[i, j] * state[j] for j in range(12)) for i in range(12)]
            state = [torch.relu(layer(each)) for each in mixed]
        torch.testing.assert_close(found[row], torch.stack(state[:6]), atol=1e-5, rtol=1e-4)


def test_edges_within_and_across_domains() -> None:
    graph = Agra(width=3, region_width=2, num_classes=4)
    assert (graph.intra[:6, 6:] == 0).all()
    assert (graph.intra[6:, :6] == 0).all()
    # Each node, and the face with every region.
    linked = {(i, j) for i in range(6) for j in range(6) if i == j or 0 in (i, j)}
    assert {tuple(pair) for pair in graph.intra[:6, :6].nonzero().tolist()} == linked
    assert {tuple(pair) for pair in graph.inter[:6, 6:].nonzero().tolist()} == linked


def test_a_graph_sees_faces_and_regions_whatever_their_scale() -> None:
    torch.manual_seed(0)
    graph, faces, regions = Agra(width=8, region_width=4, num_classes=7), torch.randn(3, 8), torch.randn(3, 5, 4)
    nodes, scaled = (graph.nodes(View(scale * faces, torch.zeros(3, 7), regions)) for scale in (1, 10))
    torch.testing.assert_close(scaled, nodes, atol=1e-3, rtol=1e-3)


def test_ecan_learns_the_classes_of_the_target() -> None:
    torch.manual_seed(0)
    log_prior = torch.tensor([0.5, 0.25, 0.25]).log()
    method = Ecan(3, log_prior)
    logits = torch.tensor([[0.0, 50.0, 0.0]]).expand(4, 3)
    source, target = View(torch.randn(4, 8), torch.randn(4, 3)), View(torch.randn(4, 8), logits)
    for _ in range(100):
        method(source, target, torch.tensor([0, 1, 1, 2]))
    assert method.target_C.tolist() == pytest.approx([0, 1, 0], abs=1e-3)
    assert sum(method.target_C.tolist()) == pytest.approx(1)
