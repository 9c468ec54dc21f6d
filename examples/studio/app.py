"""The page of `zipenhancer demo` as a studio on ModelScope. Beside it: README.md says what to upload."""

import os

from modelscope_zipenhancer import cli

if __name__ == "__main__":
    os.environ.setdefault("GRADIO_SERVER_NAME", "0.0.0.0")
    raise SystemExit(cli.main(["demo"]))
