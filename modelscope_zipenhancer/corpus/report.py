"""What became of each recording, the numbers of a run, and the JSON of both."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from .. import __version__
from ..files import replacing

STATUSES = ("done", "failed", "skipped")


class Levels(NamedTuple):
    """What was measured of a recording: levels in dBFS, RMS, None of silence."""

    before: float | None
    after: float | None
    noise: float | None  # what the network took away
    clipped: int  # samples of the input at full scale


@dataclass(frozen=True)
class Result:
    source: str
    output: str
    status: str  # 'done', 'failed', or 'skipped': its output was there
    seconds: float = 0.0  # of audio
    spent: float = 0.0  # seconds of work
    error: str = ""
    warnings: tuple[str, ...] = ()  # a part of it is missing, samples were clipped
    sample_rate: int = 0  # Hz, of the output
    levels: Levels | None = None


@dataclass
class Summary:
    """A run over `recordings`; where it was interrupted, there are fewer results."""

    recordings: int
    results: list[Result] = field(default_factory=list)
    spent: float = 0.0  # seconds from start to end
    interrupted: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """{status: how many results have it}"""
        counts = Counter(result.status for result in self.results)
        return {status: counts[status] for status in STATUSES}

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if result.status == "failed"]

    @property
    def audio_seconds(self) -> float:
        return sum(result.seconds for result in self.results)


def write_report(path: str, summary: Summary, model: str, backend: str, options: dict) -> None:
    """Write the JSON of a run; OutputError if it can't be.

    A file name that isn't text in UTF-8 is written with escapes, as json.load and os.fsencode take it.
    """
    seconds = summary.audio_seconds
    report = {
        "version": __version__,
        "model": model,
        "backend": backend,
        "options": options,
        "recordings": summary.recordings,
        **summary.counts,
        "interrupted": summary.interrupted,
        "audio_seconds": round(seconds, 3),
        "spent_seconds": round(summary.spent, 3),
        "rtf": round(summary.spent / seconds, 4) if seconds else None,
        "results": [asdict(result) for result in summary.results],
    }
    # An undecodable byte of a name, U+DCE9 say, has in JSON the escape that backslashreplace makes of it.
    opening = {"encoding": "utf-8", "errors": "backslashreplace"}
    with replacing(path) as temporary, open(temporary, "w", **opening) as file:
        json.dump(report, file, indent=1, ensure_ascii=False)
