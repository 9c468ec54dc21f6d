"""A network as an ONNX file, in one of two forms; checked before it is there.

The graph is onnx_graph.py's. What runs it from Python without torch: onnx.py.
"""

import copy
import hashlib
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError, OutputError, needed_by
from ..files import check_folder, replacing, sha256
from ..names import MODEL_TYPE, SAMPLE_RATE, WEIGHTS_FILE
from ..network.checkpoint import load_model
from ..network.spectrum import denoise
from ..network.zipenhancer import ZipEnhancer
from .onnx import PRODUCER, OnnxBackend, said_bound

FORMS = ("waveform", "card")
PRECISIONS = ("fp32", "fp16")
OPSET = 17
IR_VERSION = 8
CHUNKS = "up to 6 s at once; beyond, 6 s every 5.5 s, cross-faded over 0.5 s"  # enhance/grid.py
HALF = 256  # values from which on a matrix is stored in half precision
LEAST_SNR = {"fp32": 60.0, "fp16": 30.0}  # dB, of the graph's output to the definition's


def export_onnx(
    model: ZipEnhancer | str | os.PathLike,
    path: str | os.PathLike,
    form: str = "waveform",
    precision: str = "fp32",
) -> str:
    """Write a network as an ONNX file (opset 17), and return its path.

    The file is there only if it passes onnx.checker, and if ONNX Runtime computes from it what
    PyTorch computes.

    Args:
        model: a network, or a ModelScope model dir.
        path: of the file; one that is there is replaced.
        form: 'waveform', waveform (N, samples) -> enhanced (N, samples), with STFT, gain and silence
            inside, from 1 sample on; or 'card', noisy_mag, noisy_pha (N, 201, T) -> amp_g, pha_g as on the
            model card.
        precision: 'fp32'; or 'fp16', weights stored in half precision and computed with in fp32.

    Raises:
        OptionError: for an unknown form or precision, or without onnx and onnxruntime.
        OutputError: if the file can't be written, or its graph doesn't compute the same.
        ModelNotFoundError, ConfigError, CheckpointError: for a model dir that isn't whole.
    """
    for name, value, known in (("form", form, FORMS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise OptionError(f"{name}={value!r}: {' or '.join(map(repr, known))}")
    onnx = _onnx()
    path = check_folder(path)
    from .. import __version__
    from . import onnx_graph

    metadata = {"model_type": "ZipEnhancerS", "version": "1"}  # word for word the card's
    if isinstance(model, ZipEnhancer):  # perhaps in training, or on a GPU
        network, folder = copy.deepcopy(model).cpu().eval(), None
    else:
        folder = os.fspath(model)
        network = load_model(folder)
    graph = (onnx_graph.waveform_graph if form == "waveform" else onnx_graph.card_graph)(network)
    if form == "waveform":
        metadata = {
            "model_type": MODEL_TYPE,
            "version": __version__,
            "sample_rate": str(SAMPLE_RATE),
            "chunks": CHUNKS,
            "licence": "Apache-2.0",
            "precision": precision,
            "weights_sha256": weights_sha256(network),
            "magnitude_bound": said_bound(network.config),
        }
        if folder is not None:
            metadata["checkpoint_sha256"] = sha256(os.path.join(folder, WEIGHTS_FILE))
    if precision == "fp16":
        _store_in_half(graph)
    proto = onnx.helper.make_model(
        graph,
        producer_name=PRODUCER,
        producer_version=__version__,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto, full_check=True)
    with replacing(path) as temporary:
        onnx.save(proto, temporary)
        snr = snr_to_definition(network, temporary, form)
        if not snr > LEAST_SNR[precision]:
            raise OutputError(
                f"{path!r} isn't written: by ONNX Runtime its graph is only {snr:.1f} dB from PyTorch's "
                "result; please report it, with the versions of torch, onnx and onnxruntime"
            )
    return path


def weights_sha256(network: ZipEnhancer) -> str:
    """The hash of a network's entries, names and float32 values, however they were stored."""
    digest = hashlib.sha256()
    for name, entry in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(entry.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def snr_to_definition(network: ZipEnhancer, path: str, form: str) -> float:
    """dB of PyTorch's result to its difference from the graph's, for noise of two items."""
    samples = 6789
    noise = np.random.default_rng(0).standard_normal((2, samples)) * [[0.1], [0.001]]
    waveform = torch.from_numpy(noise.astype(np.float32))
    with torch.inference_mode():
        expected = definition(network, waveform).numpy()
    difference = OnnxBackend(path)(waveform.numpy()) - expected
    return float(10 * np.log10(np.sum(expected**2) / max(float(np.sum(difference**2)), 1e-30)))


def definition(network: ZipEnhancer, waveform: Tensor, gain: Tensor | None = None) -> Tensor:
    """ZipEnhancer.denoise, with the first frame's phases as the graph has them.

    That frame is symmetric, so its spectrum is real. Where it is negative, the phase is pi or -pi by what
    rounding leaves of the imaginary part, which is chance: the graph takes pi in even bins, -pi in odd ones.
    """

    def form(magnitude: Tensor, phase: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sign = 1.0 - 2.0 * (torch.arange(phase.shape[1]) % 2)
        negative = phase[:, :, 0].cos() < 0
        phase = phase.clone()
        phase[:, :, 0] = torch.where(negative, torch.pi * sign, 0.0)
        return network._polar_to_complex(magnitude, phase)

    return denoise(form, waveform, gain)


def _store_in_half(graph: Any) -> None:
    """Store the matrices of the network, of all its graphs, as fp16, with a Cast behind each."""
    import onnx
    from onnx import numpy_helper

    bodies = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    for body in (*bodies, graph):  # replacing the nodes of a graph copies what is in them
        casts = []
        for i, tensor in enumerate(body.initializer):
            array = numpy_helper.to_array(tensor)
            # those of the STFT stay: their rounding would be noise in every bin
            if array.dtype != np.float32 or array.size < HALF or array.shape == (200, 201):
                continue
            name = tensor.name
            body.initializer[i].CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
        nodes = [*casts, *body.node]
        del body.node[:]
        body.node.extend(nodes)


def _onnx() -> Any:
    with needed_by("exporting", "onnx"):
        import onnx
        import onnx.checker
        import onnxruntime  # noqa: F401
    return onnx
