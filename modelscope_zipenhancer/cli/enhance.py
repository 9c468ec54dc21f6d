"""`zipenhancer enhance`: its options, its progress and what it says. The work is batch.py's."""

import contextlib
import json
import os
import time

from .. import __version__
from ..errors import OptionError
from ..files import check_folder
from .output import complain
from .progress import Bar


def add_arguments(parser) -> None:
    """The options of `zipenhancer enhance`."""
    add = parser.add_argument
    add("input", nargs="+", metavar="INPUT", help="a file, URL, folder or glob; or - for stdin")
    add(
        "-o",
        "--output",
        metavar="OUT",
        help="a file for one recording, a folder for more, - for stdout; by default INPUT's name with "
        "_enhanced.wav (a folder's with _enhanced) here, or stdout for stdin",
    )
    sound = parser.add_argument_group("the sound")
    add = sound.add_argument
    add("--format", choices=("wav", "flac", "ogg", "opus", "mp3", "aiff"), help="by default as the input's")
    add("--sample-rate", type=int, metavar="HZ", help="of the outputs; by default the input's")
    add("--mono", action="store_true", help="mix the channels; by default each is enhanced by itself")
    add(
        "--strength", type=float, metavar="DB", help="turn noise down by DB at most; by default without limit"
    )
    add(
        "--bandwidth",
        choices=("low", "full"),
        default="low",
        help="of inputs beyond 16 kHz: low drops what is above 8 kHz, full keeps it, with speech (low)",
    )
    model = parser.add_argument_group("the model")
    add = model.add_argument
    add("--model", default="tiny", help="tiny (bundled, the default), a model dir, or a hub id")
    add("--device", help="cpu, cuda, cuda:1, mps; default: cuda if there is one")
    add(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="bf16: faster on CPUs that have it; fp16: on GPUs",
    )
    add("--backend", default="torch", help="torch (the default)")
    work = parser.add_argument_group("the work")
    add = work.add_argument
    add(
        "--jobs",
        type=int,
        metavar="N",
        help="recordings at a time: on a CPU each in a process (1), on a GPU in common batches (8)",
    )
    add("--resume", action="store_true", help="leave out the recordings whose output is there")
    add("--overwrite", action="store_true", help="allow outputs that are inputs")
    add("--dry-run", action="store_true", help="say what would be done, and do nothing")
    add("--plot", metavar="FILE.png", help="draw waveform and spectrogram before and after, of one recording")
    add("--report", metavar="FILE.json", help="what became of each recording")
    add("--rate", type=int, metavar="HZ", help="stdin is raw 16-bit mono PCM; so is stdout, while it arrives")


def run(args) -> int:
    """Run the command; returns the exit code, or raises."""
    from ..enhance.enhancer import check_options

    check_options(args.sample_rate, args.strength, args.bandwidth)
    if args.jobs is not None and args.jobs < 1:
        raise OptionError(f"--jobs {args.jobs}: 1 or more")
    if args.report:
        check_folder(args.report)
    if "-" in args.input or args.output == "-":
        from .pipe import run_pipe

        return run_pipe(args)
    if args.rate is not None:
        raise OptionError("--rate is for raw PCM on stdin: give - as the input")
    if args.plot:
        from ..evaluate.spectrogram import check_plot

        check_plot(args.plot)

    from ..audio.write import check_output
    from ..corpus.find import find_jobs, names_several, refuse_inputs_as_outputs
    from ..corpus.run import Result
    from ..files import make_folder

    jobs = find_jobs(args.input, args.output, f".{args.format}" if args.format else None)
    if args.plot and len(jobs) > 1:
        raise OptionError(f"--plot draws one recording, these are {len(jobs)}")
    if not args.overwrite:
        refuse_inputs_as_outputs(jobs)
    elif args.resume:
        raise OptionError(
            "--resume and --overwrite: an output that is an input is always there; leave one out"
        )
    there = [job for job in jobs if args.resume and os.path.exists(job.output)]
    results = [Result(job.source, job.output, "there") for job in there]
    todo = [job for job in jobs if job not in set(there)]
    if args.dry_run:
        for result in results:
            print(f"{result.source} -> {result.output} (is there)")
        for job in todo:
            print(f"{job.source} -> {job.output}")
        return 0
    single = not names_several(args.input)
    if todo:
        if not single or args.output and args.output.endswith(("/", os.sep)):
            make_folder(args.output or os.path.dirname(todo[0].output))
        else:
            check_output(todo[0].output)  # now, not after the model is loaded
    started = time.perf_counter()
    interrupted = False
    try:
        with contextlib.closing(enhanced(args, todo)) as stream:
            for result in stream:
                results.append(result)
        if args.plot and results and results[0].status == "done":
            plot(args.plot, results[0])
    except KeyboardInterrupt:
        interrupted = True
    spent = time.perf_counter() - started
    if args.report:
        write_report(args, results, len(jobs), spent, interrupted)
    return summarize(args, results, len(jobs), spent, interrupted, single)


def options(args) -> dict:
    """Those of Enhancer's calls."""
    return {
        "output_rate": args.sample_rate,
        "mono": args.mono,
        "strength": args.strength,
        "bandwidth": args.bandwidth,
    }


def enhanced(args, jobs: list):
    """Yield the results, with a progress bar on a terminal."""
    if not jobs:
        return
    from ..corpus import run as batch
    from ..enhance.enhancer import Enhancer
    from ..runtime.backend import preferred_batch_size
    from ..runtime.batching import AT_ONCE

    load = (args.model, args.device, args.backend, args.precision)
    enhancer = Enhancer.from_pretrained(*load)  # here too: an unknown model is said once, and at once
    together = preferred_batch_size(enhancer.backend) > 1
    count = min(args.jobs or (AT_ONCE if together else 1), len(jobs))
    with Bar(jobs) as bar:
        if count == 1:
            stream = (batch.run_job(enhancer, job, options(args), bar.within(job)) for job in jobs)
        elif together:
            stream = batch.run_jobs_together(enhancer, jobs, options(args), count)
        else:
            del enhancer
            stream = batch.run_jobs(load, jobs, options(args), count)
        with contextlib.closing(stream):
            for result in stream:
                bar.finish(result)
                yield result


def plot(path: str, result) -> None:
    from ..audio.read import read
    from ..evaluate.spectrogram import save_plot

    before, before_rate = read(result.source)
    after, after_rate = read(result.output)
    save_plot(path, before, after, before_rate, after_rate)


def summarize(args, results: list, total: int, spent: float, interrupted: bool, single: bool) -> int:
    """Say what was done, on stderr what failed; returns the exit code."""
    done = [result for result in results if result.status == "done"]
    failed = [result for result in results if result.status == "failed"]
    there = len(results) - len(done) - len(failed)
    seconds = sum(result.seconds for result in done)
    speed = f"{seconds:.1f} s of audio enhanced in {spent:.1f} s (RTF {spent / max(seconds, 1e-9):.2f})"
    if single and done:
        spent = done[0].spent
        speed = f"{seconds:.1f} s of audio enhanced in {spent:.1f} s (RTF {spent / max(seconds, 1e-9):.2f})"
        print(f"{done[0].output}: {speed} with model {args.model}")
    elif single and there:
        print(f"{results[0].output}: is there, not done again")
    elif not single:
        also = (f", {there} were there" if there else "") + (f", {len(failed)} failed" if failed else "")
        print(f"{len(done)} of {total} done{also}: {speed} with model {args.model}")
    if len(failed) > 1 or (failed and not single):
        complain(f"{len(failed)} of {total} failed:", 1)
    for result in failed:
        complain(result.error, 1)
    if interrupted:
        left = total - len(results)
        what = f"{len(done)} done, {left} left: the same command with --resume goes on" if done else None
        return complain(f"interrupted, {what or 'nothing was written'}", 130)
    return 1 if failed else 0


def write_report(args, results: list, total: int, spent: float, interrupted: bool) -> None:
    """The JSON of --report."""
    from ..files import replacing

    seconds = sum(result.seconds for result in results)
    counts = {status: sum(r.status == status for r in results) for status in ("done", "failed", "there")}
    report = {
        "version": __version__,
        "model": args.model,
        "backend": args.backend,
        "options": options(args),
        "recordings": total,
        **counts,
        "interrupted": interrupted,
        "audio_seconds": round(seconds, 3),
        "spent_seconds": round(spent, 3),
        "rtf": round(spent / seconds, 4) if seconds else None,
        "results": [vars(result) for result in results],
    }
    with replacing(args.report) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1, ensure_ascii=False)
