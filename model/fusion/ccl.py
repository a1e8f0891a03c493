"""CCL: what slide and genes have in common, what they make together, and what is each one's own."""

from collections.abc import Iterable
from functools import partial
from itertools import permutations

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import cosine_similarity, layer_norm, normalize, relu, selu

from model.batch import Batch, Dims
from model.fusion.base import Fusion, Labels
from model.fusion.layers import HeadsConfig, OneStandIn, snn
from model.fusion.layers_nystrom import NystromAttention, NystromLayer
from model.fusion.layers_prototypes import fit_prototypes, k_means
from model.fusion.layers_tokens import ClinicalVectors, GeneSetTokens, GroupedSnn, TokensConfig

MOST_ROUNDS = 30

LIKENESS = {"common": (1.0, 1.0), "synergy": (0.0, 0.0), "slide": (1.0, 0.0), "genes": (0.0, 1.0)}
"""The cosines that each component is to have with the slide's vector and with the genes'."""


class CclConfig(TokensConfig, HeadsConfig):
    """Widths and weights as published.

    Attributes:
        clusters: Of a case's patches. All their orders are tried, so they are few.
        fit_patches: Most patches for each cluster that the clusters' memory starts from.
        momentum: How far a training case moves the memory towards its own clusters.
        bins: Of event times; cases of the same bin are to resemble each other.
        bank: Cases of each bin that are remembered for that.
        temperature: Of that resemblance.
        cohort_weight: Of the two terms that `auxiliary_loss` adds.
    """

    width: int = Field(default=256, gt=0)
    clusters: int = Field(default=6, gt=0, le=7)
    fit_patches: int = Field(default=20_000, gt=0)
    momentum: float = Field(default=0.1, gt=0, le=1)
    bins: int = Field(default=4, ge=2)
    bank: int = Field(default=10, gt=0)
    temperature: float = Field(default=0.1, gt=0)
    cohort_weight: float = Field(default=1.0, ge=0)
    gene_dropout: float = Field(default=0.15, ge=0, lt=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Merge(nn.Module):
    """ReLU(norm(Σ_k w_k x_k)): K tokens as one, normalised over its own elements."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.weight = nn.Linear(tokens, 1, bias=False)  # a bias would be normalised away

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return (B, width) of tokens (B, K, width)."""
        merged = self.weight(tokens.transpose(1, 2)).squeeze(2)  # (B, width)
        return relu(layer_norm(merged, merged.shape[1:]))


def aligned(width: int) -> nn.Sequential:
    """Build ReLU(LN(W x + b))."""
    return nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU())


class Interaction(nn.Module):
    """σ(A w_u + b_u) ⊙ u + σ(Aᵀ w_v + b_v) ⊙ v, where A = u vᵀ, u and v the aligned vectors.

    A is of rank one, so it is never built: A w = u (v·w).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.slide = aligned(width)
        self.genes = aligned(width)
        self.weigh_slide = nn.Linear(width, 1)
        self.weigh_genes = nn.Linear(width, 1)

    def forward(self, slide: torch.Tensor, genes: torch.Tensor) -> torch.Tensor:
        """Return (B, width) of two vectors (B, width)."""
        u, v = self.slide(slide), self.genes(genes)
        of_slide = torch.sigmoid(u * (v @ self.weigh_slide.weight.T) + self.weigh_slide.bias)
        of_genes = torch.sigmoid(v * (u @ self.weigh_genes.weight.T) + self.weigh_genes.bias)
        gated: torch.Tensor = of_slide * u + of_genes * v
        return gated


class Ccl(Fusion):
    """logits = W x_cls after two attention layers over x_cls and the four components of knowledge.

    p and g, the slide's and the genes' vectors, are their tokens merged: the gene sets', and the
    centres of a case's own clusters of patches. Common and synergistic knowledge are interactions
    of p and g; what is specific to each is ReLU(LN(W p + b)) and ReLU(LN(W g + b)). The clinical
    record, which the paper does not use, may join as a fifth.

    Clusters grow from a memory of the training cases', and are put in its order, so the first of
    one case is like the first of another. `auxiliary_loss` adds the distance of the components'
    cosines with p and g from LIKENESS, and the contrast between cases of the same and of other
    bins, [I] among cases with events, as the bin of the others is unknown. Memory and bank are
    buffers, which the authors' code leaves out of its checkpoints. Five tokens are fewer than the
    landmarks of Nyström's approximation, so attention is exact.

    Source: Zhou et al. 2024.
    """

    Config = CclConfig
    PAPER = (
        'Zhou, Zhou and Chen 2024, "Cohort-individual cooperative learning for multimodal cancer '
        'survival analysis", arXiv:2404.02394'
    )
    CODE = "moothes/CCL-survival, not for commercial use"

    config: CclConfig
    memory: torch.Tensor
    bank: torch.Tensor
    filled: torch.Tensor

    def __init__(self, config: CclConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        width = config.width
        self.register_buffer("memory", torch.randn(config.clusters, dims.embedding))
        self.register_buffer("bank", torch.zeros(config.bins, config.bank, width))
        self.register_buffer("filled", torch.zeros(config.bins, dtype=torch.int64))
        dropout = config.gene_dropout
        self.project = snn((dims.embedding, width), dropout, nn.SELU)
        # Each set has a first layer of its own, and all share the second.
        self.genes = nn.Sequential(
            GeneSetTokens(
                config, dims, width, dropout, partial(GroupedSnn, layers=1, activation=selu)
            ),
            snn((width, width), dropout, nn.SELU),
        )
        self.merge_patches = Merge(config.clusters)
        self.merge_genes = Merge(len(dims.gene_sets))
        self.stand_ins = OneStandIn("slide", width, config.optional)
        self.common = Interaction(width)
        self.synergy = Interaction(width)
        self.of_slide, self.of_genes = aligned(width), aligned(width)
        self.clinical = ClinicalVectors(config, dims, width, config.dropout)
        self.summary = nn.Parameter(torch.randn(width))
        self.layers = nn.ModuleList(
            NystromLayer(
                nn.LayerNorm(width),
                NystromAttention(width, config.heads, len(LIKENESS) + 2, config.dropout),
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, dims.outputs)

    def fit_unsupervised(self, bags: Iterable[torch.Tensor]) -> None:
        """Start the memory at the centres of the bags' patches."""
        self.memory.copy_(fit_prototypes(bags, len(self.memory), self.config.fit_patches))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        slide, genes = self._vectors(batch, self._clusters(batch))  # (B, width) each
        logits: torch.Tensor = self.head(self._fuse(batch, self._decompose(slide, genes)))
        return logits

    def auxiliary_loss(self, batch: Batch, labels: Labels) -> torch.Tensor:
        """Return what ties the components to their meaning, and cases to those of their bin.

        In training, the cases then enter the memory and the bank.
        """
        clusters = self._clusters(batch)  # (B, K, D)
        slide, genes = self._vectors(batch, clusters)
        components = self._decompose(slide, genes)
        case = normalize(self._fuse(batch, components), dim=1)  # (B, width)
        bins = (labels.quantile * len(self.bank)).long()
        gaps = [
            (cosine_similarity(components[name], vector, dim=1) - target).abs().mean()
            for name, targets in LIKENESS.items()
            for vector, target in zip((slide, genes), targets, strict=True)
        ]
        loss = torch.stack(gaps).mean() + self._contrast(case, bins, labels.event)
        if self.training:
            self._remember(clusters[batch.slide_present], case[labels.event], bins[labels.event])
        return self.config.cohort_weight * loss

    @torch.no_grad()
    def _clusters(self, batch: Batch) -> torch.Tensor:
        """Return the centres (B, K, D) of each case's clusters, in the order of the memory."""
        found = [
            k_means(bag[mask], self.memory, MOST_ROUNDS).centres
            for bag, mask in zip(batch.bag, batch.mask, strict=True)
        ]
        return torch.stack([match(centres, self.memory) for centres in found])

    def _vectors(self, batch: Batch, clusters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the slide's vector and the genes' (B, width)."""
        slide = self.merge_patches(self.project(clusters))
        stood_in: torch.Tensor = self.stand_ins(slide, batch)
        genes: torch.Tensor = self.merge_genes(self.genes(batch))
        return stood_in, genes

    def _decompose(self, slide: torch.Tensor, genes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return component → (B, width)."""
        return {
            "common": self.common(slide, genes),
            "synergy": self.synergy(slide, genes),
            "slide": self.of_slide(slide),
            "genes": self.of_genes(genes),
        }

    def _fuse(self, batch: Batch, components: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return x_cls (B, width)."""
        tokens = [self.summary.expand(len(batch), -1), *components.values(), *self.clinical(batch)]
        fused = torch.stack(tokens, dim=1)  # (B, 5 or 6, width)
        real = fused.new_ones(fused.shape[:2], dtype=torch.bool)
        for layer in self.layers:
            fused = layer(fused, real)
        normed: torch.Tensor = self.norm(fused[:, 0])
        return normed

    def _contrast(
        self, case: torch.Tensor, bins: torch.Tensor, event: torch.Tensor
    ) -> torch.Tensor:
        """Return -log of the share that remembered cases of one's own bin have of e^(cosine / t).

        The mean over all cases; those without an event, or any of their bin to compare, give 0.
        """
        known = torch.arange(self.bank.shape[1], device=case.device) < self.filled[:, None]
        bank = self.bank.clone()  # as it is now: the gradient needs it after cases have entered
        scores = torch.einsum("bw,knw->bkn", case, bank) / self.config.temperature
        by_bin = scores.masked_fill(~known, -torch.inf).logsumexp(dim=2)  # (B, bins)
        compared = event & (self.filled[bins] > 0)
        if not compared.any():
            return case.new_zeros(())
        by_bin, own = by_bin[compared], bins[compared]
        share = by_bin.gather(1, own[:, None])[:, 0] - by_bin.logsumexp(dim=1)
        return -share.sum() / len(case)

    @torch.no_grad()
    def _remember(self, clusters: torch.Tensor, case: torch.Tensor, bins: torch.Tensor) -> None:
        """Move the memory towards each case's clusters; put cases in front of their bin's bank."""
        for centres in clusters:
            self.memory.lerp_(centres, self.config.momentum)
        for vector, at in zip(case, bins, strict=True):
            self.bank[at] = torch.cat([vector[None], self.bank[at, :-1]])
            self.filled[at] = (self.filled[at] + 1).clamp(max=self.bank.shape[1])


def match(centres: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """Return the centres (K, D) in the order that is nearest to the memory's (K, D), by L1."""
    cost = torch.cdist(memory, centres, p=1)  # (K, K)
    rows = torch.arange(len(memory))
    orders = torch.tensor(list(permutations(range(len(memory)))))  # (K!, K)
    return centres[orders[cost.cpu()[rows, orders].sum(dim=1).argmin()].to(centres.device)]
