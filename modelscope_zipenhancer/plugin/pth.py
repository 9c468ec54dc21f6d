"""The .pth file that activates this package in every program of this Python, without an import.

Python runs a line of a .pth file in site-packages whenever it starts, if the line begins with "import".
"""

import os
import sysconfig

from ..errors import OutputError
from ..files import replacing
from . import ROOT

# Silent where the package has been uninstalled and the file is still there.
LINE = f"import sys; exec('try:\\n import {ROOT}\\nexcept ImportError:\\n pass')\n"


def install_pth() -> str:
    """Write the file; again is no harm. Returns its path; raises OutputError where it can't be written."""
    with replacing(pth_path()) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(LINE)
    return pth_path()


def remove_pth() -> str | None:
    """Take `install_pth` back. Returns the path removed, or None if there was none.

    Raises OutputError where it can't be removed.
    """
    try:
        os.unlink(pth_path())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"{pth_path()!r} can't be removed: {error.strerror}") from error
    return pth_path()


def pth_path() -> str:
    """Where `install_pth` writes."""
    return os.path.join(sysconfig.get_path("purelib"), f"{ROOT}.pth")
