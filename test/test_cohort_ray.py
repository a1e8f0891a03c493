"""A cohort on a Ray cluster of two nodes, of which one goes away in the middle."""

from collections.abc import Iterator
from pathlib import Path

import cohorts
import pytest
from cohorts import (
    PlacedScorer,
    read_predictions,
    score,
    scorer,
    without_timings,
    write_bundle,
    write_records,
)

from model.cohort import Cohort, Counts
from model.errors import ConfigError

ray = pytest.importorskip("ray", reason="Ray is in requirements-cluster.txt")
cluster_utils = pytest.importorskip("ray.cluster_utils")
cohort_ray = pytest.importorskip("model.cohort_ray")

pytestmark = [
    pytest.mark.slow,
    # Ray leaves pipes and processes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CASES = 30
MEMORY_BYTES = 100 * 2**20


@pytest.fixture
def cluster() -> Iterator[cluster_utils.Cluster]:
    """Start a head without cores and two nodes of one core each."""
    limits = {"object_store_memory": MEMORY_BYTES}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **limits})
    for _ in range(2):
        cluster.add_node(num_cpus=1, **limits)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_two_nodes_share_a_cohort_and_one_of_them_may_go(
    tmp_path: Path, cluster: cluster_utils.Cluster
) -> None:
    bundle = write_bundle(tmp_path / "bundle.safetensors")
    manifest = write_records(tmp_path / "data", CASES)
    (manifest.parent / "C007" / "cd.json").unlink()
    score(Cohort(manifest, tmp_path / "whole"), scorer(bundle))

    ray.cloudpickle.register_pickle_by_value(cohorts)  # the nodes have no folder of tests
    workforce = cohort_ray.ray_workers(cluster.address, device="cpu")
    assert (workforce.count, workforce.threads, workforce.kind) == (2, 1, "cpu")
    marks = tmp_path / "marks"
    marks.mkdir()
    removed: list[str] = []

    def places() -> list[str]:
        return [path.name.partition("-")[0] for path in marks.iterdir()]

    def remove_a_node(counts: Counts) -> None:
        if not removed and len(set(places())) == 2:
            node = cluster.list_all_nodes()[-1]
            removed.append(node.node_id)
            cluster.remove_node(node, allow_graceful=False)

    by = PlacedScorer(**vars(scorer(bundle)), marks=marks)
    counts = score(Cohort(manifest, tmp_path / "out"), by, workforce, progress=remove_a_node)
    assert set(places()) > set(removed)
    assert len(places()) in (CASES, CASES + 1)  # the case that went with the node has two tries
    assert (counts.done, counts.failed) == (CASES, 1)
    assert without_timings(tmp_path / "out") == without_timings(tmp_path / "whole")
    assert len(read_predictions(tmp_path / "out")) == CASES


def test_workers_wait_asleep_from_their_start(cluster: cluster_utils.Cluster) -> None:
    worker = cohort_ray.ray_workers(cluster.address, device="cpu").start(0)
    environment = worker.submit(Path.read_bytes, Path("/proc/self/environ")).result(timeout=60)
    worker.stop()
    assert b"OMP_WAIT_POLICY=PASSIVE" in environment.split(b"\0")


def test_what_no_cluster_can_do_is_one_line(cluster: cluster_utils.Cluster) -> None:
    with pytest.raises(ConfigError, match=r"expected cuda, found a cluster without GPUs$"):
        cohort_ray.ray_workers(cluster.address, device="cuda")


def test_a_cluster_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^--ray auto: expected a Ray cluster, found: ") as error:
        cohort_ray.ray_workers("auto")
    assert "\n" not in str(error.value)
