"""The progress bar of `zipenhancer enhance`."""

import contextlib
import sys

from tqdm import tqdm

from ..corpus.find import Job
from ..corpus.report import Result


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
            disable=not sys.stderr.isatty(),
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


def header_seconds(path: str) -> float:
    """What a file's header says; 0 if that can't be had so cheaply."""
    import soundfile

    with contextlib.suppress(Exception):
        return min(soundfile.info(path).duration, 1e6)
    return 0.0
