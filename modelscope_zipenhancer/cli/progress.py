"""The progress bar of `zipenhancer enhance`."""

import contextlib
import sys


class Bar:
    """Seconds of audio done, on stderr and only on a terminal; with RTF and the remaining time."""

    def __init__(self, jobs: list):
        from tqdm import tqdm

        shown = sys.stderr.isatty()
        self.seconds = {job: header_seconds(job.source) if shown else 0.0 for job in jobs}
        self.by_source = {job.source: seconds for job, seconds in self.seconds.items()}
        self.files, self.total, self.done = 0, len(jobs), 0.0
        self.bar = tqdm(
            total=sum(self.seconds.values()) or 1.0,
            disable=not shown,
            file=sys.stderr,
            dynamic_ncols=True,
            leave=False,
            bar_format="{desc}{percentage:3.0f}%|{bar}| "
            "{n:.0f}/{total:.0f} s of audio{postfix}, {remaining} left",
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def within(self, job):
        """A progress function for one job."""
        return lambda done, samples: self._show(self.done + self.seconds[job] * done / samples)

    def finish(self, result) -> None:
        self.files += 1
        self.done += self.by_source[result.source]
        self._show(self.done)

    def _show(self, seconds: float) -> None:
        if self.bar.disable:
            return
        self.bar.n = seconds
        if self.total > 1:
            self.bar.set_description_str(f"{self.files}/{self.total} files ", refresh=False)
        rtf = self.bar.format_dict["elapsed"] / max(seconds, 1e-9)
        self.bar.set_postfix_str(f"RTF {rtf:.2f}", refresh=False)
        self.bar.refresh()


def header_seconds(path: str) -> float:
    """What a file's header says; 0 if that can't be had so cheaply."""
    import soundfile

    with contextlib.suppress(Exception):
        return min(soundfile.info(path).duration, 1e6)
    return 0.0
