"""A vector from a few tokens: they attend to each other, then they are pooled."""

import torch
from torch import nn

from model.fusion.layers import Dropout


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

    Layers normalise after each residual, with eight heads and an inner width twice the tokens'.

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
