"""The public names, each with the module that it is loaded from: `__init__.py` and type checkers read this list."""

from motivnet.bulk.job import run_bulk as run_bulk
from motivnet.checkpoints.bundle import list_models as list_models
from motivnet.checkpoints.load import load_backbone as load_backbone
from motivnet.checkpoints.load import load_head as load_head
from motivnet.checkpoints.load import load_model as load_model
from motivnet.errors import MotivNetError as MotivNetError
from motivnet.evaluation.evaluate import evaluate as evaluate
from motivnet.faces import load_detector as load_detector
from motivnet.frames.reader import frames_of as frames_of
from motivnet.images import NamedImage as NamedImage
from motivnet.images import decode_image as decode_image
from motivnet.inference.predictor import Predictor as Predictor
from motivnet.inference.predictor_config import PredictorConfig as PredictorConfig
from motivnet.inference.results import FaceResult as FaceResult
from motivnet.inference.results import ImageResult as ImageResult
from motivnet.inference.results import Results as Results
from motivnet.labels import EMOTIONS as EMOTIONS
from motivnet.labels import Emotion as Emotion
from motivnet.labels import LabelSet as LabelSet
from motivnet.preprocess import Box as Box
from motivnet.preprocess import Preprocessing as Preprocessing
from motivnet.training.fit import fit as fit
from motivnet.version import __version__ as __version__
from motivnet.video.camera import read_camera as read_camera
from motivnet.video.label import label_video as label_video
