"""Which recordings there are, and where each goes: jobs, and those of them that are done already.

A job is done when its output is there: files appear whole, so work that was cut off, even by
SIGKILL, is resumed with the jobs whose outputs are missing.
"""

import functools
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ..audio.write import FORMATS
from ..errors import AudioNotFoundError, OptionError, OutputError
from ..files import by_folder, local_path, real_path, recordings


class Job(NamedTuple):
    source: str  # a path or URL
    output: str  # a path
    renamed: bool = False  # the output has a name of its own, since another recording has the usual one
    start: float = 0.0  # seconds: a part of the source
    seconds: float | None = None  # of the part; None: to the end
    channels: tuple[int, ...] | None = None  # those of the part; None: all


class Claim(NamedTuple):
    source: str
    output: str  # where it would go if no other recording went there
    suffix: str  # the source's own
    part: tuple = ()  # Job's start, seconds and channels


def find_jobs(inputs: list[str], output: str | None, suffix: str | None = None) -> list[Job]:
    """Jobs for files, URLs, folders (recursive) and globs, in the order given, each file once.

    Arguments and errors are `find_claims`'s. Two that would have one output, as talk.wav and talk.m4a
    beside each other, get two: talk.wav and talk_m4a.wav; the plain name is for the one whose own suffix
    it has.
    """
    return list(distinct(find_claims(inputs, output, suffix)))


def find_claims(inputs: list[str], output: str | None, suffix: str | None = None) -> list[Claim]:
    """The recordings, each with the output that it would have if it were alone.

    Args:
        output: of one file its name, or a folder; of more a folder, in which an input folder's tree
            is mirrored. By default NAME_enhanced.wav for a file, and NAME_enhanced/ for a folder, here.
        suffix: of the outputs; by default the input's own if it can be written, else '.wav'.

    Raises:
        AudioNotFoundError: for a folder or glob without recordings.
        OptionError: where a name for one output meets several recordings, or contradicts the suffix.
    """
    inputs = [local_path(item) for item in inputs]
    several = names_several(inputs)
    into_folder = several or (output and (os.path.isdir(output) or output.endswith(("/", os.sep))))
    if several and output and os.path.splitext(output)[1].lower() in FORMATS:
        raise OptionError(f"-o {output!r} names a file, and there are several recordings: name a folder")
    if output and not into_folder and suffix and os.path.splitext(output)[1].lower() != suffix:
        raise OptionError(f"-o {output!r} and --format {suffix[1:]} disagree: leave one out")
    claims = []
    for item in inputs:
        folder = _folder_name(item)
        into = os.path.join(output or f"{folder}_enhanced", "")
        found = list(expand(item, output or (f"{folder}_enhanced" if folder else None)))
        if not found:
            raise AudioNotFoundError(
                f"no recordings in the folder {item!r}: none ends as audio files do"
                if folder
                else f"no file matches {item!r}"
            )
        for source, name in found:
            stem, given = os.path.splitext(name)
            if output and not into_folder:
                target = output
            elif output or folder:
                target = into + stem + (suffix or writable(given))
            else:
                target = f"{os.path.basename(stem)}_enhanced{suffix or '.wav'}"
            claims.append(Claim(source, target, given))
    return _once(claims) if len(inputs) > 1 else claims


def _once(claims: list[Claim]) -> list[Claim]:
    """The first claim of each recording: of a folder and one in it, say."""
    real, first = functools.cache(real_path), {}
    for claim in claims:
        folder, name = os.path.split(claim.source)
        at = claim.source if "://" in claim.source else os.path.join(real(folder or "."), name)
        first.setdefault(at, claim)
    return list(first.values())


def writable(suffix: str) -> str:
    """A recording's suffix if it can be written, else '.wav'."""
    return suffix.lower() if suffix.lower() in FORMATS else ".wav"


def names_several(inputs: list[str]) -> bool:
    """Whether these may be more than one recording, however many there are."""
    inputs = [local_path(item) for item in inputs]
    return len(inputs) > 1 or os.path.isdir(inputs[0]) or _is_pattern(inputs[0])


def refuse_inputs_as_outputs(
    jobs: Sequence[Job], remedy: str = "name another with -o, or pass --overwrite"
) -> None:
    """OutputError, which says the remedy, if a job would write over a recording of this run."""
    sources = _real_names(job.source for job in jobs)
    outputs = _real_names(job.output for job in jobs)
    both = {folder: sources[folder] & outputs[folder] for folder in sources.keys() & outputs}
    if not any(both.values()):
        return
    over = []
    for job in jobs:
        folder, name = os.path.split(real_path(job.output))
        if name in both.get(folder, ()):
            over.append(job.output)
    more = f" (and {len(over) - 1} more)" if len(over) > 1 else ""
    raise OutputError(f"the output {over[0]!r} is the input{more}: {remedy}")


def refuse_as_recordings(jobs: Sequence[Job], files: dict[str, str | None]) -> None:
    """OptionError if a file that an option names is a recording of this run, or its output."""
    named = {option: path for option, path in files.items() if path}
    if not named:
        return
    taken = _real_names(path for job in jobs for path in (job.source, job.output))
    for option, path in named.items():
        folder, name = os.path.split(real_path(path))
        if name in taken.get(folder, ()):
            raise OptionError(f"{option} {path!r} is a recording of this run: name another file")


def split_done(jobs: Iterable[Job]) -> tuple[list[Job], list[Job]]:
    """The jobs that are to be done, and those whose output is there."""
    entries = functools.cache(_entries)
    todo, done = [], []
    for job in jobs:
        folder, name = os.path.split(job.output)
        is_link = entries(folder).get(name)
        there = os.path.exists(job.output) if is_link else is_link is not None
        (done if there else todo).append(job)
    return todo, done


def distinct(claims: Sequence[Claim]) -> Iterator[Job]:
    """Jobs of which each recording has one output, and each output one recording.

    Raises:
        OptionError: where names alone can't tell them apart.
    """
    absolute = functools.cache(os.path.abspath)

    def key_of(output: str) -> str:
        folder, name = os.path.split(output)
        return os.path.join(absolute(folder), os.path.normcase(name))

    keys = [key_of(claim.output) for claim in claims]
    holders = {}  # {key: the claim that gets the output}
    for key, claim in zip(keys, claims):
        holder = holders.setdefault(key, claim)
        if holder.suffix != claim.suffix == os.path.splitext(claim.output)[1]:
            holders[key] = claim
    for key, claim in zip(keys, claims):
        holder = holders[key]
        if holder is claim:
            yield Job(claim.source, claim.output, False, *claim.part)
        elif real_path(holder.source) != real_path(claim.source):
            stem, suffix = os.path.splitext(claim.output)
            own = f"{stem}_{claim.suffix[1:]}{suffix}"
            other = holders.setdefault(key_of(own), claim)
            if claim.suffix == holder.suffix or other is not claim:
                raise OptionError(
                    f"{holder.source!r} and {claim.source!r} would both become {claim.output!r}: enhance "
                    "them in two runs, or give the folder that holds both"
                )
            yield Job(claim.source, own, True, *claim.part)


def expand(
    item: str, output: str | None, wanted: Callable[[str], object] | None = None
) -> Iterator[tuple[str, str]]:
    """(source, name relative to the output folder) of the recordings that one input stands for.

    Args:
        output: a folder; what an earlier run wrote there is no recording.
        wanted: of a folder's files, by name; by default what `is_recording`.
    """
    if re.match(r"https?://", item, re.IGNORECASE):
        try:
            name = os.path.basename(unquote(urlsplit(item).path))
        except ValueError as error:
            raise OptionError(f"{item!r} is no URL: {error}") from error
        yield item, name or "download"
    elif os.path.isdir(item):
        above = len(os.path.join(item, ""))
        yield from ((path, path[above:]) for path in recordings(item, output, wanted))
    elif _is_pattern(item):
        base = os.path.dirname(re.split(r"[*?\[]", item)[0]) or "."
        found = sorted(path for path in glob.glob(item, recursive=True) if os.path.isfile(path))
        below, outputs = (os.path.join(real_path(folder), "") for folder in (base, output or base))
        if outputs != below and outputs.startswith(below):
            found = [path for path in found if not real_path(path).startswith(outputs)]
        yield from ((path, os.path.relpath(path, base)) for path in found)
    else:  # a missing file too: it fails when its turn comes, as a damaged one does
        yield item, os.path.basename(item)


def _folder_name(item: str) -> str:
    """The name of an input that is a folder, or ''."""
    return (os.path.basename(os.path.abspath(item)) or "root") if os.path.isdir(item) else ""


def _is_pattern(item: str) -> bool:
    return glob.has_magic(item) and not os.path.exists(item) and "://" not in item


def _real_names(paths: Iterable[str]) -> dict[str, set[str]]:
    """{folder: names in it} of paths, links resolved; looks into each folder once."""
    real = {}
    for folder, names in by_folder(paths).items():
        entries = _entries(folder)
        links = {name for name in names if entries.get(name)}
        real.setdefault(real_path(folder), set()).update(map(os.path.normcase, set(names) - links))
        for link in links:
            target, name = os.path.split(real_path(os.path.join(folder, link)))
            real.setdefault(target, set()).add(name)
    return real


def _entries(folder: str) -> dict[str, bool]:
    """{name: whether it is a link} of what is in a folder; empty where there is none, as of a URL."""
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name: entry.is_symlink() for entry in entries}
    except OSError:
        return {}
