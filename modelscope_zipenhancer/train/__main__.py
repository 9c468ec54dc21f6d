"""python -m modelscope_zipenhancer.train: train the bundled tiny model (docs/training.md)."""

import argparse
import logging

from ..config import ModelConfig, StackConfig
from .data import AudioFolder, Mixer
from .loop import TrainOptions, train

TINY = ModelConfig(
    channels=16,
    pos_dim=24,
    stacks=(StackConfig(2, 2, query_dim=8, pos_head_dim=4, value_dim=6, feedforward_dim=96),) * 2,
    dropout=0.0,
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m modelscope_zipenhancer.train", description=__doc__)
    parser.add_argument("--clean", required=True, help="folder of clean speech")
    parser.add_argument("--noise", required=True, help="folder of noise")
    parser.add_argument("--out", required=True, help="folder of the run; goes on from its checkpoint")
    parser.add_argument("--steps", type=int, required=True, help="of the whole run, earlier parts counted")
    parser.add_argument("--decay", type=int, required=True, help="last steps over which the rate falls to 0")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    mixer = Mixer(AudioFolder(args.clean), AudioFolder(args.noise))
    train(TINY, mixer, TrainOptions(steps=args.steps, decay=args.decay), args.out)


if __name__ == "__main__":
    main()
