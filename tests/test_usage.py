"""Every block of docs/usage.md runs; those that need a network or a microphone compile."""

import importlib.util
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[1]
USAGE = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:<!-- (.+?) -->\n)?```(\w+)\n(.*?)```", USAGE, re.DOTALL)


def noise(samples, channels=1):
    return 0.1 * np.random.default_rng(samples).standard_normal((samples, channels))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("noisy.wav", noise(16_000), 16_000)
    soundfile.write("talk_48k.wav", noise(24_000, 2), 48_000)
    noise(8000).tofile("noisy.pcm")
    Path("recordings/sub").mkdir(parents=True)
    soundfile.write("recordings/a.wav", noise(3000), 16_000)
    soundfile.write("recordings/sub/b.flac", noise(4000), 22_050)
    return tmp_path


def test_the_page_has_blocks_of_known_kinds_and_reasons():
    assert len(BLOCKS) == USAGE.count("```") // 2 > 15
    assert {kind for _, kind, _ in BLOCKS} == {"python", "bash"}
    assert {reason for reason, _, _ in BLOCKS} == {
        "",
        "needs a network",
        "needs a microphone",
        "needs a browser",
    }


def test_the_python_blocks_run_one_after_the_other(here):
    namespace = {}
    for reason, kind, code in BLOCKS:
        if kind == "python":
            compiled = compile(code, "docs/usage.md", "exec")
            if not reason:
                exec(compiled, namespace)
    assert soundfile.info("clean.wav").frames == soundfile.info("clean.flac").frames == 16_000


@pytest.mark.skipif(os.name == "nt", reason="bash")
def test_the_bash_blocks_run_one_after_the_other(here):
    (here / "bin").mkdir()
    command = here / "bin" / "zipenhancer"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m modelscope_zipenhancer "$@"\n')
    command.chmod(0o755)
    path = f"{here / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = dict(os.environ, PATH=path, PYTHONPATH=str(ROOT))
    for reason, kind, code in BLOCKS:
        if kind == "bash":
            options = ["-n"] if reason else ["-e"]
            done = subprocess.run(
                ["bash", *options, "-c", code], env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    assert soundfile.info("clean.wav").frames == 16_000
    assert soundfile.info("clean_48k.wav").samplerate == 48_000
    assert sorted(p.as_posix() for p in Path("cleaned").rglob("*.*")) == [
        "cleaned/a.wav",
        "cleaned/sub/b.flac",
    ]
    assert soundfile.info("converted/sub/b.wav").samplerate == 16_000
    assert os.path.getsize("clean.pcm") == os.path.getsize("noisy.pcm")
    assert all(os.path.getsize(name) for name in ("talk.png", "report.json"))


def test_the_microphones_example_plays_what_it_hears_enhanced(monkeypatch, capsys):
    """With a sound card that hears two seconds, and then Ctrl-C."""
    played = []

    class Device:
        def __init__(self, samplerate, channels, dtype, blocksize=0, callback=None):
            self.blocksize, self.callback = blocksize, callback

        def __enter__(self):
            if self.callback:
                for i in range(100):
                    self.callback(noise(self.blocksize + i)[: self.blocksize], self.blocksize, None, None)
            return self

        def __exit__(self, *_):
            pass

        def write(self, block):
            played.append(block)
            if len(played) == 2:  # the cushion, a chunk
                raise KeyboardInterrupt

    fake = types.SimpleNamespace(InputStream=Device, OutputStream=Device)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    monkeypatch.setattr(sys, "argv", ["microphone.py", "--rate", "16000"])
    spec = importlib.util.spec_from_file_location("microphone", ROOT / "examples" / "microphone.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with pytest.raises(KeyboardInterrupt):
        example.main()
    assert "late by" in capsys.readouterr().out
    assert [block.shape for block in played] == [(4800, 1), (16_000, 1)]
