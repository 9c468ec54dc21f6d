"""What the command says, on whatever it can be said."""

import sys

EXIT_CODES = """exit codes:
  0    everything is done
  1    something failed: each failure is a line on stderr
  2    called wrongly: nothing has been done
  130  interrupted (Ctrl-C): what is done stays"""


def say(text: str = "", file=None) -> None:
    """Print; what the stream's encoding doesn't have, a name in cp1252 or in no encoding, as an escape."""
    file = sys.stdout if file is None else file
    try:
        print(text, file=file)
    except UnicodeEncodeError:
        print(text.encode(file.encoding, "backslashreplace").decode(file.encoding), file=file)


def complain(problem: object, code: int) -> int:
    """Say on stderr, in one line, what is wrong; returns the exit code."""
    say(f"zipenhancer: {' '.join(str(problem).split())}", sys.stderr)
    return code


def speed(seconds: float, spent: float) -> str:
    """How much audio was enhanced in how many seconds of work."""
    return f"{seconds:.1f} s of audio enhanced in {spent:.1f} s (RTF {spent / max(seconds, 1e-9):.2f})"
