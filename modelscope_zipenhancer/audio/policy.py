"""What a source may be: the policy."""

import re
from dataclasses import dataclass

from ..errors import LimitError


@dataclass(frozen=True)
class Policy:
    """What may be read and written for a caller, and how much of it. A limit that is None is none.

    OPEN, the default, is for a program that trusts its caller; SERVED for a server that is handed bytes and
    URLs by strangers.
    """

    max_bytes: int | None = None  # of a source, as it is stored or sent: a download, a pipe, bytes, a file
    max_duration: float | None = None  # seconds of audio, whatever the header says
    max_samples: int | None = None  # of all channels together: 4 bytes each, while it is worked on
    max_channels: int | None = None  # each may be worked on by itself
    fetch_seconds: float | None = 300.0  # for a whole download
    private_addresses: bool = True  # URLs of this machine and of the networks that it is in
    local_files: bool = True  # paths and file://
    output_files: bool = True  # a caller may name a file to be written: ModelScope's output_path

    def check_bytes(self, count: int, name: str) -> None:
        """LimitError if a source of `count` bytes is beyond the limit."""
        if self.max_bytes is not None and count > self.max_bytes:
            raise LimitError(f"{name} is longer than the limit of {self.max_bytes} bytes")

    def check_length(self, samples: int, channels: int, rate: int, name: str) -> None:
        """LimitError if so much audio, `samples` of each channel, is beyond the limits."""
        if self.max_duration is not None and samples > self.max_duration * rate:
            raise LimitError(f"{name} is longer than the limit of {self.max_duration:g} s")
        if self.max_channels is not None and channels > self.max_channels:
            raise LimitError(f"{name} has {channels} channels, more than the limit of {self.max_channels}")
        if self.max_samples is not None and samples * channels > self.max_samples:
            raise LimitError(
                f"{name} has more samples than the limit of {self.max_samples} in {channels} channel(s)"
            )


OPEN = Policy()
SERVED = Policy(
    max_bytes=10 << 20,  # what the hub's widget takes
    max_duration=900.0,
    max_samples=30_000_000,  # 5 min of stereo at 48 kHz, 120 MB
    max_channels=8,
    fetch_seconds=30.0,
    private_addresses=False,
    local_files=False,
    output_files=False,
)


def shortened(name: str) -> str:
    """A source's name as a message can hold it: the ends of a long one, a URL without its password."""
    name = without_password(name)
    return name if len(name) <= 100 else f"{name[:20]}...{name[-77:]}"


def without_password(name: str) -> str:
    """A URL without the user and password before its host; any other name as it is."""
    return re.sub(r"\b(https?://)[^/?#\s]*@", r"\1", name, flags=re.IGNORECASE) if "@" in name else name
