"""The progress of `zipenhancer enhance` and `corpus`."""

import contextlib
import sys
import time

from tqdm import tqdm

from ..corpus.find import Job
from ..corpus.report import Result
from .output import on_terminal, say

LINE = 60.0  # seconds between two lines in a log


class Bar:
    """Files and seconds of audio done, on stderr and only on a terminal; with RTF and the remaining time.

    How many seconds there are in all is reckoned from the files seen so far, as the work goes on: to open
    100,000 headers first would take minutes.
    """

    def __init__(self, files: int):
        self.files, self.finished, self.done = files, 0, 0.0  # done: seconds of audio
        self._headers = {}  # {source: seconds} of what is being worked on
        self._bar = tqdm(
            total=1.0,
            disable=not on_terminal(),
            file=sys.stderr,
            dynamic_ncols=True,
            leave=False,
            bar_format="{desc}{percentage:3.0f}%|{bar}| {postfix}, {remaining} left",
        )
        self._show(0.0, 0.0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def within(self, job: Job, done: int, samples: int) -> None:
        """Note how far one job is."""
        if self._bar.disable:
            return
        if job.source not in self._headers:
            self._headers = {job.source: header_seconds(job.source)}
        seconds = self._headers[job.source]
        self._show(seconds, seconds * done / samples)

    def finish(self, result: Result) -> None:
        """Note that a job has ended."""
        self.finished += 1
        self.done += result.seconds
        self._show(0.0, 0.0)

    def _show(self, seconds: float, done: float) -> None:
        """seconds: of the recording that is being worked on, done: of these."""
        if self._bar.disable:
            return
        seen = self.finished + (seconds > 0)
        total = (self.done + seconds) / max(seen, 1) * self.files
        now = self.done + done
        self._bar.total, self._bar.n = total or 1.0, now
        if self.files > 1:
            self._bar.set_description_str(f"{self.finished}/{self.files} files ", refresh=False)
        rtf = self._bar.format_dict["elapsed"] / max(now, 1e-9)
        self._bar.set_postfix_str(f"{now:.0f}/{total:.0f} s of audio, RTF {rtf:.2f}", refresh=False)
        self._bar.refresh()


class Progress:
    """Of a corpus: jobs, hours of audio, RTF, failures and the remaining time, on stderr.

    A bar on a terminal, elsewhere a line a minute.
    """

    def __init__(self, jobs: int):
        self.jobs, self.ended = jobs, 0
        self.before, self.failed_before = 0, 0  # what earlier runs did, and what of that failed
        self.seconds, self.done, self.failed = 0.0, 0, 0
        self.started = self._said = time.monotonic()
        self._bar = tqdm(
            total=jobs,
            disable=not on_terminal(),
            file=sys.stderr,
            dynamic_ncols=True,
            leave=False,
            bar_format="{percentage:3.0f}%|{bar}| {postfix}",
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def skip(self, failed: bool = False) -> None:
        """Note a job that an earlier run has done, or that failed there."""
        self.ended += 1
        self.before += 1
        self.failed_before += failed

    def finish(self, results: list[Result]) -> None:
        """Note that a job has ended."""
        self.ended += 1
        for result in results:
            self.seconds += result.seconds
            self.done += result.status == "done"
            self.failed += result.status == "failed"
        if not self._bar.disable:
            self._bar.n = self.ended
            self._bar.set_postfix_str(self.text())
        elif time.monotonic() - self._said > LINE:
            self._said = time.monotonic()
            say(f"zipenhancer: {self.text()}", error=True)

    @property
    def spent(self) -> float:
        return time.monotonic() - self.started

    def text(self) -> str:
        now, left = self.ended - self.before, self.jobs - self.ended
        remaining = f", {tqdm.format_interval(self.spent * left / now)} left" if now else ""
        rtf = self.spent / self.seconds if self.seconds else 0.0
        return (
            f"{self.ended}/{self.jobs}, {self.seconds / 3600:.2f} h of audio, RTF {rtf:.4f}, "
            f"{self.failed} failed{remaining}"
        )


def header_seconds(path: str) -> float:
    """What a file's header says; 0 if that can't be had so cheaply."""
    import soundfile

    with contextlib.suppress(Exception):
        return min(soundfile.info(path).duration, 1e6)
    return 0.0
