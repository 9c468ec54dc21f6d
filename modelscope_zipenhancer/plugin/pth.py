"""The .pth file that activates this package in every program of this Python."""

import os
import sysconfig

from ..errors import OutputError
from ..files import replacing
from . import ROOT

PTH = f"{ROOT}.pth"


def install_pth() -> str:
    """Activate this package in every program of this Python, by a file in site-packages.

    Returns its path. Raises OutputError where that folder can't be written.
    """
    # One line, as site.py executes it; silent where the package has been uninstalled.
    line = f"import sys; exec('try:\\n import {ROOT}\\nexcept ImportError:\\n pass')\n"
    with replacing(pth_path()) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(line)
    return pth_path()


def remove_pth():
    """Take `install_pth` back. Returns the path removed, or None if there was none."""
    try:
        os.unlink(pth_path())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"{pth_path()} can't be removed: {error}") from error
    return pth_path()


def pth_path() -> str:
    """Where `install_pth` writes."""
    return os.path.join(sysconfig.get_path("purelib"), PTH)
