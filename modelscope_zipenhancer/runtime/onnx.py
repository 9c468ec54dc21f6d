"""The network by ONNX Runtime, without torch, behind the protocol of backends.

From a model dir's model.onnx (onnx_export.py), which goes from waveform to waveform, or else its
onnx_model.onnx, the network alone as on the model card: then the signal around it is computed here.
"""

import os
from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np

from ..errors import CheckpointError, ModelNotFoundError, OptionError, needed_by
from ..files import sha256
from ..names import (
    CARD_ONNX_FILE,
    COMPRESSION,
    CONFIG_FILE,
    HOP_LENGTH,
    N_FFT,
    ONNX_FILE,
    SILENCE_POWER,
    WEIGHTS_FILE,
)
from ..network.config import ModelConfig
from .backend import omp_threads

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}

BINS = N_FFT // 2 + 1

PRODUCER = "modelscope_zipenhancer"
# What ONNX Runtime's optimizers find in a graph of ours is worth nothing, and half of the time that opening
# it takes on a CPU. Those for convolutions stay, by which these are faster, and the folding of constants,
# which widens the weights of an fp16 file once.
IDLE_OPTIMIZERS = """
    Level1_RuleBasedTransformer ConstantSharing ConstantFoldingDQ CommonSubexpressionElimination
    MatMulAddFusion ReshapeFusion TransposeOptimizer GeluFusionL1 LayerNormFusionL1
    FreeDimensionOverrideTransformer QDQPropagationTransformer QDQS8ToU8Transformer WhereDummyDq
    DoubleQDQPairsRemover Level2_RuleBasedTransformer GemmActivationFusion GeluFusionL2 LayerNormFusionL2
    SimplifiedLayerNormFusion AttentionFusion EmbedLayerNormFusion GatherSliceToSplitFusion
    GatherToSliceFusion MatmulTransposeFusion BiasGeluFusion SkipLayerNormFusion BiasSkipLayerNormFusion
    FastGeluFusion QuickGeluFusion SwiGluFusion BiasSoftmaxFusion BiasDropoutFusion MatMulScaleFusion
    MatMulActivationFusion MatMulIntegerToFloatFusion MatMulNBitsFusion MatMulNBitsMlpFusion
    MatMulNBitsQkvFusion MatMulNBitsQLoRAFusion DQMatMulNBitsFusion GroupQueryAttentionFusion
    GroupQueryAttentionPreNormFusion GqaValueLayoutTransformer DynamicQuantizeMatMulFusion
    LabelEncoderFusion SliceConcatToSpaceToDepthFusion QDQSelectorActionTransformer
    QDQFinalCleanupTransformer Avx2WeightS8ToU8Transformer NhwcTransformer
""".split()  # noqa: SIM905


class OnnxBackend:
    """An ONNX graph as a `Backend`.

    Args:
        path: a graph of one of the two forms.
        providers: execution providers as ONNX Runtime takes them, the first that can is taken.
        threads: how many; by default OMP_NUM_THREADS, else as many as there are cores.

    Raises:
        OptionError: without onnxruntime, or for a provider that isn't there.
        CheckpointError: for a file that is damaged, or a graph of another form.
    """

    preferred_batch_size = 1

    def __init__(self, path: str, providers: list | None = None, threads: int | None = None) -> None:
        self.path, self.providers = os.path.abspath(path), providers or [PROVIDERS["cpu"]]
        self.threads = omp_threads() if threads is None else threads
        self._session = self._open()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_session": None}  # opened again where it is unpickled

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._session = self._open()

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says about itself: sample rate, version, hash of the weights."""
        return self._session.get_modelmeta().custom_metadata_map

    def __call__(self, waveform: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
        """`Backend.__call__`."""
        waveform = np.ascontiguousarray(waveform, np.float32)
        if self._form == "card":
            return denoise(self._run_card, waveform, gain)
        inputs = {"waveform": waveform}
        if gain is not None:
            inputs["gain"] = np.ascontiguousarray(gain, np.float32)
        return self._session.run(None, inputs)[0]

    def _run_card(self, magnitude: np.ndarray, phase: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._session.run(None, dict(zip(self._inputs, (magnitude, phase))))

    def _open(self) -> Any:
        runtime = _onnxruntime()
        missing = [name for name in map(_provider_name, self.providers) if name not in available(runtime)]
        if missing:
            raise OptionError(
                f"execution provider {missing[0]} isn't there, these are: {', '.join(available(runtime))}. "
                "Others come with another build: onnxruntime-gpu, onnxruntime-directml, onnxruntime-openvino"
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        # Threads that wait for each other in a loop take twice the time where other programs run. 20 us of
        # it are a tenth less on a quiet machine and cost nothing on a busy one.
        if tuple(map(int, runtime.__version__.split(".")[:2])) >= (1, 32):
            options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
        else:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; a warning about the optional input is no news
        try:
            # Its second try, on the CPU, is announced by print; of the CPU alone it is the same again.
            again = self.providers != [PROVIDERS["cpu"]]
            with open(self.path, "rb") as file:
                ours = PRODUCER.encode() in file.read(64)  # the first fields of the file
            session = runtime.InferenceSession(
                self.path,
                options,
                self.providers,
                enable_fallback=int(again),
                disabled_optimizers=IDLE_OPTIMIZERS if ours and not again else [],
            )
            axes = {x.name: x.shape for x in session.get_inputs()}
        except Exception as error:  # onnxruntime raises many kinds here, of its own
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{self.path} can't be read as an ONNX graph: {reason}") from error
        self._inputs = list(axes)
        if "waveform" in axes and len(axes["waveform"]) == 2:
            self._form = "waveform"
        elif len(axes) == 2 and all(len(shape) == 3 and shape[1] == BINS for shape in axes.values()):
            self._form = "card"
        else:
            raise CheckpointError(
                f"{self.path} is no ZipEnhancer graph: its inputs are {axes}, expected waveform "
                f"(N, samples), or noisy_mag and noisy_pha (N, {BINS}, T)"
            )
        return session


def load(
    model_dir: str,
    device: str | None = None,
    precision: str = "fp32",
    compile: bool = False,
    threads: int | None = None,
    providers: list | None = None,
) -> OnnxBackend:
    """The backend for a model dir.

    Args:
        model_dir: has model.onnx or onnx_model.onnx.
        device: 'cpu' (the default), 'cuda', 'cuda:1', 'coreml', 'directml' or 'openvino'.
        precision, compile: for other backends; here the file has its precision.
        threads, providers: see OnnxBackend; `providers` in place of a device.

    Raises:
        OptionError: for an option that can't be had.
        ModelNotFoundError: for a model dir without an ONNX graph.
        CheckpointError: for a graph that is damaged, of another form, or not made from the dir's files.
        ConfigError: for a configuration.json that is none.
    """
    if precision != "fp32":
        raise OptionError(
            f"precision={precision!r}: a graph has its own, see `zipenhancer export --precision`"
        )
    if compile:
        raise OptionError("compile=True is for the backend 'torch'")
    if threads is not None and not (isinstance(threads, Integral) and threads >= 1):
        raise OptionError(f"threads={threads!r}: a whole number, 1 or more")
    providers = providers or _providers(device or "cpu")
    path = graph_of(model_dir)
    backend = OnnxBackend(path, providers, threads)
    if other := _made_from_other(backend.metadata, model_dir):
        raise CheckpointError(
            f"{path} was made from {other} beside it: make it again by "
            f"`zipenhancer export {model_dir} -o {path}`"
        )
    return backend


def _made_from_other(metadata: dict[str, str], model_dir: str) -> str:
    """What of a model dir isn't what a graph of ours says that it was made from, if anything."""
    made_from, weights = metadata.get("checkpoint_sha256"), os.path.join(model_dir, WEIGHTS_FILE)
    if not made_from or not os.path.isfile(weights):
        return ""
    if made_from != sha256(weights):
        return f"other weights than {WEIGHTS_FILE}"
    if os.path.isfile(os.path.join(model_dir, CONFIG_FILE)):
        bound = said_bound(ModelConfig.from_model_dir(model_dir))
        if metadata.get("magnitude_bound", "none") != bound:
            return f"another magnitude_bound than {bound}, of {CONFIG_FILE}"
    return ""


def said_bound(config: ModelConfig) -> str:
    """How a graph's metadata says the magnitude_bound of its network: a number, or 'none'."""
    return "none" if config.magnitude_bound is None else f"{config.magnitude_bound:g}"


def graph_of(model_dir: str) -> str:
    """A model dir's graph that runs, ours or the model card's; ModelNotFoundError if it has neither."""
    for name in (ONNX_FILE, CARD_ONNX_FILE):
        if os.path.isfile(path := os.path.join(model_dir, name)):
            return path
    raise ModelNotFoundError(
        f"{model_dir} has no {ONNX_FILE}: make it by `zipenhancer export {model_dir} -o "
        f"{os.path.join(model_dir, ONNX_FILE)}` where torch is, or use the backend 'torch'"
    )


def available(runtime: Any) -> list[str]:
    """The execution providers that this onnxruntime has."""
    return runtime.get_available_providers()


def _onnxruntime() -> Any:
    with needed_by("backend 'onnx'", "onnx"):
        import onnxruntime
    return onnxruntime


def _providers(device: str) -> list:
    """What ONNX Runtime is to try for a device, the CPU last: for nodes that the others lack."""
    name, _, index = device.partition(":")
    if name not in PROVIDERS or index and not index.isdigit():
        raise OptionError(f"device {device!r} isn't one of backend 'onnx', which has {', '.join(PROVIDERS)}")
    chosen: Any = (PROVIDERS[name], {"device_id": index}) if index else PROVIDERS[name]
    return [chosen] if name == "cpu" else [chosen, PROVIDERS["cpu"]]


def _provider_name(provider: Any) -> str:
    return provider if isinstance(provider, str) else provider[0]


# ---- the signal around a graph of the card's form: network/spectrum.py in numpy -----------------


def denoise(network: Callable, waveform: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
    """Enhance waveforms (B, samples), by a network from (magnitude, phase) to the same; gain: (B,)."""
    samples = waveform.shape[1]
    energy = np.sum(waveform.astype(np.float64) ** 2, 1, keepdims=True)
    silent = energy < SILENCE_POWER * samples
    factor = np.sqrt(samples / np.where(silent, samples, energy)) if gain is None else gain[:, None]
    factor = np.where(silent, 1.0, factor)
    padded = np.pad(waveform * factor, ((0, 0), (0, max(0, N_FFT - samples))))
    magnitude, phase = network(*analyse(padded))
    enhanced = synthesise(magnitude, phase, samples) / factor
    return np.where(silent, 0.0, enhanced).astype(np.float32)


def analyse(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, samples), 400 or more, to compressed magnitude and phase, float32 (B, F, T).

    A frame is taken as two parts, even and odd around its centre, which give the real and the imaginary
    part. The first frame is even, by its reflected border: its imaginary part is 0, and where its real
    part is negative, an FFT's rounding makes its phase pi or -pi by chance. Here it is pi in even bins and
    -pi in odd ones, on every machine.
    """
    padded = np.pad(waveform.astype(np.float64), ((0, 0), (N_FFT // 2, N_FFT // 2)), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT, axis=1)[:, ::HOP_LENGTH]
    later, earlier = frames[..., N_FFT // 2 :], frames[..., N_FFT // 2 : 0 : -1].copy()
    earlier[..., 0] = 0  # the centre, once
    cosines, sines = windowed_dft()
    real = ((later + earlier) @ cosines).transpose(0, 2, 1)
    imaginary = ((later - earlier) @ sines + 1e-12 * (-1.0) ** np.arange(BINS)).transpose(0, 2, 1)
    magnitude = (real**2 + imaginary**2 + 1e-9) ** (COMPRESSION / 2)
    return magnitude.astype(np.float32), np.arctan2(imaginary, real + 1e-5).astype(np.float32)


def synthesise(magnitude: np.ndarray, phase: np.ndarray, samples: int) -> np.ndarray:
    """The inverse of `analyse`, to (B, samples)."""
    spectrum = magnitude.astype(np.float64) ** (1 / COMPRESSION) * np.exp(1j * phase)
    frames = np.fft.irfft(spectrum.transpose(0, 2, 1), N_FFT) * _window()
    blocks = N_FFT // HOP_LENGTH
    count = frames.shape[1] + blocks - 1
    signal = np.zeros((len(frames), count, HOP_LENGTH))
    weight = np.zeros((count, HOP_LENGTH))
    for i in range(blocks):
        part = slice(i * HOP_LENGTH, (i + 1) * HOP_LENGTH)
        signal[:, i : i + frames.shape[1]] += frames[:, :, part]
        weight[i : i + frames.shape[1]] += _window()[part] ** 2
    used = slice(N_FFT // 2, N_FFT // 2 + samples)
    return signal.reshape(len(frames), -1)[:, used] / weight.ravel()[used]


def windowed_dft() -> tuple[np.ndarray, np.ndarray]:
    """Matrices (200, 201) from sample n behind a frame's centre to the real and the imaginary part of bin k.

    Zeros are exact: the phase of the bins at 0 and 8 kHz depends on it.
    """
    n, k = np.arange(N_FFT // 2)[:, None], np.arange(BINS)
    angle = 2 * np.pi * (n * k % N_FFT) / N_FFT
    window = (0.5 + 0.5 * np.cos(2 * np.pi * n / N_FFT)) * (-1.0) ** k
    real, imaginary = (np.where(np.abs(x) < 1e-12, 0.0, x) * window for x in (np.cos(angle), -np.sin(angle)))
    return real, imaginary


def _window() -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
