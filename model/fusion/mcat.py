"""MCAT: gene sets attend to patches; what they see and what they are is encoded as two sets."""

import torch
from pydantic import Field
from torch import nn

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import Dropout, mlp
from model.fusion.layers_sets import SetEncoder
from model.fusion.layers_tokens import (
    ClinicalVector,
    CrossAttention,
    GeneSetTokens,
    PatchTokens,
    TokensConfig,
)


class McatConfig(TokensConfig):
    """Widths as published; `heads` is of the two transformers, the co-attention has one."""

    width: int = Field(default=256, gt=0)
    heads: int = Field(default=8, gt=0)
    dropout: float = Field(default=0.25, ge=0, lt=1)


class Mcat(Fusion):
    """logits = Linear(MLP([encode(W A(G, X) + b) ‖ encode(G)])), A = the genes' cross-attention.

    G are the gene sets' tokens, X = ReLU(W x + b) the patches'. `encode` is a transformer over the
    P tokens, then gated attention pooling; each of the two has its own. The clinical record, which
    the paper does not use, may join as a third vector.

    Source: Chen et al. 2021; the variant that concatenates.
    """

    Config = McatConfig
    PAPER = (
        'Chen et al. 2021, "Multimodal co-attention transformer for survival prediction in '
        'gigapixel whole slide images", doi:10.1109/ICCV48922.2021.00398'
    )
    CODE = "mahmoodlab/MCAT, GPL-3.0, not for commercial use"

    def __init__(self, config: McatConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        width, dropout = config.width, config.dropout
        project = nn.Sequential(nn.Linear(dims.embedding, width), nn.ReLU(), Dropout(dropout))
        self.patches = PatchTokens(config, project, width)
        self.genes = GeneSetTokens(config, dims, width, dropout)
        self.co_attention = CrossAttention(width, width)
        self.co_attended = nn.Linear(width, width)
        self.encode_slide = SetEncoder(width, config.heads, dropout)
        self.encode_genes = SetEncoder(width, config.heads, dropout)
        self.clinical = (
            ClinicalVector(config, dims, width, dropout)
            if "clinical" in config.modalities
            else None
        )
        vectors = 2 if self.clinical is None else 3
        self.fused = mlp((vectors * width, width, width), 0.0)
        self.head = nn.Linear(width, dims.outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        patches, mask = self.patches(batch)  # (B, N, width), (B, N)
        genes = self.genes(batch)  # (B, P, width)
        seen = self.co_attended(self.co_attention(genes, patches, mask))  # (B, P, width)
        vectors = [self.encode_slide(seen), self.encode_genes(genes)]
        if self.clinical is not None:
            vectors.append(self.clinical(batch))
        logits: torch.Tensor = self.head(self.fused(torch.cat(vectors, dim=1)))
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N), the mean over the gene sets."""
        patches, mask = self.patches(batch)
        return self.co_attention.weights(self.genes(batch), patches, mask) * batch.mask
