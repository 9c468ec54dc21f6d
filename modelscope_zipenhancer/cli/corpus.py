"""`zipenhancer corpus`: its options, and what it says. The work is corpus/'s."""

import argparse
import contextlib
import os
import re
import signal

from ..errors import OptionError
from .enhance import add_sound_and_model, check, options
from .model import chosen
from .output import EXIT_CODES, complain, say, speed

EXAMPLES = """examples:
  zipenhancer corpus recordings/ -o clean/
  zipenhancer corpus train.jsonl -o clean/ --format flac        NeMo's or Lhotse's fields, or CSV
  zipenhancer corpus shards/ -o clean/                          *.tar of WebDataset, *.parquet
  zipenhancer corpus s3://bucket/raw/ -o s3://bucket/clean/
  zipenhancer corpus train.jsonl -o clean/ --part 3/16          on 16 machines with a common disk
  zipenhancer corpus train.jsonl -o /shared/clean/ --where ray  on a Ray cluster

The same command goes on where a run was stopped, by whatever. clean/zipenhancer.jsonl says of each
recording what was done; train.jsonl is written there too, with the enhanced recordings in it."""


def add_arguments(parser) -> None:
    """The options of `zipenhancer corpus`."""
    parser.description = (
        "Denoise a corpus, here or elsewhere (s3://...): a manifest (JSONL, CSV), tar shards, a dataset, or "
        "files, folders and globs."
    )
    parser.epilog = f"{EXAMPLES}\n\n{EXIT_CODES}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "input",
        nargs="+",
        metavar="INPUT",
        help="a manifest; tar shards, Parquet files, a dataset (a folder of save_to_disk, or hf:NAME); or "
        "files, folders, globs and URLs",
    )
    add("--column", metavar="NAME", help="of a dataset: the one with the audio, where several have")
    add("-o", "--output", metavar="DIR", required=True, help="a folder, made if it isn't there")
    add_sound_and_model(parser)
    work = parser.add_argument_group("the work")
    add = work.add_argument
    add(
        "--jobs",
        type=int,
        metavar="N",
        help="on a CPU processes, of one thread each (all cores); on a GPU recordings at a time (8); over "
        "ray actors (as many as there is room for)",
    )
    add("--where", default="local", help="local (the default), or ray: on the cluster of RAY_ADDRESS")
    add("--cpus", type=float, default=1.0, metavar="N", help="over ray: of an actor (1)")
    add("--gpus", type=float, default=0.0, metavar="N", help="over ray: of an actor, a fraction too (0)")
    add("--part", type=_part, default=(1, 1), metavar="I/N", help="of N runs that share the work, the Ith")
    add("--retries", type=int, default=3, metavar="N", help="of what may pass: a network, a lost process (3)")
    add(
        "--patience",
        type=float,
        default=300.0,
        metavar="S",
        help="seconds of silence after which a process is ended, and its recordings are tried again (300)",
    )
    add("--retry-failed", action="store_true", help="also those that failed in an earlier run")
    add("--strict", action="store_true", help="refuse recordings that are cut off, instead of a warning")
    add("--dry-run", action="store_true", help="say what would be done, and do nothing")


def run(args) -> int:
    """Run the command; returns the exit code, or raises."""
    check(args)
    if args.retries < 0:
        raise OptionError(f"--retries {args.retries}: 0 or more")
    if not args.patience >= 3:  # a sign of life comes each second
        raise OptionError(f"--patience {args.patience:g}: 3 seconds or more")

    from ..audio.policy import without_password
    from ..corpus.make import FAILED_BEFORE, make, plan
    from ..corpus.run import PLACES, Care, Work
    from .progress import Progress

    if args.where not in PLACES:
        raise OptionError(f"--where {args.where}: {' or '.join(PLACES)}")
    suffix = f".{args.format}" if args.format else None
    planned = plan(args.input, args.output, suffix, args.column)
    if args.dry_run:
        for job in planned.jobs:
            say(f"{without_password(job.source)} -> {job.output}")
        return 0
    care = Care(args.retries, args.patience, True, args.cpus, args.gpus)
    work = Work(chosen(args), options(args), args.jobs, care)
    model_hash = hash_of(args.model, args.backend)
    settings = {
        "model": args.model,
        "model hash": model_hash,
        "precision": args.precision,
        "backend": args.backend,
        "format": args.format,
        **{name: value for name, value in work.options.items() if name != "strict"},
    }
    common = {"model": args.model, "model_hash": model_hash}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way to say Ctrl-C
    with Progress(len(planned.jobs)) as progress:
        made = make(
            planned,
            work,
            settings,
            common,
            where=args.where,
            part=args.part,
            retry_failed=args.retry_failed,
        )
        try:
            with contextlib.closing(made):
                for job, results in made:
                    if job in (None, FAILED_BEFORE):
                        progress.skip(failed=job is not None)
                        continue
                    for result in results:
                        for problem in (*result.warnings, *([result.error] if result.error else [])):
                            complain(problem, 0)
                    progress.finish(results)
        except KeyboardInterrupt:
            return complain(f"interrupted: {progress.text()}; the same command goes on", 130)
        finally:
            signal.signal(signal.SIGTERM, before)
    before = progress.before - progress.failed_before
    skipped = f", {before} done before or another part's" if before else ""
    if progress.failed_before:
        skipped += f", {progress.failed_before} failed before (--retry-failed does them again)"
    failed = f", {progress.failed} failed" if progress.failed else ""
    work = f": {speed(progress.seconds, progress.spent)} with model {args.model}" if progress.done else ""
    say(f"{progress.done} done{skipped}{failed}{work}")
    return 1 if progress.failed or progress.failed_before else 0


def hash_of(model: str, backend: str) -> str:
    """The SHA-256 of the file that holds the network; '' where there is none: loading it says so."""
    from ..files import sha256
    from ..names import WEIGHTS_FILE
    from ..network.pretrained import find_model

    folder = find_model(model)
    if backend == "onnx":
        from ..runtime.onnx import graph_of

        return sha256(graph_of(folder))
    path = os.path.join(folder, WEIGHTS_FILE)
    return sha256(path) if os.path.exists(path) else ""


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: I/N, as in 3/16")
    return int(found[1]), int(found[2])
