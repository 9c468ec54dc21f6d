"""Downloads."""

import time
import urllib.request

from ..errors import FetchError

FETCH_TIMEOUT = 20.0  # seconds without a byte before a URL counts as stalled
FETCH_LIMIT = 300.0  # seconds for a whole download
BLOCK = 1 << 20  # bytes read at a time


def fetch(url: str) -> bytes:
    """Download a URL; FetchError when it fails or stalls."""
    deadline = time.monotonic() + FETCH_LIMIT
    request = urllib.request.Request(url, headers={"User-Agent": "modelscope-zipenhancer"})
    parts = []
    try:
        with urllib.request.urlopen(request, timeout=FETCH_TIMEOUT) as answer:
            while part := answer.read(BLOCK):
                parts.append(part)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not done after {FETCH_LIMIT:.0f} s")
    except (OSError, ValueError) as error:  # URLError, time-outs and refused connections are OSErrors
        raise FetchError(f"{url} can't be fetched: {error}") from error
    return b"".join(parts)
