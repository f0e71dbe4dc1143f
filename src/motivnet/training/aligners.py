"""Methods of unsupervised domain adaptation: what each adds to the loss of the source.

Shape suffixes: S source images, T target images, B either; C classes, D width, E width of a region, G nodes of
a domain, H their width, L landmarks, N cells of a feature map.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from motivnet.faces import load_detector
from motivnet.models.backbone import Backbone
from motivnet.preprocess import TEMPLATE, Preprocessing
from motivnet.training.adaptation_losses import certainty, class_mmd, domain_loss, mmd, multilinear, reverse_gradient

Method = Literal["source-only", "batchnorm", "mmd", "dann", "cdan", "ecan", "agra", "csrl"]
Classify = Callable[[Tensor], Tensor]
Losses = tuple[Tensor, Tensor]
# Hidden width of discriminators; width of a graph's nodes, as in AGRA; width of CSRL's samples.
HIDDEN, NODE, SAMPLE = 256, 64, 128
MOMENTUM = 0.1
# Of the window about a landmark, as a share of the face's side.
WINDOW = 1 / 12
FINE_PX = 8


class View(NamedTuple):
    """What a method sees of one domain's images.

    Attributes:
        features: mean token of each image, float32 (B, D).
        logits: of the head, float32 (B, C).
        regions: features about the landmarks, float32 (B, L, E); None where no method asks for them.
    """

    features: Tensor
    logits: Tensor
    regions: Tensor | None = None

    def every(self, step: int, first: int) -> "View":
        """Return every so many of the images, from the first of them."""
        regions = None if self.regions is None else self.regions[first::step]
        return View(self.features[first::step], self.logits[first::step], regions)


class Aligner(nn.Module):
    """A method.

    It is called with the views of source and target, the source's labels (S,), and a function that gives the recipe's
    classification loss of the source's logits. It returns a further classification loss, and the loss that aligns the
    domains.
    """

    def answer(self, view: View, *, target: bool) -> Tensor:
        """Return the logits that count."""
        return view.logits


class Mmd(Aligner):
    """Formula (5)."""

    def forward(self, source: View, target: View, *_: Any) -> Losses:
        """Align the mean tokens."""
        return source.logits.new_zeros(()), mmd(source.features, target.features)


class Adversary(Aligner):
    """DANN, or CDAN+E with a conditional discriminator."""

    def __init__(self, width: int, num_classes: int, *, conditional: bool) -> None:
        super().__init__()
        self.conditional = conditional
        self.discriminator = discriminator(width * num_classes if conditional else width)

    def forward(self, source: View, target: View, *_: Any) -> Losses:
        """Deceive the discriminator."""
        zero = source.logits.new_zeros(())
        if self.conditional:
            pairs = [(view.logits, view.features) for view in (source, target)]
            return zero, conditional_loss(self.discriminator, *pairs)
        found = [self.discriminator(reverse_gradient(view.features))[:, 0] for view in (source, target)]
        return zero, domain_loss(*found)


class Ecan(Aligner):
    """ECAN (Li and Deng, arXiv 1904.11150): MMD of reweighted marginals, and within each class by pseudo labels."""

    def __init__(self, num_classes: int, log_prior_C: Tensor) -> None:
        super().__init__()
        self.source_C: Tensor
        self.target_C: Tensor
        self.register_buffer("source_C", log_prior_C.softmax(0), persistent=False)
        # The learnt class distribution of the target; it starts from the source's, which weights all alike.
        self.register_buffer("target_C", log_prior_C.softmax(0))
        self.num_classes = num_classes

    def forward(self, source: View, target: View, labels_S: Tensor, *_: Any) -> Losses:
        """Align both, and learn the target's class distribution from the predictions."""
        self.target_C.lerp_(target.logits.detach().softmax(1).mean(0), MOMENTUM)
        weights_S = (self.target_C / self.source_C)[labels_S]
        marginal = mmd(source.features, target.features, weights_S)
        within = class_mmd(source.features, target.features, labels_S, target.logits.argmax(1), self.num_classes)
        return marginal.new_zeros(()), marginal + within


class Csrl(Aligner):
    """CSRL (IEEE TMM 2024), after its abstract alone: attention between the samples of a batch, and alignment."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, SAMPLE)
        self.inter = nn.MultiheadAttention(SAMPLE, 4, batch_first=True)
        self.norm = nn.LayerNorm(SAMPLE)
        self.intra = nn.TransformerEncoderLayer(SAMPLE, 4, 2 * SAMPLE, batch_first=True)
        self.classifier = nn.Linear(SAMPLE, num_classes)

    def forward(self, source: View, target: View, labels_S: Tensor, classify: Classify) -> Losses:
        """Classify source samples by what they attend to, and align both kinds of features."""
        both = [self.project(view.features)[None] for view in (source, target)]
        crossed = [
            self.norm(own + self.inter(own, other, other, need_weights=False)[0]) for own, other in (both, both[::-1])
        ]
        related = [self.intra(samples)[0] for samples in crossed]
        return classify(self.classifier(related[0])), mmd(source.features, target.features) + mmd(*related)


class Agra(Aligner):
    """AGRA (Xie et al., MM 2020; Chen et al., TPAMI 2022): a graph of face and regions, within and across domains."""

    def __init__(self, width: int, region_width: int, num_classes: int) -> None:
        super().__init__()
        nodes = 1 + len(TEMPLATE)
        # Mean tokens and cells of a map may differ tenfold in scale: without norms, the graph is nearly blind to one.
        self.face, self.region = (
            nn.Sequential(nn.LayerNorm(each), nn.Linear(each, NODE)) for each in (width, region_width)
        )
        self.means_2CGH: Tensor
        self.seen_2C: Tensor
        self.register_buffer("means_2CGH", torch.zeros(2, num_classes, nodes, NODE))
        self.register_buffer("seen_2C", torch.zeros(2, num_classes, dtype=torch.bool))
        # The face has an edge to each region, and each node to itself; across domains likewise.
        star_GG = torch.eye(nodes)
        star_GG[0], star_GG[:, 0] = 1, 1
        star_GG /= (star_GG.sum(0)[:, None] * star_GG.sum(1)).sqrt()
        self.intra = nn.Parameter(torch.eye(2).kron(star_GG))
        self.inter = nn.Parameter(((1 - torch.eye(2)).kron(star_GG) + torch.eye(2 * nodes)) / 2)
        self.layers = nn.ModuleList([nn.Linear(NODE, NODE), nn.Linear(NODE, NODE)])
        self.classifier = nn.Linear(nodes * NODE, num_classes)
        self.adversaries = nn.ModuleList([discriminator(num_classes * NODE * count) for count in (1, nodes - 1)])

    def forward(self, source: View, target: View, labels_S: Tensor, classify: Classify) -> Losses:
        """Classify by the graph, deceive a discriminator of faces and one of regions, and update the class means."""
        nodes = [self.nodes(view) for view in (source, target)]
        passed = [self.propagate(own_BGH, domain) for domain, own_BGH in enumerate(nodes)]
        logits = [self.classifier(own_BGH.flatten(1)) for own_BGH in passed]
        aligned = logits[0].new_zeros(())
        for part, adversary in zip((slice(0, 1), slice(1, None)), self.adversaries, strict=True):
            pairs = [(each, own_BGH[:, part].flatten(1)) for each, own_BGH in zip(logits, passed, strict=True)]
            aligned = aligned + conditional_loss(adversary, *pairs)
        for domain, classes_B in enumerate((labels_S, logits[1].argmax(1))):
            self.remember(nodes[domain].detach(), classes_B, domain)
        return classify(logits[0]), aligned

    def answer(self, view: View, *, target: bool) -> Tensor:
        """Return the logits of the graph."""
        return self.classifier(self.propagate(self.nodes(view), int(target)).flatten(1))

    def nodes(self, view: View) -> Tensor:
        """Return the nodes of face and regions, (B, G, H)."""
        assert view.regions is not None
        return torch.cat([self.face(view.features)[:, None], self.region(view.regions)], 1)

    def propagate(self, own_BGH: Tensor, domain: int) -> Tensor:
        """Pass messages within and across domains, formula (8): (B, G, H).

        Args:
            own_BGH: nodes of images.
            domain: of the images: 0 source, 1 target. The other's nodes are those of its nearest class mean.
        """
        means_CGH, seen_C = self.means_2CGH[1 - domain], self.seen_2C[1 - domain]
        distance_BC = torch.cdist(own_BGH.detach().flatten(1), means_CGH.flatten(1))
        absent_BGH = means_CGH[distance_BC.masked_fill(~seen_C, torch.inf).argmin(1)]
        both = torch.cat([absent_BGH, own_BGH] if domain else [own_BGH, absent_BGH], 1)
        for edges, layer in zip((self.intra, self.inter), self.layers, strict=True):
            both = functional.relu(layer(edges @ both))
        return both.chunk(2, 1)[domain]

    @torch.no_grad()
    def remember(self, own_BGH: Tensor, classes_B: Tensor, domain: int) -> None:
        """Update the running means of the classes of a domain."""
        for label in classes_B.unique():
            mean_GH = own_BGH[classes_B == label].mean(0)
            share = MOMENTUM if self.seen_2C[domain, label] else 1.0
            self.means_2CGH[domain, label].lerp_(mean_GH, share)
            self.seen_2C[domain, label] = True


class Regions:
    """Features about a face's landmarks, from the deepest feature map of cells of at most 8 x 8 pixels."""

    def __init__(self, backbone: Backbone) -> None:
        """Choose the map."""
        layers: list[Any] = [*cast(Any, backbone.net).feature_info]
        layer = ([each for each in layers if each["reduction"] <= FINE_PX] or layers)[-1]
        self.width, self._layer = int(layer["num_chs"]), str(layer["module"])

    def read(self, backbone: Backbone, pixels_BCHW: Tensor, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
        """Return the tokens of the backbone, and the regions: (B, N, D) and (B, L, E)."""
        kept: list[Any] = []
        module = backbone.net.get_submodule(self._layer)
        hook = module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
        try:
            tokens = backbone(pixels_BCHW)
        finally:
            hook.remove()
        (cells,) = kept
        height, width = pixels_BCHW.shape[2:]
        if cells.ndim == 4:
            rows = cells.shape[2]
            cells_BNE = cells.flatten(2).transpose(1, 2)
        else:
            cells_BNE = cells[:, backbone.num_prefix_tokens :]
            rows = round((cells_BNE.shape[1] * height / width) ** 0.5)
        points_BL2 = torch.from_numpy(find_landmarks(pixels_BCHW, preprocessing)).to(cells.device)
        with torch.autocast(cells.device.type, enabled=False):
            return tokens, windows(points_BL2, rows, cells_BNE.shape[1] // rows) @ cells_BNE.float()


def windows(points_BL2: Tensor, rows: int, columns: int) -> Tensor:
    """Return the weight of each cell of a map in the Gaussian window about each point: (B, L, N), rows summing to 1.

    Not RoIAlign: its gradient is not deterministic.

    Args:
        points_BL2: x and y from 0 to 1.
        rows: of the map.
        columns: of the map.
    """
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    cells_N2 = torch.stack([x.flatten(), y.flatten()], 1).to(points_BL2)
    squares_BLN = (points_BL2[:, :, None] - cells_N2).square().sum(-1)
    return (-squares_BLN / (2 * WINDOW**2)).softmax(-1)


def find_landmarks(pixels_BCHW: Tensor, preprocessing: Preprocessing) -> np.ndarray:
    """Return the five landmarks that YuNet finds in normalised faces, as shares of their sides: float32 (B, 5, 2).

    A face in which it finds none has those of an average face.
    """
    height, width = pixels_BCHW.shape[2:]
    faces_BHWC = preprocessing.denormalise(pixels_BCHW.detach().float().cpu().numpy())
    found = [_detector().detect(np.repeat(face, 3 // face.shape[2], axis=2))[:1] for face in faces_BHWC]
    points = [each[0].landmarks if each else None for each in found]
    shares = [TEMPLATE if each is None else np.divide(each, (width, height)) for each in points]
    return np.asarray(shares, np.float32)


@functools.cache
def _detector() -> Any:
    return load_detector("yunet")


def discriminator(width: int) -> nn.Module:
    """Return a network from features to the logit of being source."""
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))


def conditional_loss(network: nn.Module, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of CDAN+E, formulas (2) to (4), from the logits and features of both domains."""
    found = [
        network(reverse_gradient(multilinear(logits.detach().softmax(1), features)))[:, 0]
        for logits, features in (source, target)
    ]
    return domain_loss(found[0], found[1], certainty(source[0]), certainty(target[0]))
