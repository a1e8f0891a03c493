"""A vector from a few tokens: they attend to each other, then they are pooled."""

from abc import abstractmethod

import torch
from pydantic import Field
from torch import nn

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import HeadsConfig, mlp
from model.fusion.layers_elements import Dropout
from model.fusion.layers_tokens import (
    ClinicalVectors,
    GeneSetTokens,
    PatchTokens,
    TokensConfig,
)


class GatedPool(nn.Module):
    """Σ_n A_n x_n, where A = softmax over the tokens of w·(tanh(V x_n) ⊙ σ(U x_n)).

    Source: Ilse, Tomczak and Welling 2018, arXiv:1802.04712, equation 9, on tokens as they are.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.value = nn.Sequential(nn.Linear(width, width), nn.Tanh(), Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(width, width), nn.Sigmoid(), Dropout(dropout))
        self.score = nn.Linear(width, 1)

    def scores(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what the softmax is taken of (B, N)."""
        scores: torch.Tensor = self.score(self.value(tokens) * self.gate(tokens)).squeeze(-1)
        return scores

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the pooled vector (B, width) of tokens (B, N, width), all of them real."""
        weights = torch.softmax(self.scores(tokens), dim=1)
        return torch.einsum("bn,bnw->bw", weights, tokens)


class SetEncoder(nn.Module):
    """Two transformer layers over a set of tokens, gated pooling, and a layer ReLU(W x + b).

    Layers normalise after each residual, with an inner width twice the tokens'.

    Source: Chen et al. 2021, "Multimodal co-attention transformer for survival prediction in
    gigapixel whole slide images", ICCV.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.pool = GatedPool(width, dropout)
        self.out = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return a vector (B, width) of tokens (B, N, width)."""
        vector: torch.Tensor = self.out(self.pool(self.transformer(tokens)))
        return vector


class TwoSetsConfig(TokensConfig, HeadsConfig):
    """Widths of MCAT's family; `heads` is of the two transformers."""

    width: int = Field(default=256, gt=0)
    dropout: float = Field(default=0.25, ge=0, lt=1)


class TwoSets(Fusion):
    """logits = Linear(MLP([encode(see(G, X)) ‖ encode(G)])): gene sets, and what they see.

    The clinical record may join as a third vector.
    """

    def __init__(self, config: TwoSetsConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        width, dropout = config.width, config.dropout
        project = nn.Sequential(nn.Linear(dims.embedding, width), nn.ReLU(), Dropout(dropout))
        self.patches = PatchTokens(config, project, width)
        self.genes = GeneSetTokens(config, dims, width, dropout)
        self.encode_slide = SetEncoder(width, config.heads, dropout)
        self.encode_genes = SetEncoder(width, config.heads, dropout)
        self.clinical = ClinicalVectors(config, dims, width, dropout)
        self.fused = mlp(((2 + self.clinical.count) * width, width, width), 0.0)
        self.head = nn.Linear(width, dims.outputs)

    @abstractmethod
    def see(self, genes: torch.Tensor, patches: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return what each gene set sees (B, P, width) of patches (B, N, width) under a mask."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        patches, mask = self.patches(batch)  # (B, N, width), (B, N)
        genes = self.genes(batch)  # (B, P, width)
        vectors = [self.encode_slide(self.see(genes, patches, mask)), self.encode_genes(genes)]
        vectors += self.clinical(batch)
        logits: torch.Tensor = self.head(self.fused(torch.cat(vectors, dim=1)))
        return logits
