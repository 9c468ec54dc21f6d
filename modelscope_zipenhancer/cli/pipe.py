"""`zipenhancer enhance -`: a WAV or raw PCM from stdin, or to stdout."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator

import numpy as np

from ..audio.read import read
from ..audio.resample import check_rate
from ..audio.samples import pcm16
from ..audio.write import check_format, check_output, encode
from ..corpus.clip import Warnings
from ..enhance.enhancer import Enhancer
from ..errors import OptionError, StreamError
from .model import chosen
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
    if args.rate is not None:
        check_rate(args.rate)
    if (source == "-" and sys.stdin is None) or (output == "-" and sys.stdout is None):
        raise OptionError("- stands for stdin or stdout, which is closed here")
    if output == "-" and sys.stdout.isatty():
        raise OptionError("stdout is a terminal: redirect it, or name a file with -o")
    if args.rate is not None and output == "-":
        unfit = ["sample_rate", "format", "bits", "bitrate"]
        if any(getattr(args, name) for name in unfit) or (args.bandwidth, args.gain) != ("low", "chunk"):
            raise OptionError(
                "--sample-rate, --format, --bits, --bitrate, --bandwidth, --gain: not for raw PCM, "
                "which is a stream of 16 bits"
            )
        return enhance_raw(args)
    if output != "-":
        check_output(output, bits=args.bits, bitrate=args.bitrate)
        if args.format and os.path.splitext(output)[1].lower() != f".{args.format}":
            raise OptionError(f"-o {output!r} and --format {args.format} disagree: leave one out")
    else:
        check_format(f"stdout.{args.format or 'wav'}", args.sample_rate, None, args.bits, args.bitrate)
    enhancer = Enhancer.from_pretrained(**chosen(args))
    if source == "-":
        source = sys.stdin.buffer.read()
        if args.rate is not None:
            source = np.frombuffer(source[: len(source) // 2 * 2], "<i2")
    started = time.perf_counter()
    with Warnings() as warnings:
        if output == "-":
            seconds = enhance_to_stdout(enhancer, source, args, options)
        else:
            seconds = enhancer.enhance_file(source, output, args.rate, **options)
    for warning in warnings.said:
        complain(warning, 0)
    return _say(output, seconds, time.perf_counter() - started, args.model)


def enhance_to_stdout(enhancer: Enhancer, source, args, options: dict) -> float:
    """What Enhancer.enhance_file does, to stdout; returns the seconds."""
    written = {name: options.pop(name) for name in ("bits", "bitrate")}
    x, rate = read(source, args.rate, strict=options.pop("strict"))
    y = enhancer.enhance(x, rate, **options)
    rate = args.sample_rate or rate
    sys.stdout.buffer.write(encode(y, rate, f".{args.format or 'wav'}", **written))
    sys.stdout.buffer.flush()
    return len(y) / rate


def enhance_raw(args) -> int:
    """Raw PCM in, raw PCM out as it is ready: constant memory, for as long as it goes on."""
    enhancer = Enhancer.from_pretrained(**chosen(args))
    stream = enhancer.stream(sample_rate=args.rate, strength=args.strength)
    say(f"zipenhancer: a stream, late by {stream.latency_ms:.0f} ms and the work", error=True)
    started, samples = time.perf_counter(), 0

    def put(block: np.ndarray) -> None:
        nonlocal samples
        sys.stdout.buffer.write(pcm16(block).astype("<i2").tobytes())
        sys.stdout.buffer.flush()
        samples += len(block)

    try:
        for block in stream.run(_blocks(sys.stdin.buffer)):
            put(block)
    except KeyboardInterrupt:  # the way to end a microphone
        with contextlib.suppress(StreamError):  # it came while the network ran: what that had is lost
            put(stream.flush())
        return complain(f"interrupted after {samples / args.rate:.1f} s, which were written", 130)
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
    say(f"{'stdout' if output == '-' else output}: {speed(seconds, spent)} with model {model}", error=True)
    return 0
