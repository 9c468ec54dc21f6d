"""How good a network is, now and then in a run: measures and audio of fixed mixtures."""

import logging
import os
from collections.abc import Callable, Sequence

import numpy as np

from ..audio.write import write
from ..enhance.enhancer import Enhancer
from ..evaluate.pairs import mix_pairs
from ..evaluate.run import evaluate_pairs
from ..files import make_folder
from ..names import SAMPLE_RATE
from ..network.zipenhancer import ZipEnhancer
from ..runtime.pytorch import TorchBackend

logger = logging.getLogger(__name__)

MEASURES = ("pesq_wb", "stoi", "si_sdr")


class Validation:
    """Mixtures that are written to out_dir/valid once, and the measures of what a network makes of them.

    Args:
        clean, noise: folders; what can't be mixed is named in a warning and left out.
        out_dir: the run's folder.
        snr: dB, of each of which there are `count` mixtures.
        seed: fixes which utterances and noises are mixed.

    Raises:
        AudioNotFoundError: a folder without recordings.
        MissingPackageError: without the packages of the measures, [eval].
        OutputError: the mixtures can't be written.
    """

    def __init__(
        self,
        clean: str | os.PathLike,
        noise: str | os.PathLike,
        out_dir: str | os.PathLike,
        snr: Sequence[float] = (0, 5, 10),
        count: int = 4,
        seed: int = 0,
    ) -> None:
        self.folder = os.path.join(out_dir, "valid")
        self.pairs, _ = mix_pairs(clean, noise, snr, count, self.folder, seed, on_error="skip")
        make_folder(os.path.join(self.folder, "enhanced"))
        self.noisy = self._means(None)
        logger.info("noisy: %s", self.noisy)

    def __call__(self, model: ZipEnhancer) -> dict[str, float]:
        """The mean of each measure, and as NAME_gain what it is over noisy; audio goes to valid/enhanced."""
        enhancer = Enhancer(TorchBackend(model))
        names = {pair.test: pair.name for pair in self.pairs}

        def enhanced(path: str) -> np.ndarray:
            y = enhancer(path)
            write(os.path.join(self.folder, "enhanced", f"{names[path]}.wav"), y, SAMPLE_RATE)
            return y

        means = self._means(enhanced)
        return means | {f"{key}_gain": means[key] - self.noisy[key] for key in means if key in self.noisy}

    def _means(self, enhancer: Callable[[str], np.ndarray] | None) -> dict[str, float]:
        means = evaluate_pairs(self.pairs, enhancer, on_error="skip").means()
        return {key: round(means[key].mean, 4) for key in MEASURES if key in means}
