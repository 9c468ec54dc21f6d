"""A server in a process of its own, for the scripts beside this one."""

import contextlib
import http.client
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def serving(*options: str, cores: str | None = None, **environment: str):
    """`zipenhancer serve`; yields (process, port). cores: those that it may use, as taskset has them."""
    command = [sys.executable, "-m", "modelscope_zipenhancer", "serve", "--port", "0", *options]
    if cores is not None:
        command = ["taskset", "-c", cores, *command]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True)
    try:
        said = process.stderr.readline()
        found = re.search(r"http://[^ ]*:(\d+) ", said)
        if not found:
            raise SystemExit(f"no server: {said}{process.stderr.read()}")
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
        yield process, int(found[1])
    finally:
        process.terminate()
        process.wait(60)


def post(port: int, body: bytes, path: str = "/v1/enhance", timeout: float = 600, **headers: str):
    """(status, headers, body) of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, body, {"Content-Type": "application/octet-stream", **named})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def rss_mb(process: subprocess.Popen, peak: bool = False) -> float:
    """Resident memory of a process in MB, now or at its most."""
    name = "VmHWM" if peak else "VmRSS"
    (line,) = (x for x in Path(f"/proc/{process.pid}/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) / 1000
