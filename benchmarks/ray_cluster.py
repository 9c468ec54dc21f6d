"""A corpus over a simulated Ray cluster that loses a node in the middle: it finishes, as on one machine.

    python benchmarks/ray_cluster.py --clips 60 --nodes 3

Nodes are processes on this machine (ray.cluster_utils), each with one CPU and so one actor. Once a third of
the recordings is done, a node is killed. The audio is compared bit for bit with that of a local run.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from modelscope_zipenhancer.corpus.journal import read_manifest
from modelscope_zipenhancer.corpus.make import make, plan
from modelscope_zipenhancer.corpus.run import Care, Work


def run(out: str, model: str, where: str, workers: int, after: int = 0, then=None) -> list:
    """The rows of a corpus; once `after` jobs have ended, then() is called."""
    care = Care(retries=3, patience=300.0, watched=True)
    work = Work({"model": model, "device": "cpu"}, workers=workers, care=care)
    made = make(plan(["in"], out), work, {}, {}, where=where)
    for ended, _ in enumerate(made, 1):
        if then and ended == after:
            then()
    return [row | {"spent": 0} for row in read_manifest(out)]


def add_node(cluster):
    """A node with one CPU; on a busy machine it may need more than the 30 s that Ray gives it."""
    for _ in range(2):
        with contextlib.suppress(Exception):
            return cluster.add_node(num_cpus=1)
    return cluster.add_node(num_cpus=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--model", default="tiny")
    args = parser.parse_args()
    import ray
    from ray.cluster_utils import Cluster

    here = tempfile.mkdtemp()
    os.chdir(here)
    os.mkdir("in")
    for i in range(args.clips):
        x = 0.1 * np.random.default_rng(i).standard_normal(round(args.seconds * 16_000))
        soundfile.write(f"in/{i:03}.wav", x, 16_000)
    expected = run("local", args.model, "local", 2)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [add_node(cluster) for _ in range(args.nodes)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    started, lost = time.monotonic(), []

    def lose() -> None:
        cluster.remove_node(nodes[-1], allow_graceful=False)
        lost.append(time.monotonic() - started)

    rows = run(f"{here}/ray", args.model, "ray", args.nodes, args.clips // 3, lose)
    spent = time.monotonic() - started
    while sum(node["Alive"] for node in ray.nodes()) - 1 > args.nodes - len(lost):  # it is told by heartbeats
        time.sleep(0.5)
    ray.shutdown()
    cluster.shutdown()
    assert rows == expected and lost
    for row in rows:
        assert Path("local", row["path"]).read_bytes() == Path("ray", row["path"]).read_bytes()
    print(
        f"{len(rows)} recordings of {args.seconds:g} s over {args.nodes} nodes, one of them killed after "
        f"{lost[0]:.0f} s: done after {spent:.0f} s, audio and manifest as on one machine"
    )


if __name__ == "__main__":
    sys.exit(main())
