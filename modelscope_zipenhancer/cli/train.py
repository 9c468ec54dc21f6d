"""`zipenhancer train`: train a network from a config file."""

import logging
import os

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..files import make_folder
from ..train import loop
from ..train.allocator import keep_freed_memory
from ..train.config import read_config
from ..train.distributed import processes
from ..train.run_folder import CHECKPOINT_FILE
from ..train.validate import Validation
from .output import complain, say


def add_arguments(parser) -> None:
    """The options of `zipenhancer train`."""
    parser.add_argument("config", metavar="CONFIG", help="tiny, s, m, or a JSON file (docs/training.md)")
    parser.add_argument(
        "--out", metavar="RUN", required=True, help="folder of the run, resumed if there is one"
    )
    parser.add_argument("--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[], dest="settings")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; by default a CUDA device if there is one")


def run(args) -> int:
    """Run the command; returns the exit code, or raises."""
    keep_freed_memory()
    config = read_config(args.config, args.settings)
    batches = config.batches()
    with processes() as rank:
        logging.basicConfig(
            level=logging.INFO if rank == 0 else logging.ERROR, format="%(asctime)s %(message)s"
        )
        make_folder(args.out)
        validate = Validation(out_dir=args.out, **config.valid) if config.valid and rank == 0 else None
        with (
            logging_redirect_tqdm(),
            tqdm(total=config.train.steps, unit="step", disable=None if rank == 0 else True) as bar,
        ):

            def progress(step: int, loss: float) -> None:
                bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
                bar.update(step - bar.n)

            try:
                loop.train(
                    config.model,
                    batches,
                    config.train,
                    args.out,
                    init=config.init,
                    device=args.device,
                    validate=validate,
                    progress=progress,
                )
            except KeyboardInterrupt:
                there = os.path.exists(os.path.join(args.out, CHECKPOINT_FILE))
                left = f"the same command goes on from {args.out}" if there else "there is no checkpoint yet"
                return complain(f"interrupted: {left}", 130)
    if rank == 0:
        say(f"{args.out} is a model dir now: zipenhancer enhance noisy.wav --model {args.out}")
    return 0
