"""Fuse 100,000 patches of 1,024 numbers: memory above the bag, and time beside one product's.

Memory: each fusion runs in a process of its own, which holds the model and the bag, gives freed
memory back (else what building the model has left would hide in it what the run takes), and is
watched while it runs. Nothing runs before, so that what libraries set up at their first use counts;
it is printed as what 64 patches take.

Time: CPU seconds of a whole fusion, of the same with its pool over the whole bag at once, and of
one product of the pool's number of FLOP, into memory that is there already.

Run as `PYTHONPATH=. python test/bench/fusion.py [ROUNDS]`; a quarter of an hour.
"""

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from statistics import median
from threading import Event, Thread

from helpers.measure import ROUNDS, interleaved, start_again_with_settings, where_and_what

if __name__ == "__main__":
    start_again_with_settings()

import torch
from pathways import GENES, made_up_sets
from torch import nn
from training import make_plain

from model.batch import Batch, CaseInputs, Dims, collate
from model.fusion import FUSIONS, Fusion, build_fusion
from model.fusion.layers import GatedAttentionPool
from model.fusion.layers_attention import CrossAttention

PATCHES, EMBEDDING, CLINICAL = 100_000, 1024, 27
FEW_PATCHES = 64
PROCESSES = 3
DIMS = Dims(
    embedding=EMBEDDING,
    genes=GENES,
    clinical=CLINICAL,
    gene_sets=made_up_sets(),
    clinical_tokens=(6, 512),
)
PAPERS_PATCHES = 4096
"""Of SurvPath's line, to which both papers belong."""
QUERIES, WIDTH = 300, 256


def main(rounds: int) -> None:
    """Measure memory, then time, and print."""
    print(where_and_what())
    pooling = [name for name in FUSIONS if pool_of(build(name)) is not None]
    print(f"\n| {PATCHES:,} patches | MB above the bag | with {FEW_PATCHES} |\n|---|---|---|")
    needs_slide = [name for name in FUSIONS if "slide" in build(name).config.modalities]
    others = [name for name in needs_slide if name not in pooling]
    for way in (*pooling, "pairwise plain", *others, "queries", "queries plain"):
        each = [peaks_apart(way) for _ in range(PROCESSES)]
        mb, few_mb = (median(found[name] for found in each) for name in ("mb", "few_mb"))
        print(f"| {way} | {mb:.0f} | {few_mb:.0f} |", flush=True)
    print("\n| fusion | s | GFLOP a CPU s of the product | % of it | pool at once / ours |")
    print("|---|---|---|---|---|")
    batch = make_batch(PATCHES)
    for name in pooling:
        print(f"| {name} | {compare(name, batch, rounds)} |", flush=True)
    del batch
    print("\n| patches | survq, ms | pibd, ms | survq / pibd |\n|---|---|---|---|")
    for patches in (PAPERS_PATCHES // 4, PAPERS_PATCHES, 2 * PAPERS_PATCHES):
        spent = times_of(("survq", "pibd"), make_batch(patches), max(rounds, 9))
        survq, pibd = 1e3 * spent["survq"], 1e3 * spent["pibd"]
        print(f"| {patches:,} | {survq:.0f} | {pibd:.0f} | {survq / pibd:.2f} |", flush=True)


def build(name: str) -> Fusion:
    """Build a fusion of the published widths, for inference."""
    torch.manual_seed(0)
    return build_fusion(name, {}, DIMS).eval()


def pool_of(fusion: Fusion) -> GatedAttentionPool | None:
    """Return the gated pool of the bag itself that a fusion has, if it has one."""
    pools = (m for m in fusion.modules() if isinstance(m, GatedAttentionPool))
    return next((p for p in pools if p.project[0].in_features == EMBEDDING), None)


def make_batch(patches: int) -> Batch:
    """Draw a case."""
    torch.manual_seed(0)
    case = CaseInputs(
        bag=torch.randn(patches, EMBEDDING),
        rna=torch.randn(GENES),
        clinical=torch.randn(CLINICAL),
        clinical_tokens=torch.randn(*DIMS.clinical_tokens),
    )
    return collate([case], DIMS)


def compare(name: str, batch: Batch, rounds: int) -> str:
    """Return a row: ours beside the pool at once, and beside one product of as many FLOP."""
    fusion = build(name)
    pool = pool_of(fusion)
    assert pool is not None
    flop = 2 * PATCHES * sum(w.numel() for n, w in pool.named_parameters() if n.endswith("weight"))
    plain = make_plain(deepcopy(fusion)).eval()  # its new layers start in training
    bag = batch.bag[0]
    weight = torch.randn(EMBEDDING, round(flop / 2 / PATCHES / EMBEDDING))
    made = torch.empty(PATCHES, weight.shape[1])
    ways: dict[str, Callable[[], object]] = {
        "product": lambda: torch.mm(bag, weight, out=made),
        "ours": lambda: fusion(batch),
        "plain": lambda: plain(batch),
    }
    with torch.inference_mode():
        assert torch.allclose(fusion(batch), plain(batch), rtol=1e-4, atol=1e-5)
        torch.mm(bag, weight, out=made)
        spent = interleaved(ways, rounds)
    share, product = spent["product"] / spent["ours"], 2 * PATCHES * weight.numel()
    return (
        f"{spent['ours']:.2f} | {product / 1e9 / spent['product']:.0f} | {100 * share:.0f} "
        f"| {spent['plain'] / spent['ours']:.2f}"
    )


def times_of(names: tuple[str, ...], batch: Batch, rounds: int) -> dict[str, float]:
    """Return the CPU seconds of fusions, which take turns."""
    ways = {name: partial(build(name), batch) for name in names}
    with torch.inference_mode():
        interleaved(ways, 1)
        return interleaved(ways, rounds)


def peaks_apart(way: str) -> dict[str, float]:
    """Return what a process of its own measures."""
    done = subprocess.run(
        [sys.executable, __file__, "--peaks", way], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def peaks(way: str) -> dict[str, float]:
    """Return the peaks above model and bag, in MB, of few patches and then of all."""
    step = make_step(way)
    few, batch = make_batch(FEW_PATCHES), make_batch(PATCHES)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = anonymous_mb()
    with torch.inference_mode():
        return {
            name: peak_of(partial(step, one)) - before
            for name, one in (("few_mb", few), ("mb", batch))
        }


def make_step(way: str) -> Callable[[Batch], object]:
    """Return what is measured: a fusion, or queries that ask the bag, each in a plain way too."""
    name, _, plain = way.partition(" ")
    if name != "queries":
        fusion = build(name)
        return make_plain(fusion).eval() if plain else fusion
    queries = torch.randn(1, QUERIES, WIDTH)
    project = nn.Linear(EMBEDDING, WIDTH)
    attention = CrossAttention(WIDTH, WIDTH).eval()
    return lambda batch: (plain_attention if plain else CrossAttention.forward)(
        attention, queries, project(batch.bag), batch.mask
    )


def plain_attention(
    layer: CrossAttention, queries: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Attend with keys, values and all weights in memory at once."""
    scores = layer.query(queries) @ layer.key(tokens).transpose(1, 2) * WIDTH**-0.5
    weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(dim=2)
    return torch.bmm(weights, layer.value(tokens))


def peak_of(work: Callable[[], object]) -> float:
    """Return the most memory that is seen while something is done, in MB."""
    most, done = 0.0, Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, anonymous_mb())

    watcher = Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return max(most, anonymous_mb())


def anonymous_mb() -> float:
    """Return this process's memory without files' pages, which come and go; 1 MB is 10⁶ bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024 / 1e6


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peaks"]:
        print(json.dumps(peaks(sys.argv[2])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
