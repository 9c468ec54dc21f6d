"""`zipenhancer evaluate`: its options, and what it says. The work is evaluate/'s."""

import contextlib
import functools
import os
import re
import sys
import tempfile

import numpy as np

from ..evaluate.pairs import find_pairs, mix_pairs
from ..evaluate.report import MEASURES, Report, changes, table, write_csv
from ..evaluate.run import evaluate_pairs
from ..files import make_folder
from ..names import SAMPLE_RATE
from ..workers import cores
from .output import complain, on_terminal, say


def add_arguments(parser) -> None:
    """The options of `zipenhancer evaluate`."""
    parser.add_argument("--clean", metavar="DIR", help="clean speech; without it only DNSMOS is measured")
    parser.add_argument("--noisy", metavar="DIR", help="recordings to measure, and to enhance with --model")
    parser.add_argument("--enhanced", metavar="DIR", action="append", default=[], help="may be repeated")
    parser.add_argument("--model", action="append", default=[], help="enhance the noisy; may be repeated")
    parser.add_argument("--device", help="of the models: cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--gain", choices=("chunk", "recording"), default="chunk", help="of the models, beyond 6 s (chunk)"
    )
    parser.add_argument("--noise", metavar="DIR", help="make the noisy from --clean and these noises")
    parser.add_argument(
        "--snr", type=float, nargs="+", default=[0, 5, 10, 15], help="in dB, of mixtures (0 5 10 15)"
    )
    parser.add_argument("--count", type=int, default=16, help="mixtures for each SNR (16)")
    parser.add_argument("--seed", type=int, default=0, help="of the mixtures (0)")
    parser.add_argument("--mixtures", metavar="DIR", help="keep the mixtures here, in noisy/ and clean/")
    parser.add_argument("--dnsmos", metavar="ONNX", help="DNSMOS P.835: the path of sig_bak_ovr.onnx")
    parser.add_argument("--by-snr", action="store_true", help="group by the snrN in names; so for mixtures")
    parser.add_argument("--csv", metavar="FILE", help="a line for each file, the means at the end")
    parser.add_argument("--spectrograms", metavar="DIR", help="a picture for each file and system")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes (all cores)")
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="skip: name and count")


def run(args) -> int:
    """Run the command, print the table; 0, 1 if a system has no result, 2 if the options don't fit."""
    wrong = _wrong_options(args)
    if wrong:
        return complain(wrong, 2)
    if args.csv:
        make_folder(os.path.dirname(os.path.abspath(args.csv)))
    reports = {}
    with contextlib.ExitStack() as stack:
        for system, pairs, failures, enhancer in _systems(args, stack):

            def progress(done, system=system, total=len(pairs)):
                print(f"\r{system}: {done}/{total} ", end="", file=sys.stderr, flush=True)

            pictures = args.spectrograms and os.path.join(args.spectrograms, re.sub(r"[^\w.-]+", "_", system))
            shown = progress if on_terminal() else None
            options = (args.dnsmos, args.jobs, args.on_error, pictures, shown)
            reports[system] = evaluate_pairs(pairs, enhancer, *options)
            reports[system].failures[:0] = failures
            print("\r\033[K" if shown else "", end="", file=sys.stderr)
    say(table(reports, args.by_snr or bool(args.noise)))
    for system, report in reports.items():
        for f in report.failures:
            say(f"left out of {system}: {f.name}: {f.what}: {f.reason}", error=True)
        if report.failures:
            say(f"{system}: {len(report.failures)} left out", error=True)
        key = "pesq_wb" if args.clean else "dnsmos_ovr"
        if system != "noisy" and (change := changes(reports.get("noisy", Report()), report, key)):
            worst = min(change, key=change.get)
            say(
                f"{system}: {MEASURES[key][0]} {np.mean(list(change.values())):+.2f} over noisy; "
                f"of the worst file {change[worst]:+.2f} ({worst})"
            )
    if args.csv:
        write_csv(args.csv, reports)
    return 0 if all(report.rows for report in reports.values()) else 1


def _wrong_options(args) -> str | None:
    if not (args.noisy or args.enhanced or args.noise):
        return "nothing to measure: give --noisy, --enhanced or --noise"
    if args.noise and (args.noisy or args.enhanced or not args.clean):
        return "--noise makes the noisy from --clean: not with --noisy or --enhanced"
    if args.model and not (args.noisy or args.noise):
        return "--model needs --noisy, or --noise"
    if not (args.clean or args.dnsmos):
        return "without --clean there is only DNSMOS to measure: give --dnsmos"
    if args.count < 1 or args.jobs < 1:
        return "--count and --jobs must be 1 or more"
    systems = ["noisy"] * bool(args.noisy or args.noise) + args.enhanced + args.model
    twice = [name for name in systems if systems.count(name) > 1]
    if twice:
        return f"two systems would be called {twice[0]!r} in the table: give one of them by another path"
    return None


def _systems(args, stack: contextlib.ExitStack):
    """(name, pairs, failures, enhancer or None) of each column of recordings to be measured."""
    noisy = None
    if args.noise:
        out_dir = args.mixtures or stack.enter_context(tempfile.TemporaryDirectory())
        noisy = mix_pairs(args.clean, args.noise, args.snr, args.count, out_dir, args.seed, args.on_error)
    elif args.noisy:
        noisy = find_pairs(args.clean, args.noisy, args.on_error)
    if noisy:
        yield "noisy", *noisy, None
    for folder in args.enhanced:
        yield folder, *find_pairs(args.clean, folder, args.on_error), None
    for model in args.model:
        from ..enhance.enhancer import Enhancer

        enhancer = Enhancer.from_pretrained(model, args.device)
        yield model, *noisy, functools.partial(enhancer, output_rate=SAMPLE_RATE, mono=True, gain=args.gain)
