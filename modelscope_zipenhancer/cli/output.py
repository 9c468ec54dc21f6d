"""What the command says."""

import sys


def complain(problem, code: int) -> int:
    print("zipenhancer:", " ".join(str(problem).split()), file=sys.stderr)
    return code
