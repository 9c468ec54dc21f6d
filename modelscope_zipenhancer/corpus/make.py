"""A corpus of another: what there is in it, what of that is left to do, and the manifests at the end."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import AudioNotFoundError, OptionError
from ..files import is_recording, remove_leftovers
from . import storage
from .find import Claim, Job, distinct, find_claims, refuse_inputs_as_outputs, writable
from .journal import FOLDER, MANIFEST, SETTINGS, Journal
from .manifests import Manifest, is_manifest
from .report import Result
from .run import Work, run
from .shards import find_shards

FAILED_BEFORE = "failed before"


@dataclass(frozen=True)
class Plan:
    """The jobs of a corpus, in the order of its input."""

    out: str
    jobs: Sequence[Any]
    manifest: Manifest | None = None  # the input's, which is given back


def plan(inputs: list[str], out: str, suffix: str | None = None, column: str | None = None) -> Plan:
    """What is to be done for inputs of one kind: a manifest; shards; or files, folders, globs and URLs.

    Args:
        out: the folder of the outputs, local or remote.
        suffix: of the recordings; by default each one's own if it can be written, else '.wav'.
        column: of a dataset, where several have audio.

    Raises:
        AudioNotFoundError: where there are no recordings.
        AudioError: for a row of a manifest that names none.
        OptionError: for kinds that don't go together.
    """
    manifests = [item for item in inputs if is_manifest(item)]
    if manifests:
        if len(inputs) > 1:
            raise OptionError(f"{manifests[0]!r} is a manifest: give it alone, other inputs in other runs")
        manifest = Manifest(inputs[0])
        if storage.canonical(storage.join(out, manifest.name)) == storage.canonical(manifest.path):
            raise OptionError(f"-o {out!r} is the folder of the manifest, which would be written over")
        if manifest.name == MANIFEST:
            raise OptionError(
                f"{MANIFEST} is what the manifest of the outputs is called: rename {inputs[0]!r}"
            )
        jobs: Sequence[Any] = manifest.jobs(out, suffix)
    else:
        manifest = None
        jobs = find_shards(inputs, out, suffix, column) or _files(inputs, out, suffix)
    if not storage.is_remote(out):
        refuse_inputs_as_outputs(jobs, "name another folder with -o")
    if storage.is_remote(out) or any(storage.is_remote(job.source) for job in jobs):
        where = storage.where(out)
        sources = {storage.canonical(job.source) for job in jobs if storage.where(job.source) == where}
        over = (job.output for job in jobs if sources and storage.canonical(job.output) in sources)
        if output := next(over, None):
            raise OptionError(f"the output {output!r} is an input: name another folder with -o")
    return Plan(out, jobs, manifest)


def _files(inputs: list[str], out: str, suffix: str | None) -> list[Job]:
    """Jobs for recordings in files and folders."""
    local = [item for item in inputs if not storage.is_remote(item)]
    into = out if storage.is_remote(out) else os.path.join(out, "")
    claims = find_claims(local, into, suffix) if local else []
    for item in dict.fromkeys(item for item in inputs if storage.is_remote(item)):  # one order in all parts
        names = [name for name in storage.names_below(item, out) if is_recording(name)]
        if not names:
            raise AudioNotFoundError(f"no recordings below {item!r}: none ends as audio files do")
        for name in names:
            stem, given = os.path.splitext(name)
            claims.append(
                Claim(storage.join(item, name), storage.join(out, stem + (suffix or writable(given))), given)
            )
    return list(distinct(claims))


def make(
    plan: Plan,
    work: Work,
    settings: dict,
    common: dict,
    *,
    where: str = "local",
    part: tuple[int, int] = (1, 1),
    retry_failed: bool = False,
) -> Iterator[tuple[Any, Sequence[Result]]]:
    """Do what is left of a plan; yields each job with its results, once its rows are written.

    Args:
        work, where: as `run` has them.
        settings, common, part: as Journal has them.
        retry_failed: do what failed in an earlier run again.

    Yields first, for each job that isn't to be done, (FAILED_BEFORE, ()) if it failed in an earlier run, or
    (None, ()) if it is done already, or another part's.
    """
    with Journal(plan.out, settings, part, common) as journal:
        tidy(plan, part)
        try:
            todo = journal.left(plan.jobs, retry_failed)
            failed = 0 if retry_failed else journal.failed(plan.jobs)
            yield from ((FAILED_BEFORE, ()) for _ in range(failed))
            yield from ((None, ()) for _ in range(len(plan.jobs) - len(todo) - failed))
            with contextlib.closing(run(todo, work, where)) as finished:
                for job, results in finished:
                    journal.add(job, results)
                    yield job, results
            journal.finish(plan.jobs, plan.manifest)
        finally:
            tidy(plan, part)


def tidy(plan: Plan, part: tuple[int, int]) -> None:
    """Remove what killed processes had begun to write: of jobs that others have done since, too."""
    if storage.is_remote(plan.out):
        return
    number, parts = part
    paths = [job.output for job in plan.jobs[number - 1 :: parts]]
    if parts == 1:  # else another part may be writing these just now
        names = [MANIFEST, os.path.join(FOLDER, SETTINGS), *([plan.manifest.name] if plan.manifest else [])]
        paths += [os.path.join(plan.out, name) for name in names]
    remove_leftovers(paths)
