"""One recording of many; and the processes that do it."""

import contextlib
import glob
import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ZipEnhancerError
from ..files import make_folder
from .find import Job

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    source: str
    output: str
    status: str  # 'done', 'failed', or 'there': not done again
    seconds: float = 0.0  # of audio
    spent: float = 0.0  # seconds of work
    error: str = ""


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
