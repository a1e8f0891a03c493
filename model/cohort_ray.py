"""Workers on a Ray cluster: each an actor, which holds the loaded bundle.

Every node needs the packages of requirements.txt, and the bundle and the cases under the same
paths; the program itself is sent to them.
"""

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import ModuleType
from typing import Any, ClassVar

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

import model
from model.cohort_workers import CORES_PER_WORKER, Answer, Workforce
from model.errors import ConfigError, reason_of
from model.process import prepare_process


def ray_workers(
    address: str,
    count: int | None = None,
    *,
    device: str = "auto",
    packages: Sequence[ModuleType] = (model,),
) -> Workforce:
    """Join a cluster; return a worker for each of its GPUs, or for every few cores, or `count`.

    More workers than fit at the moment wait for room: for nodes that come later. The nodes are sent
    the `packages`.

    Raises:
        ConfigError: There is no such cluster, it has no free node, or not the device.
    """
    try:
        ray.init(
            address=address,
            runtime_env={
                "py_modules": [folder for each in packages for folder in each.__path__],
                # An actor's class brings torch, before `prepare_process` could say so.
                "env_vars": {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")},
            },
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = reason_of(error)
        raise ConfigError(f"--ray {address}: expected a Ray cluster, found: {reason}") from error
    found = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [node["Resources"] for node in found if node["Alive"]]
    gpus = 0 if device == "cpu" else int(sum(node.get("GPU", 0) for node in nodes))
    if not gpus and device not in ("auto", "cpu"):
        raise ConfigError(f"--ray {address}: expected {device}, found a cluster without GPUs")
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise ConfigError(f"--ray {address}: expected nodes with cores, found none")
    cores = min(CORES_PER_WORKER, *cpus)
    count = count or gpus or sum(of_node // cores for of_node in cpus)
    return Workforce(
        count=count,
        threads=cores,
        kind="cuda" if gpus else "cpu",
        start=lambda number: RayWorker(cores=cores, gpus=1 if gpus else 0),
    )


class RayWorker:
    """An actor somewhere in the cluster."""

    deaths: ClassVar[tuple[type[BaseException], ...]] = (
        RayActorError,
        NodeDiedError,
        OutOfMemoryError,
        WorkerCrashedError,
    )

    def __init__(self, *, cores: int, gpus: int) -> None:
        self.device = "cuda" if gpus else "cpu"
        # Never restarted by Ray: whoever has its case decides what comes next.
        options = {"num_cpus": cores, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
        self._actor: Any = ray.remote(_Actor).options(**options).remote()

    def submit(self, function: Callable[..., Answer], *arguments: object) -> Future[Answer]:
        """Have the actor call a function."""
        future: Future[Answer] = self._actor.call.remote(function, *arguments).future()
        return future

    def stop(self) -> None:
        """End the actor, whatever it is doing."""
        ray.kill(self._actor)


class _Actor:
    """The process of a worker."""

    def __init__(self) -> None:
        prepare_process()

    def call(self, function: Callable[..., Answer], *arguments: object) -> Answer:
        return function(*arguments)
