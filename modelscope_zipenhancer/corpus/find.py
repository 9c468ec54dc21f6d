"""Which recordings there are, and where each goes."""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ..audio.write import FORMATS
from ..errors import AudioNotFoundError, OptionError, OutputError

# In a folder, what has one of these endings is taken for a recording.
SUFFIXES = {
    *FORMATS,
    *(".aifc", ".au", ".caf", ".oga", ".rf64", ".snd", ".w64", ".wave"),
    *(".aac", ".amr", ".m4a", ".m4v", ".mkv", ".mov", ".mp4", ".weba", ".webm", ".wma"),  # by ffmpeg
}


@dataclass(frozen=True)
class Job:
    source: str  # a path or URL
    output: str  # a path


def find_jobs(inputs: list, output: str | None, suffix: str | None = None) -> list:
    """Jobs for files, URLs, folders (recursive) and globs, in the order given, each file once.

    output: of one file its name, or a folder; of more a folder, in which an input folder's tree
    is mirrored. By default NAME_enhanced.wav for a file, and NAME_enhanced/ for a folder, here.
    suffix: of the outputs; by default the input's own if it can be written, else '.wav'. Raises
    AudioNotFoundError, OutputError or OptionError.
    """
    several = names_several(inputs)
    into_folder = several or (output and (os.path.isdir(output) or output.endswith(("/", os.sep))))
    if several and output and os.path.splitext(output)[1].lower() in FORMATS:
        raise OptionError(f"-o {output!r} names a file, and there are several recordings: name a folder")
    if output and not into_folder and suffix and os.path.splitext(output)[1].lower() != suffix:
        raise OptionError(f"-o {output!r} and --format {suffix[1:]} disagree: leave one out")
    jobs = {}
    for item in inputs:
        for source, name, folder in _expand(item, output):
            stem, own = os.path.splitext(name)
            own = own.lower() if own.lower() in FORMATS else ".wav"
            if output and not into_folder:
                target = output
            elif output or folder:
                target = os.path.join(output or f"{folder}_enhanced", stem + (suffix or own))
            else:
                target = f"{os.path.basename(stem)}_enhanced{suffix or '.wav'}"
            key = os.path.normcase(os.path.abspath(target))
            if key in jobs and _real(jobs[key].source) != _real(source):
                raise OptionError(
                    f"{jobs[key].source!r} and {source!r} would both become {target!r}: enhance them in two "
                    "runs, or name a folder with -o"
                )
            jobs.setdefault(key, Job(source, target))
    return list(jobs.values())


def names_several(inputs: list) -> bool:
    """Whether these may be more than one recording, however many there are."""
    return len(inputs) > 1 or os.path.isdir(inputs[0]) or _is_pattern(inputs[0])


def refuse_inputs_as_outputs(jobs: list) -> None:
    """OutputError if a job would write over a recording of this run."""
    sources = {_real(job.source) for job in jobs}
    over = [job.output for job in jobs if _real(job.output) in sources]
    if over:
        more = f" (and {len(over) - 1} more)" if len(over) > 1 else ""
        raise OutputError(
            f"the output {over[0]!r} is the input{more}: name another with -o, or pass --overwrite"
        )


def _expand(item: str, output: str | None) -> Iterator:
    """(source, name relative to the output folder, the input folder's name or '') of one input."""
    if re.match(r"https?://", item, re.IGNORECASE):
        yield item, os.path.basename(unquote(urlsplit(item).path)) or "download", ""
    elif os.path.isdir(item):
        folder = os.path.basename(os.path.abspath(item)) or "root"
        found = [(path, os.path.relpath(path, item), folder) for path in _recordings(item, output)]
        if not found:
            raise AudioNotFoundError(f"no recordings in the folder {item!r}: none ends as audio files do")
        yield from found
    elif _is_pattern(item):
        base = re.split(r"[*?\[]", item)[0].rpartition("/")[0] or "."
        found = sorted(path for path in glob.glob(item, recursive=True) if os.path.isfile(path))
        if not found:
            raise AudioNotFoundError(f"no file matches {item!r}")
        yield from ((path, os.path.relpath(path, base), "") for path in found)
    else:  # a missing file too: it fails when its turn comes, as a damaged one does
        yield item, os.path.basename(item), ""


def _recordings(folder: str, output: str | None) -> Iterator:
    """Paths below `folder`, sorted; not what earlier runs wrote if the output folder is in it."""
    skipped = _real(output) if output and _real(output) != _real(folder) else None
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name[0] != "." and _real(os.path.join(parent, name)) != skipped
        )
        for name in sorted(files):
            if name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield os.path.join(parent, name)


def _is_pattern(item: str) -> bool:
    return glob.has_magic(item) and not os.path.exists(item) and "://" not in item


def _real(path: str) -> str:
    return os.path.normcase(os.path.realpath(path))
