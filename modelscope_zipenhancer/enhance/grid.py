"""How a signal is cut into chunks."""

import math
from dataclasses import dataclass
from numbers import Real

from ..errors import OptionError
from ..names import SAMPLE_RATE

ONE_PASS = 6 * SAMPLE_RATE  # samples; up to here a recording is one chunk, as in the built-in
MINIMUM = 2 * SAMPLE_RATE  # samples; a shorter recording is padded with zeros, as in the built-in

# A stream's chunks: a window of 2 s every second.
CHUNK_MS = 1000.0  # new audio in a step
PAST_MS = 750.0  # heard before it
AHEAD_MS = 200.0  # waited for after it
FADE_MS = 50.0  # from one chunk into the next


@dataclass(frozen=True)
class Grid:
    """How a signal is cut, in samples at 16 kHz.

    Each chunk of `window` samples gives its middle: `past` samples at its start and `ahead` at its
    end are only context. Neighbours are cross-faded over `fade` samples:

        |-- past --|/ fade /|------- new -------|/ fade /|-- ahead --|
                            |<- hop: from here to here -->|

    More context, more work for a second of output (window / hop) and, at the end, more latency. The
    default is that of recordings, chosen by the table in docs/design.md.
    """

    window: int = ONE_PASS
    past: int = 0
    ahead: int = 0
    fade: int = SAMPLE_RATE // 2

    def __post_init__(self) -> None:
        if self.hop <= 0 or min(self.past, self.ahead, self.fade) < 0 or self.hop < self.fade:
            raise OptionError(f"{self}: past + ahead + 2 fade must be less than window, none negative")

    @property
    def hop(self) -> int:
        """New samples that a chunk adds."""
        return self.window - self.past - self.ahead - self.fade

    @property
    def latency(self) -> int:
        """The most samples between a sample's arrival and its return: all that follow it in a chunk."""
        return self.window - self.past


def stream_grid(chunk_ms: float = CHUNK_MS, past_ms: float = PAST_MS, ahead_ms: float = AHEAD_MS) -> Grid:
    """The engine's grid for these durations; OptionError if it can't be.

    Its latency is chunk + ahead + fade, its work for a second of audio window / chunk.
    """
    given = (chunk_ms, past_ms, ahead_ms)
    if not all(isinstance(ms, Real) and 0 <= ms < math.inf for ms in given) or chunk_ms < 1:
        raise OptionError(
            f"chunk_ms={chunk_ms!r}, past_ms={past_ms!r}, ahead_ms={ahead_ms!r}: "
            "the chunk must be 1 or more, the others not negative, all finite"
        )
    chunk, past, ahead, fade = (
        round(ms * SAMPLE_RATE / 1000) for ms in (chunk_ms, past_ms, ahead_ms, min(FADE_MS, chunk_ms))
    )
    return Grid(past + chunk + fade + ahead, past, ahead, fade)
