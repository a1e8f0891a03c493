"""SurvPath: pathways attend to each other and to patches, patches to pathways."""

import torch
from pydantic import Field
from torch import nn

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers_attention import HubAttention, hub_feed_forward, masked_mean
from model.fusion.layers_tokens import ClinicalVectors, GeneSetTokens, PatchTokens, TokensConfig


class SurvpathConfig(TokensConfig):
    """Widths as published.

    Attributes:
        width: Of the tokens; `attended` after the attention.
        hidden: Of the layer before the output.
        genes_dropout: Of the networks of the gene sets; `dropout` that after the attention.
    """

    width: int = Field(default=256, gt=0)
    attended: int = Field(default=128, gt=0)
    hidden: int = Field(default=64, gt=0)
    genes_dropout: float = Field(default=0.25, ge=0, lt=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Survpath(Fusion):
    """logits = MLP([mean FF(G') ‖ mean FF(X')]), where G', X' = the hub attention of G and X.

    G are the gene sets' tokens, X = W x + b the patches'. FF(t) = LN(W_2 GELU(W_1 LN(t))) is the
    same for both. In the authors' code padding is attended to and counts in the mean; here it does
    neither. The clinical record, which the paper does not use, may join as a third vector.

    Source: Jaume et al. 2024.
    """

    Config = SurvpathConfig
    PAPER = (
        'Jaume et al. 2024, "Modeling dense multimodal interactions between biological pathways '
        'and histology for survival prediction", arXiv:2304.06819'
    )
    CODE = "mahmoodlab/SurvPath, GPL-3.0, not for commercial use"

    def __init__(self, config: SurvpathConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        width, attended = config.width, config.attended
        self.genes = GeneSetTokens(config, dims, width, config.genes_dropout)
        self.patches = PatchTokens(config, nn.Linear(dims.embedding, width), width)
        self.hub = HubAttention(width, attended)
        self.feed_forward = hub_feed_forward(attended, config.dropout)
        self.clinical = ClinicalVectors(config, dims, attended, config.genes_dropout)
        self.head = nn.Sequential(
            nn.Linear((2 + self.clinical.count) * attended, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, dims.outputs),
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        patches, mask = self.patches(batch)  # (B, N, width), (B, N)
        groups, patches = self.hub(self.genes(batch), patches, mask)  # (B, P, a), (B, N, a)
        vectors = [
            self.feed_forward(groups).mean(dim=1),
            masked_mean(self.feed_forward(patches), mask),
        ]
        vectors += self.clinical(batch)
        logits: torch.Tensor = self.head(torch.cat(vectors, dim=1))
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return each patch's share (B, N) of the attention that the gene sets pay to patches."""
        patches, mask = self.patches(batch)
        return self.hub.weights(self.genes(batch), patches, mask) * batch.mask
