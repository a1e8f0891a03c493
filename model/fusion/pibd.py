"""PIBD: risk prototypes pick the tokens that matter; what modalities share is told apart."""

from itertools import combinations

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from model.batch import Batch, Dims
from model.fusion.base import Fusion, Labels
from model.fusion.layers import HeadsConfig, mlp
from model.fusion.layers_attention import masked_mean
from model.fusion.layers_bottleneck import Bottleneck, Club, Picked
from model.fusion.layers_tokens import ClinicalVectors, GeneSetTokens, PatchTokens, TokensConfig
from model.survival import log_survival


class PibdConfig(TokensConfig, HeadsConfig):
    """Widths and weights as published.

    Attributes:
        bins: Of event times; there is a prototype for each, with the event and without.
        keep_patches: Share of a case's patches that goes on; `keep_genes` that of its gene sets.
        samples: Of a prototype that are averaged in training.
        proxy_weight: Of the tokens' similarity to the case's own prototype.
        hazard_weight: Of the likelihood of a prototype's own label.
        prior_weight: Of the prototypes' divergence from a standard normal distribution.
        shared_weight: Of the information that the three vectors share. Its bound compares the cases
            that are in memory at once (`fit.chunk_patches`), and is 0 where that is one.
    """

    hidden: int = Field(default=512, gt=0)
    width: int = Field(default=256, gt=0)
    heads: int = Field(default=4, gt=0)
    bins: int = Field(default=4, ge=2)
    keep_patches: float = Field(default=0.5, gt=0, le=1)
    keep_genes: float = Field(default=0.8, gt=0, le=1)
    samples: int = Field(default=50, gt=0)
    proxy_weight: float = Field(default=1.0, ge=0)
    hazard_weight: float = Field(default=0.1, ge=0)
    prior_weight: float = Field(default=0.01, ge=0)
    shared_weight: float = Field(default=0.1, ge=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)


class Disentangler(nn.Module):
    """x + A(LN(x)), then x + MLP(LN(x)), then LN, with the same layers for all tokens.

    Patches attend to patches, gene sets to gene sets, the joint token to all.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width)
        )

    def forward(
        self, slide: Picked, genes: Picked, joint: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return three vectors (B, width): the slide's own, the genes' own, and what is joint."""
        parts = [joint[:, None], slide.tokens, genes.tokens]
        sizes = [part.shape[1] for part in parts]
        tokens = torch.cat(parts, dim=1)  # (B, 1 + M_s + M_g, width)
        real = torch.cat([slide.mask.new_ones(len(joint), 1), slide.mask, genes.mask], dim=1)
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, tokens, width / heads)
            for part in self.qkv(self.norms[0](tokens)).chunk(3, dim=2)
        )
        q, k, v = (part.split(sizes, dim=2) for part in (query, key, value))
        attended = [
            _attend(q[0], key, value, real),
            _attend(q[1], k[1], v[1], slide.mask),
            _attend(q[2], k[2], v[2], genes.mask),
        ]
        tokens = tokens + self.out(torch.cat(attended, dim=2).transpose(1, 2).flatten(2))
        tokens = self.norms[2](tokens + self.mlp(self.norms[1](tokens)))
        joint_out, slide_out, genes_out = tokens.split(sizes, dim=1)
        return (
            masked_mean(slide_out, slide.mask),
            masked_mean(genes_out, genes.mask),
            joint_out[:, 0],
        )


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return attention (B, heads, Q, w) to the keys (B, heads, N, w) that are real (B, N)."""
    return scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])


class Pibd(Fusion):
    """logits = Linear(ReLU(W [h ‖ g ‖ c])): what is the slide's own, the genes' own, and joint.

    Each modality's tokens go through an MLP; those most similar to a prototype go on, and vote for
    one. The joint token is the mean of the weighted product of the two prototypes voted for,
    (α_h μ_h/σ_h² + α_g μ_g/σ_g²) / (α_h/σ_h² + α_g/σ_g²), α the softmax of two learned numbers.

    Put right: a token is picked once, the precisions are 1/σ² and not 1/σ, and
    the bound on the shared information does not train its own estimator. All patches are used,
    nothing is drawn in evaluation; [I] tokens are picked in training as in evaluation, without the
    label, which only `auxiliary_loss` sees. As half of the patches are left out, none has a weight.
    The clinical record, which the paper does not use, may join as a fourth vector.

    Source: Zhang et al. 2024.
    """

    Config = PibdConfig
    PAPER = (
        'Zhang et al. 2024, "Prototypical information bottlenecking and disentangling for '
        'multimodal cancer survival prediction", arXiv:2401.01646'
    )
    CODE = "zylbuaa/PIBD, Apache-2.0"

    config: PibdConfig

    def __init__(self, config: PibdConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        width, hidden, dropout = config.width, config.hidden, config.dropout
        widths = (hidden, hidden, width)
        # Without the last ReLU: cosines with prototypes around 0 want all directions.
        self.patches = PatchTokens(config, mlp((dims.embedding, *widths), dropout)[:-1], width)
        self.genes = nn.Sequential(
            GeneSetTokens(config, dims, width, dropout), mlp((width, *widths), dropout)[:-1]
        )
        kinds = 2 * config.bins
        self.slide_prototypes = Bottleneck(kinds, width, config.keep_patches, config.samples)
        self.gene_prototypes = Bottleneck(kinds, width, config.keep_genes, config.samples)
        self.experts = nn.Parameter(torch.zeros(2))
        self.hazards = nn.Linear(width, config.bins)
        self.disentangle = Disentangler(width, config.heads, dropout)
        self.shared = nn.ModuleList(Club(width) for _ in range(3))
        self.clinical = ClinicalVectors(config, dims, width, dropout)
        self.fused = mlp(((3 + self.clinical.count) * width, width), dropout)
        self.head = nn.Linear(width, dims.outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        patches, mask = self.patches(batch)  # (B, N, width), (B, N)
        vectors = list(self._vectors(patches, mask, self.genes(batch)))
        vectors += self.clinical(batch)
        logits: torch.Tensor = self.head(self.fused(torch.cat(vectors, dim=1)))
        return logits

    def auxiliary_loss(self, batch: Batch, labels: Labels) -> torch.Tensor:
        """Return what trains the prototypes, and keeps the three vectors apart."""
        patches, mask = self.patches(batch)
        genes = self.genes(batch)  # (B, P, width)
        vectors = self._vectors(patches, mask, genes)
        every = mask.new_ones(genes.shape[:2])
        kind = 2 * (labels.quantile * self.config.bins).long() + labels.event
        proxy = self.slide_prototypes.proxy_loss(patches, mask, kind)
        proxy = proxy + self.gene_prototypes.proxy_loss(genes, every, kind)
        shared = [
            club(x, y) for club, (x, y) in zip(self.shared, combinations(vectors, 2), strict=True)
        ]
        return (
            self.config.proxy_weight * proxy
            + self.config.shared_weight * torch.stack(shared).sum()
            + self._prototype_loss(self.slide_prototypes)
            + self._prototype_loss(self.gene_prototypes)
        )

    def _vectors(
        self, patches: torch.Tensor, mask: torch.Tensor, genes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return h, g and c (B, width)."""
        slide = self.slide_prototypes.pick(patches, mask)
        picked = self.gene_prototypes.pick(genes, mask.new_ones(genes.shape[:2]))
        experts = ((self.slide_prototypes, slide.kind), (self.gene_prototypes, picked.kind))
        precision = [
            share / prototypes.variance[kind]
            for share, (prototypes, kind) in zip(self.experts.softmax(dim=0), experts, strict=True)
        ]
        moment = [
            weight * prototypes.mean[kind]
            for weight, (prototypes, kind) in zip(precision, experts, strict=True)
        ]
        joint = (moment[0] + moment[1]) / (precision[0] + precision[1])  # (B, width)
        vectors: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = self.disentangle(
            slide, picked, joint
        )
        return vectors

    def _prototype_loss(self, prototypes: Bottleneck) -> torch.Tensor:
        """Return the information bottleneck's loss: to tell a label, and to hold little else.

        A prototype's likelihood is that of an event, or of none yet, in its bin:
        log S(b) + event · logit(b), as log λ - log(1 - λ) is the logit of the hazard λ.
        """
        kind = torch.arange(2 * self.config.bins, device=prototypes.mean.device)
        at, event = (kind // 2)[:, None], kind % 2
        logits = self.hazards(prototypes.draw())  # (K, bins)
        survival = log_survival(logits).gather(1, at)[:, 0]  # (K,)
        likelihood = survival + event * logits.gather(1, at)[:, 0]
        unlikely: torch.Tensor = -self.config.hazard_weight * likelihood.mean()
        return unlikely + self.config.prior_weight * prototypes.divergence()
