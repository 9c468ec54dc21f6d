"""`zipenhancer enhance -`: a WAV or raw PCM from stdin, or to stdout."""

import os
import sys
import time
from collections.abc import Iterator

import numpy as np

from ..audio.read import read
from ..audio.samples import pcm16
from ..audio.write import check_output, encode
from ..enhance.enhancer import Enhancer
from ..errors import OptionError
from .output import complain, say, speed

BLOCK = 1 << 16  # bytes read at most at a time; less when less is there


def run_pipe(args, options: dict) -> int:
    """What `zipenhancer enhance` does where - is the input or the output."""
    source, output = args.input[0], args.output or "-"
    if len(args.input) > 1:
        raise OptionError("- stands for one recording: give no other input with it")
    unfit = [name for name in ("resume", "dry_run", "plot", "report") if getattr(args, name)]
    several = (args.jobs or 1) > 1
    if unfit or several:
        unfit = [f"--{name.replace('_', '-')}" for name in unfit] + ["--jobs"] * several
        raise OptionError(f"{', '.join(unfit)}: not with - for stdin or stdout")
    if args.rate is not None and source != "-":
        raise OptionError("--rate is for raw PCM on stdin: give - as the input")
    if output == "-" and sys.stdout.isatty():
        raise OptionError("stdout is a terminal: redirect it, or name a file with -o")
    if args.rate is not None and output == "-":
        if args.sample_rate or args.format or args.bandwidth == "full":
            raise OptionError("--sample-rate, --format, --bandwidth: not for raw PCM, which is a stream")
        return enhance_raw(args)
    if output != "-":
        output = check_output(output)
        if args.format and os.path.splitext(output)[1].lower() != f".{args.format}":
            raise OptionError(f"-o {output!r} and --format {args.format} disagree: leave one out")
    enhancer = Enhancer.from_pretrained(args.model, args.device, args.backend, args.precision)
    if source == "-":
        source = sys.stdin.buffer.read()
        if args.rate is not None:
            source = np.frombuffer(source[: len(source) // 2 * 2], "<i2")
    started = time.perf_counter()
    x, rate = read(source, args.rate)
    y = enhancer.enhance(x, rate, **options)
    rate = args.sample_rate or rate
    if output == "-":
        sys.stdout.buffer.write(encode(y, rate, f".{args.format or 'wav'}"))
        sys.stdout.buffer.flush()
    else:
        enhancer.save(output, y, rate)
    return _say(output, len(y) / rate, time.perf_counter() - started, args.model)


def enhance_raw(args) -> int:
    """Raw PCM in, raw PCM out as it is ready: constant memory, for as long as it goes on."""
    enhancer = Enhancer.from_pretrained(args.model, args.device, args.backend, args.precision)
    stream = enhancer.stream(sample_rate=args.rate, strength=args.strength)
    say(f"zipenhancer: a stream, late by {stream.latency_ms:.0f} ms and the work", sys.stderr)
    started, samples = time.perf_counter(), 0
    for block in stream.run(_blocks(sys.stdin.buffer)):
        sys.stdout.buffer.write(pcm16(block).astype("<i2").tobytes())
        sys.stdout.buffer.flush()
        samples += len(block)
    return _say("-", samples / args.rate, time.perf_counter() - started, args.model)


def _blocks(file) -> Iterator[np.ndarray]:
    """int16 (samples,) of what arrives; half a sample waits for its other half."""
    half = b""
    while data := file.read1(BLOCK):
        data = half + data
        half = data[len(data) // 2 * 2 :]
        yield np.frombuffer(data[: len(data) // 2 * 2], "<i2")


def _say(output: str, seconds: float, spent: float, model: str) -> int:
    if seconds == 0:
        return complain("stdin held no samples", 1)
    say(f"{'stdout' if output == '-' else output}: {speed(seconds, spent)} with model {model}", sys.stderr)
    return 0
