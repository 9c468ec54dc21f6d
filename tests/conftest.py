"""Networks that the tests share: small, with seeded weights, made when asked for."""

import json

import pytest
import torch

from modelscope_zipenhancer.config import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    ModelConfig,
    StackConfig,
    model_dir_configuration,
)
from modelscope_zipenhancer.model import ZipEnhancer, save_weights

SMALL = ModelConfig(
    channels=8,
    pos_dim=8,
    stacks=(
        StackConfig(1, 1, 1, 2, 4, 2, 3, 16, 7),
        StackConfig(2, 3, 2, 2, 4, 2, 3, 16, 7),
    ),
)


def seeded_model(config: ModelConfig = SMALL, seed: int = 0) -> ZipEnhancer:
    """A network with random weights in every entry, the unused ones too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ZipEnhancer(config)
        with torch.no_grad():
            for entry in model.state_dict().values():
                entry.add_(0.05 * torch.randn_like(entry))
    return model.eval().requires_grad_(False)


def write_model_dir(path, model: ZipEnhancer):
    """A ModelScope model dir with the released layout of weights."""
    path.mkdir(parents=True, exist_ok=True)
    (path / CONFIG_FILE).write_text(json.dumps(model_dir_configuration(model.config)))
    save_weights(model, str(path / WEIGHTS_FILE))
    return path


@pytest.fixture(scope="session")
def small_model() -> ZipEnhancer:
    return seeded_model()


@pytest.fixture(scope="session")
def small_model_dir(tmp_path_factory, small_model):
    return write_model_dir(tmp_path_factory.mktemp("model") / "small", small_model)
