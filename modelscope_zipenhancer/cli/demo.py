"""`zipenhancer demo`: a page to try a model on."""

import contextlib
import errno
import os
import signal
import socket
import sys
import tempfile
import threading

from ..errors import CheckpointError, ConfigError, ModelNotFoundError, OptionError, needed_by
from ..names import HUB_ID
from .output import complain, say

PORT = 7860  # gradio's, and that of ModelScope's studios


def add_arguments(parser) -> None:
    """The options of `zipenhancer demo`."""
    parser.description = (
        "A page in the browser: upload a recording or make one, hear and see it before and after."
    )
    add = parser.add_argument
    add(
        "--model",
        action="append",
        metavar="MODEL",
        help="offered beside tiny: a model dir, or a hub id; may be repeated. By default the released model, "
        "which is downloaded when a visitor first chooses it; one that is named here is loaded at once",
    )
    host, port = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), os.environ.get("GRADIO_SERVER_PORT", PORT)
    add("--host", default=host, help=f"address to listen on; 0.0.0.0 for all of this machine's ({host})")
    add("--port", type=int, default=port, help=f"port to listen on ({port}); 0: any that is free")
    add("--device", help="cpu, cuda, cuda:1, mps; default: cuda if there is one")
    add("--at-once", type=int, default=1, metavar="N", help="recordings worked on at a time (1)")


def run(args) -> int:
    """Run the command; returns the exit code, or raises."""
    # No counting of its users; and the files of visitors in a folder that goes when the server ends.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with needed_by("the page", "demo"):
        import gradio  # noqa: F401
    if args.at_once < 1:
        raise OptionError(f"--at-once {args.at_once}: 1 or more")
    port = free_port(args.host, args.port)

    from ..web.demo import Page
    from ..web.jobs import Models

    models = Models(["tiny", *(args.model or [HUB_ID])], device=args.device)
    try:
        for name in ["tiny", *(args.model or [])]:
            models.load(name)
    except (ModelNotFoundError, ConfigError, CheckpointError) as error:
        return complain(error, 2)
    with tempfile.TemporaryDirectory(prefix="zipenhancer-demo-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("GRADIO_TEMP_DIR", folder)
        page = Page(models, at_once=args.at_once)
        address = page.launch(args.host, port)
        say(f"{address} (Ctrl-C ends it)")
        sys.stdout.flush()
        wait_for_signal()
        page.close()
    return 0


def wait_for_signal() -> None:
    """Until Ctrl-C or SIGTERM, as containers are stopped."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with contextlib.suppress(KeyboardInterrupt):
        while not ended.wait(1.0):  # in turns: on Windows a signal doesn't end a wait
            pass


def free_port(host: str, port: int) -> int:
    """The port, any that is free for 0; OptionError if it is taken, or there is no such address."""
    if not 0 <= port <= 65535:
        raise OptionError(f"--port {port}: from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name != "nt":  # where it would take a port from another program
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return probe.getsockname()[1]
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise OptionError(
                f"port {port} can't be had at {host} ({error.strerror}): name another with --port, "
                "or --port 0 for any that is free"
            ) from error
        raise OptionError(
            f"no such address here: {host!r} ({error.strerror}); give --host 127.0.0.1 or 0.0.0.0"
        ) from error
