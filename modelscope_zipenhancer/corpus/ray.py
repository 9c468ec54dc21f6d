"""A corpus over a Ray cluster: the step of one machine as Ray Data's `map_batches`, with a pool of actors.

Actors, their shares of CPUs and GPUs, autoscaling, and what a lost node was at are Ray's business. In each
actor one watched process enhances, as on one machine, so that a recording that kills or hangs it can't stop
the run. The nodes have this package, and reach inputs and outputs under the same names: a common disk, or
s3:// and the like.
"""

import logging
import math
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..errors import needed_by
from .find import Job
from .processes import Care
from .report import Result

BATCH = 16  # recordings that an actor gets at a time; of shards one


class Step:
    """What an actor does with a batch of jobs."""

    def __init__(self, pool: Callable[[], Any]) -> None:
        self._pool = pool()

    def __call__(self, batch: dict) -> dict:
        """{"job": pickled jobs} -> {"done": (job, its results or the error that ends the run), pickled}."""
        jobs = [pickle.loads(data) for data in batch["job"]]
        done = []
        for job, future in self._pool.run(jobs):
            error = future.exception()
            done.append(pickle.dumps((job, error if error else future.result())))
        return {"done": done}


def run_over_ray(
    jobs: Sequence[Any], pool: Callable[[], Any], workers: int | None, care: Care
) -> Iterator[tuple[Any, list[Result] | BaseException]]:
    """Yield each job with its results, or with the error of its process, in the order in which they end.

    Args:
        pool: what makes a workers.Processes of one process.
        workers: how many actors; by default as many as there is room for, more as nodes join.

    Raises:
        MissingPackageError: where Ray isn't installed.
    """
    with needed_by("where='ray'", "ray"):
        import ray
        import ray.data
    ours = not ray.is_initialized()
    if ours:
        here = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="ERROR", **here)
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the progress is the caller's to show
    ray.data.DataContext.get_current().enable_progress_bars = False
    size = BATCH if all(isinstance(job, Job) for job in jobs) else 1
    most = workers or max(1, int(ray.cluster_resources().get("CPU", 1) // max(care.cpus, 0.01)))
    size = max(1, min(size, len(jobs) // (2 * most)))
    strategy = ray.data.ActorPoolStrategy(
        **({"size": workers} if workers else {"min_size": 1, "max_size": max(most, 1)})
    )
    rows = [{"job": pickle.dumps(job)} for job in jobs]
    dataset = ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / size))
    dataset = dataset.map_batches(
        Step,
        fn_constructor_args=(pool,),
        batch_size=size,
        batch_format="numpy",
        compute=strategy,
        num_cpus=care.cpus,
        num_gpus=care.gpus or None,
    )
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            for data in batch["done"]:
                yield pickle.loads(data)
    finally:
        if ours:
            ray.shutdown()
