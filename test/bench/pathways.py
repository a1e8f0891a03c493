"""The grouped pathway networks against a plain loop of 331 modules, of SurvPath's sizes.

Printed for 1, 8 and 32 cases: milliseconds of a training step each (forward, backward, AdamW), the
least of nine taken in turns, and their ratio. Both have as many parameters and compute the same,
which test_layers_tokens.py tests.

Run as `PYTHONPATH=. python test/bench/pathways.py`; half a minute on two cores.
"""

import time

import numpy as np
import torch
from torch import Tensor, nn

from model.fusion.layers import snn
from model.fusion.layers_tokens import GroupedSnn

SETS, GENES, WIDTH, DROPOUT = 331, 4999, 256, 0.25


def made_up_sets() -> dict[str, tuple[int, ...]]:
    """Draw 281 small sets, like Reactome's, and 50 large ones, like the Hallmarks."""
    rng = np.random.default_rng(0)
    small = np.minimum(1 + rng.geometric(0.11, 281), 69)
    sizes = np.concatenate([small, rng.integers(31, 200, 50)])
    drawn = {str(i): rng.choice(GENES, size, replace=False) for i, size in enumerate(sizes)}
    return {name: tuple(genes.tolist()) for name, genes in drawn.items()}


class Loop(nn.Module):
    """One module a set."""

    def __init__(self, gene_sets: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.genes = [torch.tensor(genes) for genes in gene_sets.values()]
        self.sets = nn.ModuleList(snn((len(g), WIDTH, WIDTH), DROPOUT) for g in self.genes)

    def forward(self, rna: Tensor) -> Tensor:
        """Return (B, P, WIDTH)."""
        tokens = [one(rna[:, genes]) for one, genes in zip(self.sets, self.genes, strict=True)]
        return torch.stack(tokens, dim=1)


def step(module: nn.Module, optimiser: torch.optim.Optimizer, rna: Tensor) -> float:
    """Take a training step; return its milliseconds."""
    started = time.perf_counter()
    optimiser.zero_grad()
    module(rna).square().mean().backward()
    optimiser.step()
    return 1e3 * (time.perf_counter() - started)


def main() -> None:
    """Print the comparison."""
    gene_sets = made_up_sets()
    modules = [GroupedSnn(gene_sets, WIDTH, DROPOUT), Loop(gene_sets)]
    counts = [sum(p.numel() for p in module.parameters()) for module in modules]
    print(f"{SETS} sets; {counts[0]:,} parameters grouped, {counts[1]:,} in the loop")
    optimisers = [torch.optim.AdamW(module.parameters(), fused=True) for module in modules]
    for cases in (1, 8, 32):
        rna = torch.randn(cases, GENES)
        rounds = [
            [step(*pair, rna) for pair in zip(modules, optimisers, strict=True)] for _ in range(9)
        ]
        ours, theirs = np.min(rounds, axis=0)
        print(
            f"{cases:2} cases: grouped {ours:.0f} ms, loop {theirs:.0f} ms; "
            f"ours has {theirs / ours:.1f} x the speed"
        )


if __name__ == "__main__":
    main()
