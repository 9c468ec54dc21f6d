"""What ModelScope builds: the model class and the pipeline class.

`activate` decides whether ModelScope's registries hold these classes. The names of ModelScope that
they rest on: relied_on.py.
"""

import io
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from modelscope.exporters.base import Exporter
from modelscope.models.base import TorchModel
from modelscope.outputs import OutputKeys
from modelscope.pipelines import builder
from modelscope.pipelines.base import Pipeline
from modelscope.utils.constant import DEFAULT_MODEL_REVISION
from torch import Tensor

from ..audio.policy import OPEN, Policy
from ..audio.read import read
from ..audio.resample import check_rate, resample
from ..audio.samples import pcm16, to_mono
from ..audio.write import check_output, write
from ..enhance import overlap_add
from ..enhance.attenuation import check_strength, limited
from ..enhance.offset import WithoutOffset
from ..enhance.overlap_add import GAINS
from ..errors import DeviceMemoryError, ForbiddenError, ModelTypeError, OptionError, OutputError
from ..files import make_folder
from ..names import ONNX_FILE, SAMPLE_RATE, TASK, WEIGHTS_FILE
from ..network.checkpoint import load_network, save_weights
from ..network.config import ModelConfig, model_dir_configuration
from ..network.spectrum import unit_rms_gain
from ..runtime.backend import Backend, load_backend
from ..runtime.pytorch import TorchBackend
from . import builtin_windows, register_classes
from .level import audio_norm_factors, multiplied
from .service import policy_of

LEVELS = ("modelscope", "input")
STITCHES = ("crossfade", "builtin")


class ZipEnhancerModel(TorchModel):
    """The network as ModelScope's model: `Model.from_pretrained`, its trainers, `pipeline(model=...)`.

    `model` is the network itself, a ZipEnhancer.

    Args:
        model_dir: holds configuration.json and the weights.
        kwargs: configuration.json's `model` section, as Model.from_pretrained passes it on, with what
            its caller overrides; and whatever else ModelScope passes.

    Raises:
        ConfigError, CheckpointError, ModelNotFoundError: for a model dir that isn't whole.
    """

    group_key = TASK  # ModelScope's registry sets it too; here for instances made without it

    def __init__(self, model_dir: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(model_dir, *args, **kwargs)
        described = "former_conf" in kwargs
        config = ModelConfig.from_dict(kwargs) if described else ModelConfig.from_model_dir(model_dir)
        self.model = load_network(config, os.path.join(model_dir, WEIGHTS_FILE))
        self.backend = TorchBackend(self.model)
        self.eval()

    def forward(self, inputs: dict) -> dict:
        """Enhance a batch, or compute the losses of one.

        Args:
            inputs: 'noisy' (B, samples) at 16 kHz; for training also 'clean', of the same shape.

        Returns:
            'wav_l2', the enhanced (B, samples). With 'clean' also 'loss' and its parts 'log_vars', and in
            training those only, since 'wav_l2' costs a second pass.
        """
        noisy, outputs = inputs["noisy"], {}
        if "clean" in inputs:
            from ..train.objective import training_losses

            # The losses expect the scale that the network sees. A silent item has none: as it is.
            gain = unit_rms_gain(noisy)
            gain = gain.where(gain.isfinite(), gain.new_ones(()))
            values = training_losses(self.model, noisy * gain, inputs["clean"] * gain)[0]
            outputs["loss"] = values["loss"]
            outputs["log_vars"] = {name: value.item() for name, value in values.items()}
        if not (self.training and outputs):
            outputs["wav_l2"] = self._enhanced(noisy)
        return outputs

    def _enhanced(self, noisy: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.model.denoise(noisy)
        # the form for inference, in a fraction of the definition's memory
        return self.backend.form().denoise(noisy.cpu()).to(noisy.device)

    def save_pretrained(
        self,
        target_folder: str | os.PathLike,
        save_checkpoint_names: str | list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a model dir that this package and the built-in load; the arguments are TorchModel's.

        Raises OutputError.
        """
        make_folder(target_folder)
        kwargs.setdefault("save_function", lambda model, path, **_: save_weights(model.model, path))
        if kwargs.get("config") is None:
            # `cfg` is the configuration.json as read, but ModelScope has put its arguments into `model`.
            known = self.cfg.to_dict() if hasattr(self, "cfg") else {}
            model = self.model.config.to_dict()
            kwargs["config"] = {**model_dir_configuration(self.model.config), **known, "model": model}
        try:
            super().save_pretrained(target_folder, save_checkpoint_names or WEIGHTS_FILE, **kwargs)
        except Exception as error:  # ModelScope turns what the saving raises into a bare Exception
            raise OutputError(f"the model can't be saved in {os.fspath(target_folder)!r}: {error}") from error


class CheckedOutput(Pipeline):
    """A pipeline that doesn't write several results over one another, nor any for a stranger.

    A class of its own: `modelscope server` takes a pipeline with a `__call__` in its body for something else.
    """

    policy = OPEN

    def __call__(self, input: object, *args: Any, **kwargs: Any) -> Any:
        """Enhance a recording, or each of a list or an MsDataset of them; OptionError as any call's."""
        if kwargs.get("output_path") is not None and not policy_of(input, self.policy).output_files:
            raise ForbiddenError("output_path isn't allowed here: the sound is in the answer's output_pcm")
        several = isinstance(input, list) and len(input) > 1 or type(input).__name__ == "MsDataset"
        if several and kwargs.get("output_path") is not None:
            raise OptionError(
                f"output_path={kwargs['output_path']!r} names one file, and there are several recordings: "
                "call the pipeline for each, or write each result's output_pcm"
            )
        return super().__call__(input, *args, **kwargs)


class ZipEnhancerPipeline(CheckedOutput):
    """ModelScope's `acoustic-noise-suppression` pipeline for ZipEnhancer models.

        ans = pipeline(Tasks.acoustic_noise_suppression, model="damo/speech_zipenhancer_...")
        ans("noisy.wav", output_path="clean.wav")["output_pcm"]  # int16 mono at 16 kHz, as bytes

    Takes what `audio.read` reads, or a list of that, or an MsDataset. Safe to call from several threads.

    Args:
        model: a model's id on the hub, a model dir, or a ZipEnhancerModel.
        level: 'modelscope', louder parts at -25 dBFS whatever came in, as ModelScope's own pipeline has
            it; or 'input', the recording's own level. Can also be given in a call.
        stitch: for more than 6 s: 'crossfade'; or 'builtin', the built-in's hard splices of 2 s windows,
            for comparison. Can also be given in a call.
        gain: of cross-faded chunks: 'chunk', each by itself at the network's level; or 'recording', all
            by one factor (docs/evaluation.md says when which). Can also be given in a call.
        strength: dB by which noise is turned down at most, 0 or more; None: no limit. Can also be given in
            a call.
        precision, compile: see TorchBackend.
        backend: 'torch'; or 'onnx', ONNX Runtime on the ONNX file of the model dir.
        policy: what may be read and written, and how much of it: audio.policy.SERVED in a service of your
            own.
            What `modelscope server` and the hub's widget hand over is held to that anyway (service.py).
        kwargs: as ModelScope's Pipeline takes them; others are ignored.

    Raises:
        OptionError, ModelTypeError, ConfigError, CheckpointError, ModelNotFoundError, DeviceMemoryError.
    """

    # `modelscope server` parses the signatures of preprocess, forward and postprocess out of this file.
    # It understands plain names as annotations (no Optional, no `X | None`, no quotes) and simple
    # defaults (no negative number), and no keyword-only arguments.

    group_key = TASK
    SAMPLE_RATE = SAMPLE_RATE  # callers of ModelScope's own read it here

    def __init__(
        self,
        model: str | TorchModel,
        level: str = "modelscope",
        stitch: str = "crossfade",
        gain: str = "chunk",
        precision: str = "fp32",
        compile: bool = False,
        backend: str = "torch",
        policy: Policy = OPEN,
        strength: float | None = None,
        **kwargs: Any,
    ) -> None:
        # Any preprocessor but None keeps ModelScope from searching for one, with three warnings.
        kwargs["preprocessor"] = kwargs.get("preprocessor") or read
        # pipeline() downloads the model of an id, but since 1.22 not where a pipeline_name is given.
        model = builder.normalize_model_input(model, DEFAULT_MODEL_REVISION)
        super().__init__(model=model, **kwargs)
        if not isinstance(self.model, ZipEnhancerModel):
            raise ModelTypeError(f"expected a model of {__package__}, not {type(self.model)}: load it again")
        self.level, self.stitch = _known("level", level, LEVELS), _known("stitch", stitch, STITCHES)
        self.gain, self.policy = _known("gain", gain, GAINS), policy
        self.strength = check_strength(strength)
        self.backend: Backend
        if backend == "torch":  # by the network that is there
            self.backend = TorchBackend(self.model.model, precision, compile)
        else:
            options = {"precision": precision, "compile": compile}
            self.backend = load_backend(backend, self.model.model_dir, **options)
        self._auto_collate = False  # the backend sends chunks to the device, never the whole recording
        # On the device now: the first call would hold a lock for ever if there is no memory for it.
        try:
            self.prepare_model()
        except torch.cuda.OutOfMemoryError as error:
            raise DeviceMemoryError(f"the model doesn't fit on {self.device}: {error}") from error

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict, dict, dict]:
        """Sort a call's parameters: for preprocess, forward, postprocess. Unknown ones are ignored.

        Callers of ModelScope pass many besides, and a remote one of `modelscope server` anything.
        """
        strict = parameters.get("strict")
        if isinstance(strict, str):  # bool("false") is True
            raise OptionError(f"strict={strict!r}: True or False")
        strength = check_strength(parameters.get("strength"))
        output_path = parameters.get("output_path")
        if output_path is not None:
            check_output(output_path)  # now, not after minutes of work
        return (
            {
                "sample_rate": _known_rate(parameters.get("sample_rate")),
                "strict": bool(strict),
            },
            {
                "level": _known("level", parameters.get("level") or self.level, LEVELS),
                "stitch": _known("stitch", parameters.get("stitch") or self.stitch, STITCHES),
                "gain": _known("gain", parameters.get("gain") or self.gain, GAINS),
                "strength": self.strength if strength is None else strength,
            },
            {"output_path": output_path},
        )

    def _check_input(self, input: object) -> None:
        """Let everything through to `audio.read`, which knows more kinds and says what is wrong."""

    def preprocess(self, inputs: object, sample_rate: int = None, strict: bool = False) -> dict:
        """Read, mix down, resample and level.

        Args:
            inputs: what `audio.read` reads.
            sample_rate: that of an array, 16000 by default.
            strict: refuse a recording of which a part is missing; by default a warning is logged.

        Returns:
            'noisy', float32 (samples,), and 'scale', the factor by which it has been levelled.
        """
        x, rate = read(inputs, sample_rate, strict=strict, policy=policy_of(inputs, self.policy))
        x = resample(to_mono(x), check_rate(rate), SAMPLE_RATE)
        factors = audio_norm_factors(x)
        # in place where the samples are nobody else's: an hour of audio is 230 MB
        in_place = isinstance(inputs, (str, bytes, os.PathLike)) and x.dtype == np.float32
        return {"noisy": multiplied(x, factors, in_place), "scale": float(factors[0] * factors[1])}

    def forward(
        self,
        inputs: dict,
        level: str = "modelscope",
        stitch: str = "crossfade",
        gain: str = "chunk",
        strength: float = None,
    ) -> dict:
        """Enhance what `preprocess` returned, into 'output_pcm': int16 mono at 16 kHz, as bytes.

        With `batch_size=` ModelScope makes a list of each entry, and takes the lists in the result apart.
        """
        noisy, scale = inputs["noisy"], inputs["scale"]
        if isinstance(noisy, list):
            pcm = [self._enhanced(*item, level, stitch, gain, strength) for item in zip(noisy, scale)]
        else:
            pcm = self._enhanced(noisy, scale, level, stitch, gain, strength)
        return {OutputKeys.OUTPUT_PCM: pcm}

    def _enhanced(
        self, noisy: np.ndarray, scale: float, level: str, stitch: str, gain: str, strength: float | None
    ) -> bytes:
        pcm = io.BytesIO()
        # An offset is heard where ModelScope's own pipeline hears it.
        backend = WithoutOffset(self.backend) if level == "input" else self.backend
        backend = limited(backend, strength)
        pieces = (
            builtin_windows.pieces(backend, noisy)
            if stitch == "builtin"
            else overlap_add.pieces(backend, noisy, gain=gain)
        )
        for piece in pieces:
            pcm.write(pcm16(piece / np.float32(scale) if level == "input" else piece))
        return pcm.getvalue()

    def postprocess(self, inputs: dict, output_path: str = None) -> dict:
        """Write 'output_pcm' to output_path if there is one; its suffix names the format."""
        if output_path is not None:
            write(output_path, np.frombuffer(inputs[OutputKeys.OUTPUT_PCM], np.int16), SAMPLE_RATE)
        return inputs


class ZipEnhancerExporter(Exporter):
    """ModelScope's exporter for ZipEnhancer models: `Exporter.from_model(model).export_onnx(output_dir)`."""

    group_key = TASK

    def export_onnx(
        self, output_dir: str, opset: int = 17, form: str = "waveform", precision: str = "fp32", **_: Any
    ) -> dict:
        """Write output_dir/model.onnx; returns {'model': its path}.

        form, precision: see export_onnx of runtime/onnx_export.py. opset: 17, no other. Raises OptionError
        or OutputError.
        """
        from ..runtime.onnx_export import OPSET, export_onnx

        if opset != OPSET:
            raise OptionError(f"opset={opset}: the graph is written in {OPSET}, no other")
        make_folder(output_dir)
        path = os.path.join(output_dir, ONNX_FILE)
        return {"model": export_onnx(self.model.model, path, form, precision)}


def _known(option: str, value: str, values: Iterable[str]) -> str:
    """The value of an option, if it is one of the values that it can have; else OptionError."""
    if value not in tuple(values):
        raise OptionError(f"{option}={value!r}: {' or '.join(map(repr, values))}")
    return value


def _known_rate(rate: object) -> int | None:
    """A sample rate as a caller gives it, maybe in JSON; None is left to `audio.read`."""
    if not rate:
        return None
    try:
        number = float(rate)
    except (TypeError, ValueError) as error:
        raise OptionError(f"sample_rate={rate!r}: Hz were expected, a whole number") from error
    return check_rate(number)


register_classes()
