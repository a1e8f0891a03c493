"""SurvQ: learned queries sum up patches and pathways, then mix."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers_attention import CrossAttention
from model.fusion.layers_elements import Dropout
from model.fusion.layers_tokens import ClinicalVectors, GeneSetTokens, PatchTokens, TokensConfig

INITIAL_SD = 0.02


class SurvqConfig(TokensConfig):
    """Widths and numbers of queries as published.

    Attributes:
        queries: "learned", or "fixed" as they were drawn: the paper's ablation.
        hidden: Between the embeddings and the tokens.
    """

    patch_queries: int = Field(default=300, gt=0)
    gene_queries: int = Field(default=128, gt=0)
    queries: Literal["learned", "fixed"] = "learned"
    hidden: int = Field(default=512, gt=0)
    width: int = Field(default=256, gt=0)
    dropout: float = Field(default=0.25, ge=0, lt=1)


class Queries(nn.Module):
    """Query vectors and the cross-attention by which they sum up a case's tokens."""

    vectors: torch.Tensor

    def __init__(self, count: int, width: int, *, learned: bool) -> None:
        super().__init__()
        drawn = INITIAL_SD * torch.randn(count, width)  # equal ones would stay equal
        if learned:
            self.vectors = nn.Parameter(drawn)
        else:
            self.register_buffer("vectors", drawn)
        self.attention = CrossAttention(width, width)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the sums (B, Q, width) of tokens (B, N, width)."""
        summed: torch.Tensor = self.attention(self._for_each(tokens), tokens, mask)
        return summed

    def weights(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the weight of each token (B, N), the mean over the queries."""
        return self.attention.weights(self._for_each(tokens), tokens, mask)

    def values(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what is summed up (B, N, width)."""
        values: torch.Tensor = self.attention.value(tokens)
        return values

    def _for_each(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.vectors.expand(len(tokens), -1, -1)


class Survq(Fusion):
    """logits = Linear(mean of A_3(Z, Z)), where Z = [A_1(Q_H, X) ‖ A_2(Q_G, G)].

    X = MLP(x) are the patches' tokens, G the gene sets'; A_i is cross-attention. It replaces the
    queries, with no residual and no norm: each of the tokens that mix is a weighted mean of values.

    Inferred, where the paper is silent: the mean is over tokens (the widths it prints would have it
    over channels); queries start as normal draws of sd 0.02; ReLU and dropout are in the MLP. The
    clinical record, which the paper does not use, may join as one more token before the mixing.

    Source: the paper's equations; its code is not public.
    """

    Config = SurvqConfig
    PAPER = (
        '"Multimodal cancer survival analysis with learnable queries" (SurvQ), '
        "openreview.net/forum?id=4oA5xPOTmy"
    )
    CODE = "none found"

    def __init__(self, config: SurvqConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        width, dropout = config.width, config.dropout
        project = nn.Sequential(
            nn.Linear(dims.embedding, config.hidden),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(config.hidden, width),
            nn.ReLU(),
        )
        self.patches = PatchTokens(config, project, width)
        self.genes = GeneSetTokens(config, dims, width, dropout)
        learned = config.queries == "learned"
        self.ask_patches = Queries(config.patch_queries, width, learned=learned)
        self.ask_genes = Queries(config.gene_queries, width, learned=learned)
        self.clinical = ClinicalVectors(config, dims, width, dropout)
        self.mix = CrossAttention(width, width)
        self.head = nn.Linear(width, dims.outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        patches, mask = self.patches(batch)  # (B, N, width), (B, N)
        summed = [self.ask_patches(patches, mask), self.ask_genes(self.genes(batch))]
        summed += [vector[:, None] for vector in self.clinical(batch)]
        tokens = torch.cat(summed, dim=1)  # (B, Q_H + Q_G or one more, width)
        logits: torch.Tensor = self.head(self.mix(tokens, tokens).mean(dim=1))
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N), the mean over the queries."""
        patches, mask = self.patches(batch)
        return self.ask_patches.weights(patches, mask) * batch.mask
