"""What goes wrong while a corpus is worked on: in the end it is complete, and as if nothing had.

The long form of the kills is benchmarks/kills.py; docs/reliability.md has its figures.
"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and limits of Unix")

# The command with a stand-in for the network; what a recording begins with says what goes wrong with it.
DRIVER = """
    import os, random, resource, sys, time
    from modelscope_zipenhancer import cli
    from modelscope_zipenhancer.enhance.enhancer import Enhancer

    if "LIMIT" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["LIMIT"]),) * 2)
    if "CLOCK" in os.environ:
        time.time = lambda: random.uniform(-1e9, 1e10)
        time.time_ns = lambda: random.randrange(10**19)

    class Halved:
        def __call__(self, waveform, gain=None):
            fault = waveform[0, 0]
            if fault == 0.5:
                os._exit(66)
            if fault == 0.25:
                time.sleep(1000)
            if fault == 0.125 and not os.path.exists("raised"):
                open("raised", "w").close()
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return waveform / 2

    Enhancer.from_pretrained = classmethod(lambda cls, **_: cls(Halved()))
    if __name__ == "__main__":
        sys.exit(cli.main())
"""


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Run the command over in/, into a folder; returns (exit code, its stderr, {path: row})."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "driver.py").write_text(textwrap.dedent(DRIVER))

    def run(out="out", *options, **environment):
        command = [sys.executable, "driver.py", "corpus", "in", "-o", out, "--jobs", "2", *options]
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        rows = {}
        if Path(out, "zipenhancer.jsonl").exists():
            with open(Path(out, "zipenhancer.jsonl")) as file:
                rows = {row["path"]: row | {"spent": 0} for row in map(json.loads, file)}
        return done.returncode, done.stderr, rows

    return run


def write(name, fault=0.0, samples=16_000):
    os.makedirs("in", exist_ok=True)
    x = 0.01 * np.random.default_rng(len(name)).uniform(-1, 1, samples)
    x[0] = fault
    soundfile.write(f"in/{name}.wav", x, 16_000)


def audio(out):
    return {path.name: path.read_bytes() for path in Path(out).glob("*.wav")}


def test_recordings_that_kill_hang_or_fail_their_process_are_named_and_the_others_are_as_without_them(corpus):
    for i in range(20):
        write(f"{i}")
    write("raises once", 0.125)
    Path("raised").touch()
    _, _, expected = corpus("undisturbed")
    os.unlink("raised")
    write("kills", 0.5)
    write("hangs", 0.25)
    os.mkfifo("in/waits.wav")  # for a writer that never comes
    Path("in/empty.wav").touch()
    os.symlink("nowhere", "in/gone.wav")
    # ... while the clock jumps
    code, said, rows = corpus("out", "--retries", "1", "--patience", "3", CLOCK="1")
    assert code == 1
    failed = {name: rows.pop(f"{name}.wav") for name in ("kills", "hangs", "waits", "empty", "gone")}
    assert rows == expected and audio("out") == audio("undisturbed")
    assert "died with exit code 66" in failed["kills"]["error"]
    for name in ("hangs", "waits"):
        assert "said nothing for 3 s and was ended" in failed[name]["error"]
    assert {row["status"] for row in failed.values()} == {"failed"} and "in/kills.wav" in said
    assert not list(Path("out").rglob("*.part"))


def test_a_full_disk_ends_the_run_and_once_there_is_room_it_is_as_if_there_had_been(corpus):
    for i in range(8):
        write(f"{i}", samples=1000 if i < 4 else 16_000)
    code, said, rows = corpus("out", LIMIT="20000")
    assert code == 1 and not rows
    assert said.count("\n") == 1 and "The run has stopped; once there is room" in said
    assert not list(Path("out").rglob("*.part"))
    code, said, rows = corpus("out")
    assert code == 0 and len(rows) == 8, said
    assert (0, "", rows) == corpus("undisturbed") and audio("out") == audio("undisturbed")


def test_a_disk_without_room_ends_the_run(corpus, tmp_path):
    (tmp_path / "small").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path / "small")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here")
    try:
        for i in range(20):
            write(f"{i}")
        code, said, _ = corpus("small/out")
        assert code == 1 and "No space left on device" in said and "The run has stopped" in said
        assert not list(Path("small").rglob("*.part")) and 0 < len(audio("small/out")) < 20
        grow = ["mount", "-o", "remount,size=4m", str(tmp_path / "small")]
        subprocess.run(grow, check=True)
        code, _, rows = corpus("small/out")
        assert code == 0 and len(rows) == 20
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc names the processes to kill")
def test_killed_at_random_moments_it_ends_as_undisturbed_with_nothing_done_twice():
    command = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--kills", "12", "--clips", "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "audio and manifest as undisturbed" in done.stdout


def test_sigterm_ends_a_run_as_ctrl_c_does_and_leaves_no_process(corpus, tmp_path):
    for i in range(30):
        write(f"{i}", 0.25 if i == 0 else 0.0)
    command = [sys.executable, "driver.py", "corpus", "in", "-o", "out", "--jobs", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while len(audio("out")) < 10 and process.poll() is None:
        pass
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the same command goes on" in said, said
    assert not list(Path("out").rglob("*.part"))
