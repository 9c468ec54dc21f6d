"""One recording of many, and the spawned processes that enhance recordings."""

import logging
import os
import threading
import time
from collections.abc import Callable

from ..enhance.enhancer import Enhancer
from ..errors import ZipEnhancerError
from ..files import make_folder
from .find import Job
from .report import Result

logger = logging.getLogger(__name__)
PACKAGE = logging.getLogger(__name__.partition(".")[0])

_enhancer: Enhancer  # of this process, if it was spawned


def run_job(
    enhancer: Enhancer, job: Job, options: dict, progress: Callable[[int, int], None] | None = None
) -> Result:
    """Enhance one recording into its file; what goes wrong is in the result."""
    started = time.perf_counter()
    with Warnings() as warnings:
        try:
            make_folder(os.path.dirname(job.output))
            seconds = enhancer.enhance_file(job.source, job.output, progress=progress, **options)
        except Exception as error:
            if not isinstance(error, ZipEnhancerError):
                logger.debug("%s", job.source, exc_info=True)
                error = f"{job.source!r}: {type(error).__name__}: {error}"
            return Result(job.source, job.output, "failed", error=" ".join(str(error).split()))
    spent = time.perf_counter() - started
    return Result(job.source, job.output, "done", seconds, spent, warnings=tuple(warnings.said))


class Warnings(logging.Handler):
    """The warnings that this package logs in this thread meanwhile."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.thread, self.said = threading.get_ident(), []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.said.append(" ".join(record.getMessage().split()))

    def __enter__(self) -> "Warnings":
        PACKAGE.addHandler(self)
        return self

    def __exit__(self, *_) -> None:
        PACKAGE.removeHandler(self)


def start(load: tuple) -> None:
    """Load the enhancer of this process."""
    global _enhancer
    _enhancer = Enhancer.from_pretrained(*load)


def run_here(options: dict, job: Job) -> Result:
    """`run_job` by the enhancer of this process."""
    return run_job(_enhancer, job, options)
