"""What the command says, on whatever it can be said."""

import sys

EXIT_CODES = """exit codes:
  0    everything is done
  1    something failed: each failure is a line on stderr
  2    called wrongly: nothing has been done
  130  interrupted (Ctrl-C): what is done stays"""


def say(text: str = "", error: bool = False) -> None:
    """Print to stdout, or to stderr; to none that is closed.

    What the stream's encoding doesn't have, a name in cp1252 or in no encoding, comes as an escape.
    """
    file = sys.stderr if error else sys.stdout
    if file is None:
        return
    try:
        print(text, file=file)
    except UnicodeEncodeError:
        print(text.encode(file.encoding, "backslashreplace").decode(file.encoding), file=file)


def complain(problem: object, code: int) -> int:
    """Say on stderr, in one line, what is wrong; returns the exit code."""
    say(f"zipenhancer: {' '.join(str(problem).split())}", error=True)
    return code


def on_terminal() -> bool:
    """Whether somebody sees what goes to stderr as it comes."""
    return sys.stderr is not None and sys.stderr.isatty()


def speed(seconds: float, spent: float) -> str:
    """How much audio was enhanced in how many seconds of work."""
    return f"{seconds:.1f} s of audio enhanced in {spent:.1f} s (RTF {spent / max(seconds, 1e-9):.2f})"
