"""`python -m modelscope_zipenhancer.train CONFIG ...`: `zipenhancer train`, for torchrun."""

import sys

from ..cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
