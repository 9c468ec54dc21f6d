"""Which recordings there are, and where each goes: jobs, and those of them that are done already.

A job is done when its output is there: files appear whole, so work that was cut off, even by
SIGKILL, is resumed with the jobs whose outputs are missing.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ..audio.write import FORMATS
from ..errors import AudioNotFoundError, OptionError, OutputError
from ..files import real_path, recordings


@dataclass(frozen=True)
class Job:
    source: str  # a path or URL
    output: str  # a path
    renamed: bool = False  # the output has a name of its own, since another recording has the usual one


class Claim(NamedTuple):
    source: str
    output: str  # where it would go if no other recording went there
    suffix: str  # the source's own


class Found(NamedTuple):
    source: str
    name: str  # relative to the output folder
    folder: str  # the name of the input folder that it was found in, or ''


def find_jobs(inputs: list[str], output: str | None, suffix: str | None = None) -> list[Job]:
    """Jobs for files, URLs, folders (recursive) and globs, in the order given, each file once.

    Two that would have one output, as talk.wav and talk.m4a beside each other, get two: talk.wav and
    talk_m4a.wav; the plain name is for the one whose own suffix it has.

    Args:
        output: of one file its name, or a folder; of more a folder, in which an input folder's tree
            is mirrored. By default NAME_enhanced.wav for a file, and NAME_enhanced/ for a folder, here.
        suffix: of the outputs; by default the input's own if it can be written, else '.wav'.

    Raises:
        AudioNotFoundError: for a folder or glob without recordings.
        OptionError: where a name for one output meets several recordings, or contradicts the suffix.
    """
    several = names_several(inputs)
    into_folder = several or (output and (os.path.isdir(output) or output.endswith(("/", os.sep))))
    if several and output and os.path.splitext(output)[1].lower() in FORMATS:
        raise OptionError(f"-o {output!r} names a file, and there are several recordings: name a folder")
    if output and not into_folder and suffix and os.path.splitext(output)[1].lower() != suffix:
        raise OptionError(f"-o {output!r} and --format {suffix[1:]} disagree: leave one out")
    claims = []
    for item in inputs:
        for source, name, folder in _expand(item, output):
            stem, given = os.path.splitext(name)
            own = given.lower() if given.lower() in FORMATS else ".wav"
            if output and not into_folder:
                target = output
            elif output or folder:
                target = os.path.join(output or f"{folder}_enhanced", stem + (suffix or own))
            else:
                target = f"{os.path.basename(stem)}_enhanced{suffix or '.wav'}"
            claims.append(Claim(source, target, given))
    return list(_distinct(claims))


def names_several(inputs: list[str]) -> bool:
    """Whether these may be more than one recording, however many there are."""
    return len(inputs) > 1 or os.path.isdir(inputs[0]) or _is_pattern(inputs[0])


def refuse_inputs_as_outputs(jobs: Iterable[Job]) -> None:
    """OutputError if a job would write over a recording of this run."""
    sources = {_identity(job.source) for job in jobs} - {None}
    over = [job.output for job in jobs if _identity(job.output) in sources]
    if over:
        more = f" (and {len(over) - 1} more)" if len(over) > 1 else ""
        raise OutputError(
            f"the output {over[0]!r} is the input{more}: name another with -o, or pass --overwrite"
        )


def split_done(jobs: Iterable[Job]) -> tuple[list[Job], list[Job]]:
    """The jobs that are to be done, and those whose output is there."""
    todo, done = [], []
    for job in jobs:
        (done if os.path.exists(job.output) else todo).append(job)
    return todo, done


def _distinct(claims: list[Claim]) -> Iterator[Job]:
    """Jobs of which each recording has one output, and each output one recording."""
    keys = [os.path.normcase(os.path.abspath(claim.output)) for claim in claims]
    holders = {}  # {key: the claim that gets the output}
    for key, claim in zip(keys, claims):
        plain = claim.suffix == os.path.splitext(claim.output)[1]
        if key not in holders or plain and holders[key].suffix != claim.suffix:
            holders[key] = claim
    for key, claim in zip(keys, claims):
        holder = holders[key]
        if holder is claim:
            yield Job(claim.source, claim.output)
        elif real_path(holder.source) != real_path(claim.source):
            stem, suffix = os.path.splitext(claim.output)
            own = f"{stem}_{claim.suffix[1:]}{suffix}"
            other = holders.setdefault(os.path.normcase(os.path.abspath(own)), claim)
            if claim.suffix == holder.suffix or other is not claim:
                raise OptionError(
                    f"{holder.source!r} and {claim.source!r} would both become {claim.output!r}: enhance "
                    "them in two runs, or give the folder that holds both"
                )
            yield Job(claim.source, own, renamed=True)


def _expand(item: str, output: str | None) -> Iterator[Found]:
    """The recordings that one input stands for."""
    if re.match(r"https?://", item, re.IGNORECASE):
        yield Found(item, os.path.basename(unquote(urlsplit(item).path)) or "download", "")
    elif os.path.isdir(item):
        folder = os.path.basename(os.path.abspath(item)) or "root"
        found = [
            Found(path, os.path.relpath(path, item), folder)
            for path in recordings(item, skip=output or f"{folder}_enhanced")
        ]
        if not found:
            raise AudioNotFoundError(f"no recordings in the folder {item!r}: none ends as audio files do")
        yield from found
    elif _is_pattern(item):
        base = re.split(r"[*?\[]", item)[0].rpartition("/")[0] or "."
        found = sorted(path for path in glob.glob(item, recursive=True) if os.path.isfile(path))
        if not found:
            raise AudioNotFoundError(f"no file matches {item!r}")
        yield from (Found(path, os.path.relpath(path, base), "") for path in found)
    else:  # a missing file too: it fails when its turn comes, as a damaged one does
        yield Found(item, os.path.basename(item), "")


def _is_pattern(item: str) -> bool:
    return glob.has_magic(item) and not os.path.exists(item) and "://" not in item


def _identity(path: str) -> tuple[int, int] | None:
    """What two names of one file share; None of a file that isn't there, and of a URL."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
