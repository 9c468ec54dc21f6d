"""Many recordings: which files there are, where each goes, and the processes or threads that enhance them.

A job is done when its output is there: files appear whole, so work that was cut off, even by
SIGKILL, goes on with the jobs whose outputs are missing.
"""

import contextlib
import glob
import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ..audio.write import FORMATS
from ..errors import AudioNotFoundError, OptionError, OutputError, ZipEnhancerError
from ..files import make_folder

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class Result:
    source: str
    output: str
    status: str  # 'done', 'failed', or 'there': not done again
    seconds: float = 0.0  # of audio
    spent: float = 0.0  # seconds of work
    error: str = ""


# ---- which files, and where to -----------------------------------------------------------------


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


# ---- the work ----------------------------------------------------------------------------------


def run_job(enhancer, job: Job, options: dict, progress: Callable | None = None) -> Result:
    """Enhance one recording into its file; what goes wrong is in the result."""
    started = time.perf_counter()
    try:
        make_folder(os.path.dirname(job.output))
        _remove_leftovers(job.output)
        seconds = enhancer.enhance_file(job.source, job.output, progress=progress, **options)
    except Exception as error:
        if not isinstance(error, ZipEnhancerError):
            logger.debug("%s", job.source, exc_info=True)
            error = f"{job.source!r}: {type(error).__name__}: {error}"
        return Result(job.source, job.output, "failed", error=" ".join(str(error).split()))
    return Result(job.source, job.output, "done", seconds, time.perf_counter() - started)


def run_jobs(load: tuple, jobs: Iterable, options: dict, processes: int) -> Iterator:
    """Yield a Result for each job as it ends, from `processes` fresh processes.

    load: the arguments of Enhancer.from_pretrained. The cores that torch would use are shared out
    among the processes. If the generator is closed, or an exception such as KeyboardInterrupt leaves
    it, the processes stop at once and leave no half-written file. A program that calls this must
    have its main code under `if __name__ == "__main__"`.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
    pool = ProcessPoolExecutor(processes, context, _start, (load, processes))
    with _without_interrupts():  # which the processes inherit, from their first moment on
        futures = {pool.submit(_run, job, options): job for job in jobs}
    finished = False
    try:
        for future in as_completed(futures):
            job = futures.pop(future)
            try:
                yield future.result()
            except BrokenProcessPool:
                reason = "not done, a process died, perhaps of memory: --resume with fewer --jobs"
                yield Result(job.source, job.output, "failed", error=f"{job.source!r}: {reason}")
        finished = True
    finally:
        if not finished:
            for child in multiprocessing.active_children():
                child.terminate()
        pool.shutdown(cancel_futures=True)


def run_jobs_together(enhancer, jobs: list, options: dict, threads: int) -> Iterator:
    """Yield a Result for each job as it ends; `threads` recordings at a time share the enhancer's device.

    If the generator is closed, or an exception leaves it, the others end with the chunks that they are
    at, and leave no half-written file.
    """
    stopping = threading.Event()

    def go_on(*_):
        if stopping.is_set():
            raise SystemExit  # passes by run_job, which takes an Exception for a failure

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(run_job, enhancer, job, options, go_on) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _without_interrupts():
    """Ignore Ctrl-C meanwhile; only the main thread can, and elsewhere there is nothing to ignore."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _remove_leftovers(output: str) -> None:
    """Remove what a killed process of this machine had begun to write for `output`."""
    for path in glob.glob(f"{glob.escape(output)}.*-*.part"):
        found = re.search(r"\.(\d+)-\d+\.part$", path)
        if found and not _is_running(int(found[1])):
            with contextlib.suppress(OSError):
                os.unlink(path)


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # os.kill would end the process there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


# ---- in a process of run_jobs ------------------------------------------------------------------

_enhancer = None
_stopping = False


def _start(load: tuple, processes: int) -> None:
    """Once in each process: load the model, keep to a share of the cores, and end with the parent."""
    global _enhancer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from ..enhance.enhancer import Enhancer

    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    _enhancer = Enhancer.from_pretrained(*load)
    # Not before: until here there is nothing to tidy up, and an exception would be shown with a traceback.
    signal.signal(signal.SIGTERM, _stop)


def _run(job: Job, options: dict) -> Result:
    if _stopping:
        raise SystemExit(1)
    return run_job(_enhancer, job, options)


def _stop(*_) -> None:
    """Leave the job by an exception, so that its temporary file is removed, and take no other."""
    global _stopping
    if not _stopping:
        _stopping = True
        raise SystemExit(1)


def _end_with_parent() -> None:
    """A parent killed with SIGKILL tells nobody; its resumed run must not meet this process at work."""
    multiprocessing.parent_process().join()
    os._exit(1)
