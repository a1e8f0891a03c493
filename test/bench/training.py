"""Train on bags of 11,000 × 1,024: the whole risk set's gradient against the reference's way.

The second-place repository takes an optimiser step for every two cases, one bag at a time, and its
risk sets are those two. Ours takes one step on the risk set of all. Both read the same bags and
train the same model at the paper's widths; theirs once with the layers as they are written there,
and once with ours, which draw dropout faster and pool in pieces. Printed: seconds of an epoch each,
and the peak memory of ours with few and with many cases.

Run as `PYTHONPATH=. python test/bench/training.py [CASES]`; 176 cases take ten minutes.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from model.bags import bag_path, write_bag
from model.batch import Bag, CaseInputs, Dims, collate
from model.encoders import ENCODERS
from model.fusion import Fusion, build_fusion
from model.fusion.layers import GatedAttentionPool
from model.fusion.layers_elements import Dropout
from model.patches import PatchSpec
from train.config import FitConfig
from train.dataset import Bags, Fold
from train.loop import Plan, train_fusion
from train.losses import cox_nll

PATCHES, GENES, CLINICAL = 11_000, 19_359, 27
DIMS = Dims(embedding=1024, genes=GENES, clinical=CLINICAL)
SPEC = ENCODERS["uni"].model_copy(update={"weights_sha256": "0" * 64})
FIT = FitConfig(epochs=1, inner_folds=0, learning_rate=1e-4, modality_dropout=0.0)


def make_fold(directory: Path, cases: int) -> Fold:
    """Make cases whose bags are one file under many names, read anew whenever it is needed."""
    rng = np.random.default_rng(0)
    first = bag_path(directory, "0")
    if not first.exists():
        coords = torch.zeros(PATCHES, 2, dtype=torch.int64)
        bag = Bag(torch.randn(PATCHES, 1024), coords, coords[:, 0].clone())
        write_bag(first, bag, SPEC, PatchSpec())
    for index in range(1, cases):
        path = bag_path(directory, str(index))
        if not path.exists():
            os.link(first, path)
    inputs = tuple(
        CaseInputs(rna=torch.randn(GENES), clinical=torch.randn(CLINICAL)) for _ in range(cases)
    )
    return Fold(
        case_ids=tuple(str(index) for index in range(cases)),
        inputs=inputs,
        bags=Bags(directory, SPEC, PatchSpec(), cache_bytes=0),
        dims=DIMS,
        optional=(),
        event=torch.from_numpy(rng.random(cases) < 0.36),
        time=torch.from_numpy(rng.integers(5, 202, cases).astype(float)),
        strata=torch.zeros(cases, dtype=torch.int64),
    )


def whole_risk_set(fold: Fold) -> float:
    """Return the seconds of one epoch of ours."""
    torch.manual_seed(0)
    fusion = build_fusion("pairwise", {}, DIMS)
    started = time.perf_counter()
    train_fusion(fusion, fold, Plan(FIT, 1, (0,)))
    return time.perf_counter() - started


class PlainPool(GatedAttentionPool):
    """The same layers over the whole bag at once, with torch's own dropout."""

    def forward(self, bag: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the pooled vectors and weights."""
        patches = self.project(bag)
        scores = self.score(self.value(patches) * self.gate(patches)).squeeze(-1)
        weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=1)
        return torch.einsum("bn,bnw->bw", weights, patches), weights


def make_plain(fusion: Fusion) -> Fusion:
    """Give a fusion the layers of the reference."""
    for module in list(fusion.modules()):
        if isinstance(module, GatedAttentionPool):
            module.__class__ = PlainPool
        for name, child in module.named_children():
            if isinstance(child, Dropout):
                setattr(module, name, nn.Dropout(child.p))
    return fusion


def two_at_a_time(fold: Fold, *, plain: bool) -> float:
    """Return the seconds of one epoch of the reference's way."""
    torch.manual_seed(0)
    fusion = build_fusion("pairwise", {}, DIMS)
    if plain:
        make_plain(fusion)
    optimiser = torch.optim.Adam(fusion.parameters(), lr=1e-4, weight_decay=1e-5)
    fusion.train()
    started = time.perf_counter()
    for start in range(0, len(fold) - 1, 2):
        pair = [start, start + 1]
        risks = torch.cat([fusion(collate([fold.case(index)], DIMS))[:, 0] for index in pair])
        loss = cox_nll(risks, event=fold.event[pair], time=fold.time[pair])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return time.perf_counter() - started


def peak_mb(directory: Path, cases: int) -> float:
    """Return the peak memory of a process that trains an epoch of ours."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak", str(directory), str(cases)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    """Print the comparison."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 176
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        few, many = peak_mb(directory, 12), peak_mb(directory, 48)
        print(
            f"peak memory: {few:,.0f} MB with 12 cases, {many:,.0f} MB with 48, {many / few:.2f} x"
        )
        fold = make_fold(directory, cases)
        rounds = 3 if cases <= 24 else 1
        seconds = [
            (
                whole_risk_set(fold),
                two_at_a_time(fold, plain=True),
                two_at_a_time(fold, plain=False),
            )
            for _ in range(rounds)
        ]
        ours, theirs, mixed = np.median(seconds, axis=0)
        print(
            f"epoch over {cases} bags of {PATCHES:,} x 1,024, median of {rounds}: whole risk set "
            f"{ours:.1f} s; two at a time {theirs:.1f} s, {theirs / ours:.2f} x as long; two at a "
            f"time with our layers {mixed:.1f} s, {mixed / ours:.2f} x"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        whole_risk_set(make_fold(Path(sys.argv[2]), int(sys.argv[3])))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    else:
        main()
