"""What ModelScope builds: the model class and the pipeline class.

Only here is modelscope imported; activate.py decides whether its registries hold these classes.
"""

import io
import os

import numpy as np
import torch
from modelscope.models.base import TorchModel
from modelscope.outputs import OutputKeys
from modelscope.pipelines import builder
from modelscope.pipelines.base import Pipeline
from modelscope.utils.constant import DEFAULT_MODEL_REVISION

from ..audio.read import read
from ..audio.resample import resample
from ..audio.samples import pcm16, to_mono
from ..audio.write import check_output, write
from ..enhance import overlap_add
from ..errors import OptionError
from ..names import SAMPLE_RATE, TASK, WEIGHTS_FILE
from ..network.checkpoint import load_weights, save_weights
from ..network.config import ModelConfig, model_dir_configuration
from ..network.spectrum import unit_rms_gain
from ..network.zipenhancer import ZipEnhancer
from ..runtime.pytorch import TorchBackend
from . import builtin_windows, register_classes
from .level import BLOCK, audio_norm_factors

LEVELS = ("modelscope", "input")
STITCHES = {"crossfade": overlap_add.pieces, "builtin": builtin_windows.pieces}


class ZipEnhancerModel(TorchModel):
    """The network as ModelScope's model: `Model.from_pretrained`, its trainers, `pipeline(model=...)`.

    `model` is the network itself, a ZipEnhancer.
    """

    group_key = TASK  # ModelScope's registry sets it too; here for instances made without it

    def __init__(self, model_dir: str, *args, **kwargs):
        """kwargs: configuration.json's `model` section, by which Model.from_pretrained may override
        the file's, and whatever else ModelScope passes on. Raises ConfigError, CheckpointError,
        ModelNotFoundError.
        """
        super().__init__(model_dir, *args, **kwargs)
        described = "former_conf" in kwargs
        self.model = ZipEnhancer(
            ModelConfig.from_dict(kwargs) if described else ModelConfig.from_model_dir(model_dir)
        )
        load_weights(self.model, os.path.join(model_dir, WEIGHTS_FILE))
        self.backend = TorchBackend(self.model)
        self.eval()

    def forward(self, inputs: dict) -> dict:
        """inputs: 'noisy' (B, samples), 16 kHz; in training also 'clean', of the same shape.

        Returns 'wav_l2', the enhanced (B, samples); with 'clean', 'loss' and its parts 'log_vars', and
        'wav_l2' only outside of training, since it costs a second pass.
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

    def _enhanced(self, noisy):
        if torch.is_grad_enabled():
            return self.model.denoise(noisy)
        # the form for inference, in a fraction of the definition's memory
        return self.backend.form().denoise(noisy.cpu()).to(noisy.device)

    def save_pretrained(self, target_folder, save_checkpoint_names=None, **kwargs):
        """Write a model dir that this package and the built-in load; the arguments are TorchModel's."""
        os.makedirs(target_folder, exist_ok=True)
        kwargs.setdefault("save_function", lambda model, path, **_: save_weights(model.model, path))
        if kwargs.get("config") is None:
            # `cfg` is the configuration.json as read, but ModelScope has put its arguments into `model`.
            known = self.cfg.to_dict() if hasattr(self, "cfg") else {}
            model = self.model.config.to_dict()
            kwargs["config"] = {**model_dir_configuration(self.model.config), **known, "model": model}
        super().save_pretrained(target_folder, save_checkpoint_names or WEIGHTS_FILE, **kwargs)


class ZipEnhancerPipeline(Pipeline):
    """ModelScope's `acoustic-noise-suppression` pipeline for ZipEnhancer models.

        ans = pipeline(Tasks.acoustic_noise_suppression, model="damo/speech_zipenhancer_...")
        ans("noisy.wav", output_path="clean.wav")["output_pcm"]  # int16 mono at 16 kHz, as bytes

    Takes what `audio.read` reads, or a list of that, or an MsDataset. Safe to call from several threads.

    `modelscope server` parses the signatures of preprocess, forward and postprocess: it understands
    plain annotations and defaults only.
    """

    group_key = TASK
    SAMPLE_RATE = SAMPLE_RATE  # callers of ModelScope's own read it here

    def __init__(
        self, model, level="modelscope", stitch="crossfade", precision="fp32", compile=False, **kwargs
    ):
        """level: 'modelscope', louder parts at -25 dBFS whatever came in, as ModelScope's own pipeline
        has it; or 'input', the recording's own level. stitch, beyond 6 s: 'crossfade', or 'builtin', the
        built-in's hard splices of 2 s windows, for comparison. Both can also be given in a call.
        precision, compile: see TorchBackend. kwargs: as ModelScope's Pipeline takes them; others are
        ignored.
        """
        # Any preprocessor but None keeps ModelScope from searching for one, with three warnings.
        kwargs["preprocessor"] = kwargs.get("preprocessor") or read
        # 1.40 downloads the model of an id before it comes here, but not where a pipeline_name is given.
        model = builder.normalize_model_input(model, DEFAULT_MODEL_REVISION)
        super().__init__(model=model, **kwargs)
        if not isinstance(self.model, ZipEnhancerModel):
            raise TypeError(f"expected a model of {__package__}, not {type(self.model)}: load it again")
        self.level, self.stitch = _known_level(level), _known_stitch(stitch)
        self.backend = TorchBackend(self.model.model, precision, compile)
        self._auto_collate = False  # the engine sends chunks to the device, never the whole recording
        # On the device now: the first call would hold a lock for ever if there is no memory for it.
        self.prepare_model()

    def _sanitize_parameters(self, **parameters):
        """Sort a call's parameters; what callers of ModelScope pass besides is ignored."""
        reading = {"sample_rate": parameters.get("sample_rate")}
        work = {
            "level": _known_level(parameters.get("level") or self.level),
            "stitch": _known_stitch(parameters.get("stitch") or self.stitch),
        }
        output_path = parameters.get("output_path")
        if output_path is not None:
            check_output(output_path)  # now, not after minutes of work
        return reading, work, {"output_path": output_path}

    def _check_input(self, input):
        """Everything goes to `audio.read`, which knows more kinds and says what is wrong."""

    def preprocess(self, inputs: object, sample_rate: int = None) -> dict:
        """Read, mix down, resample and level. sample_rate: that of an array, 16000 by default.

        Returns 'noisy', float32 (samples,), and 'scale', the factor by which it has been levelled.
        """
        x, rate = read(inputs, sample_rate)
        x = resample(to_mono(x), rate, SAMPLE_RATE)
        first, second = audio_norm_factors(x)
        # in place where the samples are nobody else's: an hour of audio is 230 MB
        mine = not hasattr(inputs, "shape") and x.dtype == np.float32
        noisy = x if mine else np.empty(len(x), np.float32)
        for start in range(0, len(x), BLOCK):
            part = slice(start, start + BLOCK)
            noisy[part] = x[part].astype(np.float64) * first * second
        return {"noisy": noisy, "scale": float(first * second)}

    def forward(self, inputs: dict, level: str = "modelscope", stitch: str = "crossfade") -> dict:
        """Enhance what `preprocess` returned; or lists of that, as `batch_size=` makes them."""

        def enhanced(noisy, scale):
            pcm = io.BytesIO()
            for piece in STITCHES[stitch](self.backend, noisy):
                if level == "input":
                    piece = piece / np.float32(scale)
                pcm.write(pcm16(piece))
            return pcm.getvalue()

        if isinstance(inputs["noisy"], list):
            pcm = [enhanced(*item) for item in zip(inputs["noisy"], inputs["scale"])]
        else:
            pcm = enhanced(inputs["noisy"], inputs["scale"])
        return {OutputKeys.OUTPUT_PCM: pcm}

    def postprocess(self, inputs: dict, output_path: str = None) -> dict:
        """Write 'output_pcm' to output_path if there is one; its suffix names the format."""
        if output_path is not None:
            write(output_path, np.frombuffer(inputs[OutputKeys.OUTPUT_PCM], np.int16), SAMPLE_RATE)
        return inputs


def _known_level(level: str) -> str:
    if level not in LEVELS:
        raise ValueError(f"level={level!r}: {' or '.join(map(repr, LEVELS))}")
    return level


def _known_stitch(stitch: str) -> str:
    if stitch not in STITCHES:
        raise OptionError(f"stitch={stitch!r}: {' or '.join(map(repr, STITCHES))}")
    return stitch


register_classes()
