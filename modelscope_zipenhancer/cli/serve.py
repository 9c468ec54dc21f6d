"""`zipenhancer serve`: an HTTP server on this machine."""

import argparse
import os

from ..errors import CheckpointError, ConfigError, ModelNotFoundError, OptionError, needed_by
from .model import add_model, chosen
from .output import complain, say

EXAMPLES = """examples:
  zipenhancer serve --port 8000
  curl --data-binary @noisy.wav localhost:8000/v1/enhance -o clean.wav
  curl -F file=@noisy.m4a -H 'Accept: audio/flac' 'localhost:8000/v1/enhance?strength=15' -o clean.flac
  http://localhost:8000/docs says the rest

environment:
  ZIPENHANCER_API_KEY  a key, or several with commas, one of which a request must have:
                       Authorization: Bearer KEY, or X-API-Key: KEY
  OMP_NUM_THREADS      threads of one recording; several recordings at a time are faster in all than one on
                       several cores: 1, say"""

KEYS = "ZIPENHANCER_API_KEY"
MB = 1 << 20


def add_arguments(parser) -> None:
    """The options of `zipenhancer serve`."""
    parser.description = (
        "Serve the model over HTTP: POST /v1/enhance, WebSocket /v1/stream, /healthz, /metrics."
    )
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all of this machine's")
    add("--port", type=int, default=8000, help="port to listen on (8000); 0: any that is free")
    add_model(parser)
    limits = parser.add_argument_group("the limits")
    add = limits.add_argument
    add("--threads", type=int, metavar="N", help="recordings at a time; by default as the cores allow")
    add("--queue", type=int, default=32, metavar="N", help="recordings that wait (32); the next gets 429")
    add("--streams", type=int, default=64, metavar="N", help="streams at a time (64)")
    add("--max-mb", type=float, default=10, metavar="MB", help="of a recording, as it is sent (10)")
    add("--max-seconds", type=float, default=900, metavar="S", help="of a recording (900)")
    add("--stop-seconds", type=float, default=30, metavar="S", help="for what runs when it is stopped (30)")
    add("--access-log", action="store_true", help="a line for each request")


def run(args) -> int:
    """Run the command; returns the exit code, or raises."""
    with needed_by("zipenhancer serve", "serve"):
        from ..web.app import make_app
        from ..web.server import listen, make_server
    limits = limits_of(args)
    raise_file_limit()
    with listen(args.host, args.port) as listening:  # before the model is loaded: a port may be taken
        try:
            enhancer, threads = load(args)
        except (ModelNotFoundError, ConfigError, CheckpointError) as error:
            return complain(error, 2)
        keys = [key.strip() for key in os.environ.get(KEYS, "").split(",") if key.strip()]
        app = make_app(enhancer, limits, threads, keys, args.model)
        level = "info" if args.access_log else "warning"
        server = make_server(app, limits, access_log=args.access_log, log_level=level)
        host, port = listening.getsockname()[:2]
        where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        say(f"zipenhancer: {where} serves {args.model}, {threads} at a time; Ctrl-C stops it", error=True)
        if not keys and host not in ("127.0.0.1", "::1"):
            say(f"zipenhancer: no {KEYS} is set: whoever reaches {where} can use it", error=True)
        server.run(sockets=[listening])
    return 0


def limits_of(args):
    """The limits that the options ask for, or OptionError."""
    from dataclasses import replace

    from ..audio.policy import SERVED
    from ..web.limits import Limits

    least = {"threads": 1, "queue": 0, "streams": 0, "max_mb": 0.001, "max_seconds": 0.1, "stop_seconds": 0}
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and not low <= value < 1e6:
            raise OptionError(f"--{name.replace('_', '-')} {value:g}: {low} or more")
    policy = replace(
        SERVED,
        max_bytes=int(args.max_mb * MB),
        max_duration=args.max_seconds,
        # as many as the default has for its seconds: 2 channels at 16 kHz, or 1 at 33 kHz
        max_samples=max(1, int(SERVED.max_samples / SERVED.max_duration * args.max_seconds)),
    )
    return Limits(policy=policy, queue=args.queue, streams=args.streams, stop_seconds=args.stop_seconds)


def load(args):
    """The Enhancer, and how many recordings are worked on at a time."""
    from ..enhance.enhancer import Enhancer

    enhancer = Enhancer.from_pretrained(**chosen(args))
    if args.threads:
        return enhancer, args.threads
    if enhancer.recordings_at_once > 1:  # a GPU, which takes them in common batches
        return enhancer, enhancer.recordings_at_once
    if args.backend != "torch":
        return enhancer, 1
    import torch

    from ..workers import cores

    return enhancer, max(1, cores() // torch.get_num_threads())


def raise_file_limit() -> None:
    """Let the process have as many open sockets as the system allows it; often 1024 until somebody asks."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else hard
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
