"""The detector of a run as one graph from uint8 images to outputs, for ONNX Runtime and as a torch.export program.

The graph has everything that detect.py does after resizing: normalisation, the network or all members of an ensemble,
temperature, score and threshold. Each file is compared with PyTorch on images before it is kept.
"""
import json
import logging
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.export import Dim

from engine.build import score_functions
from engine.training_loss import add_member_dim
from utils.io import UserError

OUTPUTS = ("logits", "probability", "score", "in_distribution")
EXPORT_TOLERANCE = 1e-4  # of the largest value of an output; runtimes add float32 in another order
OPSET = 20


class DetectorGraph(nn.Module):
    """The outputs of a Detector at one reject rate, in float32.

    Args:
        detector: an engine.detection.Detector.
        mean, std: (3) each, for pixels in [0, 1].
        reject_rate: the share of in-distribution images to reject.
    """

    def __init__(self, detector, mean, std, reject_rate):
        super().__init__()
        self.score = score_functions()[detector.head.score_type]
        self.model = detector.model.to(memory_format=torch.contiguous_format)  # torch.export.save warns of any other
        self.divisor = 1.0 if detector.ours else detector.temperature  # our heads divide by it themselves
        mean, std = (torch.tensor(values, dtype=torch.float32).view(3, 1, 1) * 255 for values in (mean, std))
        self.register_buffer("shift", mean)
        self.register_buffer("factor", 1 / std)
        self.register_buffer("threshold", detector.head.threshold(reject_rate).float())

    def forward(self, images):
        """uint8 images (B, 3, H, W), or (B, 1, H, W) in grayscale, of the network's size → logits (B, C), calibrated
        and of an ensemble the mean over members; probability (B) of the largest; score (B), larger = more
        in-distribution; in_distribution (B) bool, whether the score reaches the threshold."""
        images = torch.cat([images] * 3, 1)[:, :3]  # of colour images the first copy, of grayscale ones three copies
        images = (images.float() - self.shift) * self.factor
        logits = add_member_dim(self.model(images)).mean(0) / self.divisor
        scores = self.score(logits)
        return logits, logits.softmax(-1).amax(-1), scores, scores >= self.threshold


@dataclass(frozen=True)
class Check:
    """The difference between the outputs of a file and PyTorch's."""

    images: int
    largest_difference: float  # of logits, probabilities and scores, as a share of the largest value


def example_images(size, count, channels=3):
    """Noise, smooth ramps and flat images: (count, channels, size, size) uint8."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, size)[:, None] * np.linspace(0.2, 1, size)
    kinds = (lambda: rng.integers(0, 256, (channels, size, size)), lambda: np.stack([ramp] * channels),
             lambda: np.full((channels, size, size), rng.integers(256)))
    return torch.from_numpy(np.stack([kinds[k % 3]() for k in range(count)]).astype(np.uint8))


def compared(graph, run, size, what):
    """The Check of `run`, a function of uint8 images that answers as the graph does, on batches of several sizes.

    UserError where an output differs by more than EXPORT_TOLERANCE, or a decision not within it of the threshold.
    """
    largest, seen = 0.0, 0
    for count, channels in ((1, 3), (2, 3), (7, 3), (3, 1)):
        images = example_images(size, count, channels)
        with torch.inference_mode():
            expected = graph(images)
        answers = [torch.as_tensor(answer).detach() for answer in run(images)]
        for name, ours, theirs in zip(OUTPUTS[:3], expected, answers):
            difference = ((ours - theirs).abs().max() / ours.abs().max().clamp(min=1)).item()
            if not difference <= EXPORT_TOLERANCE or ours.shape != theirs.shape:
                raise UserError(f"{what} differs from PyTorch: {name} is off by {difference:.2g} of the "
                                "largest value. Nothing was written")
            largest = max(largest, difference)
        clear = (expected[2] - graph.threshold).abs() > EXPORT_TOLERANCE * expected[2].abs().max().clamp(min=1)
        if not torch.equal(expected[3][clear], answers[3][clear]):
            raise UserError(f"{what} rejects other images than PyTorch. Nothing was written")
        seen += count
    return Check(seen, largest)


def exported_program(graph, size):
    """The torch.export program of a graph: any number of images, one or three channels."""
    shapes = {"images": {0: Dim("batch", min=1, max=2**16), 1: Dim("channels", min=1, max=3)}}
    try:
        with torch.no_grad():
            return torch.export.export(graph.eval(), (example_images(size, 2),), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # many kinds, of networks of plugins too
        raise UserError(f"this network cannot be exported: {str(error).splitlines()[0]}") from error


def write_program(graph, size, path, metadata):
    """Write a .pt2 file: `torch.export.load(path).module()(images)`. Returns its Check."""
    torch.export.save(exported_program(graph, size), path, extra_files={"metadata.json": json.dumps(metadata)})
    return compared(graph, torch.export.load(path).module(), size, "the torch.export program")


def write_onnx(graph, size, path, metadata):
    """Write an .onnx file with the metadata as its properties. Returns its Check by ONNX Runtime."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  what torch.onnx needs
    except ImportError as error:
        raise UserError(f"--onnx needs {error.name}: pip install onnx onnxruntime onnxscript") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                exported_program(graph, size), dynamo=True, input_names=["images"], output_names=list(OUTPUTS),
                opset_version=OPSET, verbose=False)
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"ONNX cannot express this network: {reason}") from error
    model = program.model_proto
    onnx.helper.set_model_props(model, {key: value if isinstance(value, str) else json.dumps(value)
                                        for key, value in metadata.items()})
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return compared(graph, lambda images: session.run(list(OUTPUTS), {"images": images.numpy()}), size,
                    "the ONNX graph")
