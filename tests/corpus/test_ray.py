"""A corpus over Ray: as on one machine, also when a node is lost."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray isn't installed: pip install 'modelscope_zipenhancer[ray]'")

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="Ray's cluster on one machine")
def test_over_a_cluster_that_loses_a_node_audio_and_manifest_are_as_on_one_machine(quick_model_dir):
    script = str(ROOT / "benchmarks" / "ray_cluster.py")
    options = ["--clips", "12", "--seconds", "1", "--nodes", "2", "--model", quick_model_dir]
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "audio and manifest as on one machine" in done.stdout
