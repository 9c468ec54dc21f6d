"""`zipenhancer enhance`: its options, and what it says. The work is corpus/'s, that of pipes pipe.py's."""

import argparse
import contextlib
import os
import time

from ..errors import OptionError
from ..files import check_folder, make_folder, real_path
from .model import add_model, chosen
from .output import EXIT_CODES, complain, say, speed

EXAMPLES = """examples:
  zipenhancer enhance noisy.wav -o clean.wav
  zipenhancer enhance recordings/ -o clean/ --jobs 4 --resume
  zipenhancer enhance 'recordings/**/*.flac' -o clean/ --format wav
  zipenhancer enhance talk.wav -o clean.wav --strength 15 --plot talk.png
  zipenhancer enhance - < noisy.wav > clean.wav
  arecord -t raw -f S16_LE -r 48000 | zipenhancer enhance - --rate 48000 |
    aplay -t raw -f S16_LE -r 48000
"""


# What audio.write has, which is imported for work only
SUFFIXES = ("wav", "flac", "ogg", "opus", "mp3", "aiff", "au", "caf", "rf64", "w64")


def add_arguments(parser) -> None:
    """The options of `zipenhancer enhance`."""
    parser.description = "Denoise recordings: files, URLs, folders with all below them, globs, or stdin."
    parser.epilog = f"{EXAMPLES}\n{EXIT_CODES}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("input", nargs="+", metavar="INPUT", help="a file, URL, folder or glob; or - for stdin")
    add(
        "-o",
        "--output",
        metavar="OUT",
        help="a file for one recording, a folder for more, - for stdout; by default INPUT's name with "
        "_enhanced.wav (a folder's with _enhanced) here, or stdout for stdin",
    )
    add_sound_and_model(parser)
    work = parser.add_argument_group("the work")
    add = work.add_argument
    add(
        "--jobs",
        type=int,
        metavar="N",
        help="recordings at a time: on a CPU each in a process (1), on a GPU in common batches (8)",
    )
    add("--resume", action="store_true", help="leave out the recordings whose output is there")
    add("--strict", action="store_true", help="refuse recordings that are cut off, instead of a warning")
    add("--overwrite", action="store_true", help="allow outputs that are inputs")
    add("--dry-run", action="store_true", help="say what would be done, and do nothing")
    add("--plot", metavar="FILE.png", help="draw waveform and spectrogram before and after, of one recording")
    add("--report", metavar="FILE.json", help="what became of each recording")
    add("--rate", type=int, metavar="HZ", help="stdin is raw 16-bit mono PCM; so is stdout, while it arrives")


def add_sound_and_model(parser) -> None:
    """The options of what is heard, and of what computes it."""
    sound = parser.add_argument_group("the sound")
    add = sound.add_argument
    add("--format", metavar="SUFFIX", choices=SUFFIXES, help=f"{', '.join(SUFFIXES)}; by default the input's")
    add("--sample-rate", type=int, metavar="HZ", help="of the outputs; by default the input's")
    add(
        "--bits",
        choices=("16", "24", "32f"),
        help="of the samples where they aren't compressed, 24 of flac too; by default 16",
    )
    add("--bitrate", type=float, metavar="KBPS", help="of mp3, opus and ogg; by default the codec's own")
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
    add(
        "--gain",
        choices=("chunk", "recording"),
        default="chunk",
        help="beyond 6 s: each chunk at the network's level by itself, or all by one factor (chunk)",
    )
    add_model(parser)


def run(args) -> int:
    """Run the command; returns the exit code, or raises."""
    check(args)
    if args.report:
        check_folder(args.report)
    if "-" in args.input or args.output == "-":
        from .pipe import run_pipe

        return run_pipe(args, options(args))
    if args.rate is not None:
        raise OptionError("--rate is for raw PCM on stdin: give - as the input")
    if args.plot:
        from ..evaluate.spectrogram import check_plot

        check_plot(args.plot)

    from ..audio.policy import without_password
    from ..corpus.find import (
        find_jobs,
        names_several,
        refuse_as_recordings,
        refuse_inputs_as_outputs,
        split_done,
    )
    from ..corpus.report import Result, Summary, write_report

    jobs = find_jobs(args.input, args.output, f".{args.format}" if args.format else None)
    if args.plot and len(jobs) > 1:
        raise OptionError(f"--plot draws one recording, these are {len(jobs)}")
    refuse_as_recordings(jobs, {"--report": args.report, "--plot": args.plot})
    if not args.overwrite:
        refuse_inputs_as_outputs(jobs)
    elif args.resume:
        raise OptionError(
            "--resume and --overwrite: an output that is an input is always there; leave one out"
        )
    todo, skipped = split_done(jobs) if args.resume else (jobs, [])
    say_renamed(jobs)
    if args.dry_run:
        for job in skipped:
            say(f"{without_password(job.source)} -> {job.output} (skipped: it is there)")
        for job in todo:
            say(f"{without_password(job.source)} -> {job.output}")
        return 0
    single = not names_several(args.input)
    if todo:
        check_place(args, todo, single)
    summary = Summary(len(jobs), [Result(job.source, job.output, "skipped") for job in skipped])
    before = read_for_plot(todo[0]) if args.plot and todo else None
    started = time.perf_counter()
    try:
        with contextlib.closing(enhanced(args, todo)) as results:
            for result in results:
                summary.results.append(result)
        if args.plot and todo and summary.results[0].status == "done":
            plot(args.plot, before, todo[0])
    except KeyboardInterrupt:
        summary.interrupted = True
    summary.spent = time.perf_counter() - started
    if args.report:
        write_report(args.report, summary, args.model, args.backend, options(args))
    return summarize(summary, args.model, single)


def check(args) -> None:
    """OptionError if an option is out of range."""
    from ..enhance.enhancer import check_options

    check_options(args.sample_rate, args.strength, args.bandwidth)
    if args.jobs is not None and args.jobs < 1:
        raise OptionError(f"--jobs {args.jobs}: 1 or more")


def options(args) -> dict:
    """Those of Enhancer.enhance_file."""
    return {
        "output_rate": args.sample_rate,
        "mono": args.mono,
        "strength": args.strength,
        "bandwidth": args.bandwidth,
        "gain": args.gain,
        "bits": args.bits,
        "bitrate": args.bitrate,
        "strict": args.strict,
    }


def check_place(args, jobs: list, single: bool) -> None:
    """Make the outputs' folder, or say that they can't be written: now, not after the model is loaded."""
    from ..audio.write import check_format, check_output

    first = jobs[0].output
    if single and not (args.output and args.output.endswith(("/", os.sep))):
        check_output(first, args.sample_rate, bits=args.bits, bitrate=args.bitrate)
        return
    by_format = {os.path.splitext(job.output)[1]: job.output for job in reversed(jobs)}
    for output in by_format.values():
        check_format(output, args.sample_rate, bits=args.bits, bitrate=args.bitrate)
    make_folder(args.output or os.path.dirname(first))


def enhanced(args, jobs: list):
    """Yield the results, with a progress bar on a terminal."""
    from ..corpus.run import Work
    from ..corpus.run import run as run_jobs
    from .progress import Bar

    work = Work(chosen(args), options(args), args.jobs)
    with Bar(len(jobs)) as bar, contextlib.closing(run_jobs(jobs, work, progress=bar.within)) as finished:
        for _, (result,) in finished:
            bar.finish(result)
            yield result


def read_for_plot(job):
    """(samples, rate) of a recording whose place its output will take, else None."""
    from ..audio.read import read
    from ..errors import ZipEnhancerError

    if real_path(job.source) != real_path(job.output):
        return None
    with contextlib.suppress(ZipEnhancerError):  # which the run will say
        return read(job.source)


def plot(path: str, before, job) -> None:
    """Draw one recording before, which is read unless it has been, and after."""
    from ..audio.read import read
    from ..evaluate.spectrogram import save_plot

    (x, rate), (enhanced, enhanced_rate) = before or read(job.source), read(job.output)
    save_plot(path, x, enhanced, rate, enhanced_rate)


def say_renamed(jobs: list) -> None:
    """Say which recordings don't get their usual names."""
    renamed = [job for job in jobs if job.renamed]
    if renamed:
        more = f" (and {len(renamed) - 1} more)" if len(renamed) > 1 else ""
        first = renamed[0]
        complain(f"another recording has the name of {first.source!r}: it becomes {first.output!r}{more}", 0)


def summarize(summary, model: str, single: bool) -> int:
    """Say what was done, on stderr what failed; returns the exit code."""
    counts, failed, total = summary.counts, summary.failed, summary.recordings
    if single and counts["done"]:
        (done,) = summary.results
        say(f"{done.output}: {speed(done.seconds, done.spent)} with model {model}")
    elif single and counts["skipped"]:
        say(f"{summary.results[0].output}: skipped, it is there")
    elif not single:
        also = "".join(f", {counts[status]} {status}" for status in ("skipped", "failed") if counts[status])
        work = f": {speed(summary.audio_seconds, summary.spent)} with model {model}" if counts["done"] else ""
        say(f"{counts['done']} of {total} done{also}{work}")
    for result in summary.results:
        for warning in result.warnings:
            complain(warning, 0)
    if len(failed) > 1 or (failed and not single):
        complain(f"{len(failed)} of {total} failed:", 1)
    for result in failed:
        complain(result.error, 1)
    if summary.interrupted:
        left = total - len(summary.results)
        what = f"{counts['done']} done, {left} left: the same command with --resume goes on"
        return complain(f"interrupted, {what if counts['done'] else 'nothing was written'}", 130)
    return 1 if failed else 0
