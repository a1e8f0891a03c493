"""HSFSurv: what patches and gene sets agree on and what they do not, as four sets of tokens."""

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import log_softmax, normalize, one_hot

from model.batch import Batch, Dims
from model.fusion.base import Fusion, Labels
from model.fusion.layers import HeadsConfig, mlp
from model.fusion.layers_elements import Dropout
from model.fusion.layers_sets import GatedPool, SetEncoder
from model.fusion.layers_tokens import ClinicalVectors, GeneSetTokens, PatchTokens, TokensConfig

PARTS = 4
"""Agreement of the patches and of the gene sets, and what is left of each."""


class HsfsurvConfig(TokensConfig, HeadsConfig):
    """Widths as published; weights of the objective as inferred.

    Attributes:
        bins: Of event times; cases of the same bin are to resemble each other.
        momentum: How far a training case moves its bin's memory towards itself.
        temperature: Of that resemblance.
        contrast_weight: Of the cases' contrast with the memories of the bins.
        certainty_weight: Of the four parts' agreement on a bin.
    """

    width: int = Field(default=256, gt=0)
    bins: int = Field(default=4, ge=2)
    momentum: float = Field(default=0.1, gt=0, le=1)
    temperature: float = Field(default=0.1, gt=0)
    contrast_weight: float = Field(default=0.1, ge=0)
    certainty_weight: float = Field(default=0.1, ge=0)
    dropout: float = Field(default=0.25, ge=0, lt=1)


class Hsfsurv(Fusion):
    """logits = Linear(MLP([z_1 ‖ … ‖ z_4])), z = encode(M ⊙ H), encode(M ⊙ G), both with 1 - M too.

    G are the P gene sets' tokens, H as many pseudo-bags of patches, each pooled by gated attention,
    and M = σ(H ⊙ G) what they agree on. Each part has an encoder of its own: a transformer over
    its P tokens and gated pooling, and as in MCAT a layer with ReLU, where the authors' code has a
    linear one. The clinical record, which the paper does not use, may join as a fifth vector.

    [I] Pseudo-bags are equal parts of the bag along one fixed direction of the embeddings, drawn
    at random, so that they do not depend on the order of patches; the pooling is the same for all.
    The authors' code cuts an (N, D) bag along D, into parts of the features.

    [I] The paper first trains with `auxiliary_loss` alone, then with the likelihood alone; here
    the two are added. It has a contrast, of each part's vector with a memory of each bin's cases,
    and the parts' certainty: one linear layer predicts the bin from each part, the entropy of the
    mean of the four predictions is to be low, and each is to be right. Cases without an event, the
    bin of which is unknown, have a share in the entropy only. Memories are moving averages, in
    buffers.

    Source: Fu et al. 2026.
    """

    Config = HsfsurvConfig
    PAPER = (
        'Fu et al. 2026, "HSFSurv: a hybrid supervision framework at individual and feature levels '
        'for multimodal cancer survival analysis", doi:10.1016/j.media.2025.103810'
    )
    CODE = "KKsimi/HSFSurv, not for commercial use"

    config: HsfsurvConfig
    direction: torch.Tensor
    memory: torch.Tensor
    met: torch.Tensor

    def __init__(self, config: HsfsurvConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        width, dropout = config.width, config.dropout
        self.sets = len(dims.gene_sets)
        self.register_buffer("direction", torch.randn(dims.embedding))
        self.register_buffer("memory", torch.zeros(PARTS, config.bins, width))
        self.register_buffer("met", torch.zeros(config.bins, dtype=torch.bool))
        project = nn.Sequential(nn.Linear(dims.embedding, width), nn.ReLU(), Dropout(dropout))
        self.patches = PatchTokens(config, project, width)
        self.pool = GatedPool(width, dropout)
        self.genes = GeneSetTokens(config, dims, width, dropout)
        self.encoders = nn.ModuleList(
            SetEncoder(width, config.heads, dropout) for _ in range(PARTS)
        )
        self.clinical = ClinicalVectors(config, dims, width, dropout)
        self.fused = mlp(((PARTS + self.clinical.count) * width, width, width), 0.0)
        self.head = nn.Linear(width, dims.outputs)
        self.predict = nn.Linear(width, config.bins)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        vectors = list(self._parts(batch).unbind(dim=1))
        vectors += self.clinical(batch)
        logits: torch.Tensor = self.head(self.fused(torch.cat(vectors, dim=1)))
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N), the mean over the pseudo-bags that have some."""
        weights = self._pool_weights(batch, *self.patches(batch)).sum(dim=1) * batch.mask
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=1)

    def auxiliary_loss(self, batch: Batch, labels: Labels) -> torch.Tensor:
        """Return the contrast and the uncertainty; in training, the cases enter the memories."""
        parts = self._parts(batch)  # (B, 4, width)
        bins = (labels.quantile * len(self.met)).long()
        loss = self.config.contrast_weight * self._contrast(parts, bins, labels.event)
        loss = loss + self.config.certainty_weight * self._uncertainty(parts, bins, labels.event)
        if self.training:
            self._remember(parts[labels.event].float(), bins[labels.event])
        return loss

    def _parts(self, batch: Batch) -> torch.Tensor:
        """Return the four parts' vectors (B, 4, width)."""
        patches, mask = self.patches(batch)  # (B, N, width), (B, N)
        genes = self.genes(batch)  # (B, P, width)
        slide = self._pool_weights(batch, patches, mask) @ patches  # (B, P, width)
        agreed = torch.sigmoid(slide * genes)
        parts = [agreed * slide, agreed * genes, (1 - agreed) * slide, (1 - agreed) * genes]
        encoded = [encode(part) for encode, part in zip(self.encoders, parts, strict=True)]
        return torch.stack(encoded, dim=1)

    def _pool_weights(
        self, batch: Batch, patches: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return each pseudo-bag's attention (B, P, N): 0 outside, all 0 if it is empty."""
        scores = self.pool.scores(patches)[:, None]  # (B, 1, N)
        # In float64 rounding, which depends on the size of the batch, swaps no two patches.
        position = batch.bag.double() @ self.direction.double()
        within = cut(position, mask, self.sets)  # (B, P, N)
        lowest = torch.finfo(scores.dtype).min
        return scores.masked_fill(~within, lowest).softmax(dim=2) * within

    def _contrast(
        self, parts: torch.Tensor, bins: torch.Tensor, event: torch.Tensor
    ) -> torch.Tensor:
        """Return the surprise of a case's own bin by its cosines with the bins' memories.

        The mean over all cases and parts; those without an event, or of a bin not yet met, give 0.
        """
        compared = event & self.met[bins]
        if not compared.any():
            return parts.new_zeros(())
        cosines = torch.einsum(
            "bpw,pkw->bpk", normalize(parts, dim=2), normalize(self.memory, dim=2)
        )
        scores = (cosines / self.config.temperature).masked_fill(~self.met, -torch.inf)
        surprise = -log_softmax(scores, dim=2)[compared, :, bins[compared]]  # (compared, 4)
        return surprise.mean(dim=1).sum() / len(parts)

    def _uncertainty(
        self, parts: torch.Tensor, bins: torch.Tensor, event: torch.Tensor
    ) -> torch.Tensor:
        """Return the entropy of the parts' mean prediction, plus the mean surprise of events."""
        predicted = log_softmax(self.predict(parts), dim=2)  # (B, 4, bins)
        mean = predicted.exp().mean(dim=1)  # (B, bins)
        entropy = -torch.xlogy(mean, mean).sum(dim=1)
        own = one_hot(bins, len(self.met))[:, None]
        surprise = -(predicted * own).sum(dim=2).mean(dim=1) * event
        return (entropy + surprise).mean()

    @torch.no_grad()
    def _remember(self, parts: torch.Tensor, bins: torch.Tensor) -> None:
        """Move each case's bin's memory towards it; the first case of a bin is its memory."""
        for vectors, at in zip(parts, bins, strict=True):
            share = torch.where(self.met[at], self.config.momentum, 1.0)
            self.memory[:, at] = torch.lerp(self.memory[:, at], vectors, share)
            self.met[at] = True


def cut(position: torch.Tensor, mask: torch.Tensor, parts: int) -> torch.Tensor:
    """Return which of the real patches (B, N) are in which part (B, parts, N).

    Of n patches, the one of rank r by position is in part ⌊r · parts / n⌋; so the sizes differ by
    at most one, and of fewer patches than parts some parts are empty.
    """
    order = position.masked_fill(~mask, torch.inf).argsort(dim=1)
    rank = order.argsort(dim=1)  # (B, N)
    part = rank * parts // mask.sum(dim=1, keepdim=True).clamp(min=1)
    return one_hot(part.where(mask, parts), parts + 1)[..., :parts].transpose(1, 2).bool()
