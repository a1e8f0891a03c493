"""MMP: sixteen morphological prototypes and fifty gene sets, attending to each other."""

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import gelu, layer_norm

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import stand_in_vector
from model.fusion.layers_attention import CrossAttention, attention_weights
from model.fusion.layers_elements import Dropout
from model.fusion.layers_prototypes import Mixture, fit_mixture, fit_prototypes
from model.fusion.layers_tokens import ClinicalVectors, GeneSetTokens, TokensConfig


class MmpConfig(TokensConfig):
    """Widths as published.

    Attributes:
        prototypes: Of the training fold's patches.
        fit_patches: Most patches for each prototype that the prototypes are fitted on; for speed,
            fewer than the paper's 100,000.
        width: Of a token, before `code_width` numbers are added that say which one it is.
        attention_width: Of a token after the attention.
        own_layers: Whether each token has feed-forward layers of its own, as in the paper's runs,
            or all share one.
    """

    prototypes: int = Field(default=16, gt=0)
    fit_patches: int = Field(default=20_000, gt=0)
    width: int = Field(default=256, gt=0)
    code_width: int = Field(default=32, gt=0)
    attention_width: int = Field(default=144, gt=0)
    own_layers: bool = True
    dropout: float = Field(default=0.25, ge=0, lt=1)


class TokenLayers(nn.Module):
    """Feed-forward layers W_2 GELU(W_1 LN(x) + b_1) + b_2 for each of T tokens, or one for all.

    The weights carry the tokens as their first dimension: one batched product, no loop.
    """

    def __init__(self, tokens: int, width: int, dropout: float) -> None:
        super().__init__()
        bound = width**-0.5
        self.gain = nn.Parameter(torch.ones(tokens, width))
        self.shift = nn.Parameter(torch.zeros(tokens, width))
        self.inner = nn.Parameter(torch.empty(tokens, width, width).uniform_(-bound, bound))
        self.inner_bias = nn.Parameter(torch.empty(tokens, width).uniform_(-bound, bound))
        self.outer = nn.Parameter(torch.empty(tokens, width, width).uniform_(-bound, bound))
        self.outer_bias = nn.Parameter(torch.empty(tokens, width).uniform_(-bound, bound))
        self.dropout = Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens of the same shape (B, T, width)."""
        normed = layer_norm(tokens, tokens.shape[-1:]) * self.gain + self.shift
        hidden = torch.einsum("btw,twv->btv", normed, self.inner) + self.inner_bias
        hidden = self.dropout(gelu(hidden))
        return torch.einsum("btw,twv->btv", hidden, self.outer) + self.outer_bias


class Mmp(Fusion):
    """logits = W [mean of LN(FF(H')) ‖ mean of LN(FF(G'))], [H' ‖ G'] = attention among all tokens.

    A token of H is W_h [π_k ‖ μ_k ‖ σ²_k], the component of the case's own Gaussian mixture that
    grew from prototype k by one step of EM; a token of G is a gene set. Each carries a learned code
    that says which it is. Attention is softmax(q kᵀ / √w) v over all tokens at once, with
    q, k, v = LN(·) W, no residual. The authors' code takes a softmax twice for the gene sets'
    attention to the prototypes; here it is one. The clinical record, which the paper does not use,
    may join as a third vector.

    The prototypes are the k-means centres of the training fold's patches. Until
    `fit_unsupervised` is called they are orthogonal directions drawn at random, which no training
    run sees.

    Source: Song et al. 2024, arXiv:2407.00224, with PANTHER's tokens (arXiv:2405.11643).
    """

    Config = MmpConfig
    PAPER = (
        'Song et al. 2024, "Multimodal prototyping for cancer survival prediction", '
        "arXiv:2407.00224"
    )
    CODE = "mahmoodlab/MMP, CC BY-NC-SA 4.0, not for commercial use"

    prototypes: torch.Tensor

    def __init__(self, config: MmpConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        count, sets = config.prototypes, len(dims.gene_sets)
        width, attended = config.width + config.code_width, config.attention_width
        self.fit_patches = config.fit_patches
        directions = nn.init.orthogonal_(torch.empty(count, dims.embedding))
        self.register_buffer("prototypes", directions)
        self.project = nn.Linear(2 * dims.embedding + 1, config.width)
        self.slide_stand_in = stand_in_vector(config.width) if "slide" in config.optional else None
        self.genes = GeneSetTokens(config, dims, config.width, config.dropout)
        self.codes = nn.Parameter(torch.randn(count + sets, config.code_width))
        self.norm = nn.LayerNorm(width)
        self.attend = CrossAttention(width, attended, bias=False)
        self.layers = TokenLayers(
            count + sets if config.own_layers else 1, attended, config.dropout
        )
        self.norm_out = nn.LayerNorm(attended)
        self.clinical = ClinicalVectors(config, dims, attended, config.dropout)
        self.head = nn.Linear((2 + self.clinical.count) * attended, dims.outputs, bias=False)

    def fit_unsupervised(self, bags: Iterable[torch.Tensor]) -> None:
        """Place the prototypes at the centres of the bags' patches."""
        self.prototypes.copy_(fit_prototypes(bags, len(self.prototypes), self.fit_patches))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        tokens = self._tokens(batch, self._mixture(batch))  # (B, K + P, width)
        tokens = self.norm_out(self.layers(self.attend(tokens, tokens)))  # (B, K + P, attended)
        slide, genes = tokens.tensor_split([len(self.prototypes)], dim=1)
        vectors = [slide.mean(dim=1), genes.mean(dim=1)]
        vectors += self.clinical(batch)
        logits: torch.Tensor = self.head(torch.cat(vectors, dim=1))
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N): its share of the prototypes it belongs to.

        A prototype weighs as much as all tokens together attend to it.
        """
        mixture = self._mixture(batch)
        tokens = self._tokens(batch, mixture)
        real = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        paid = attention_weights(self.attend.query(tokens), self.attend.key(tokens), real)
        sizes = mixture.belongs.sum(dim=1)  # (B, K)
        least = torch.finfo(sizes.dtype).tiny
        per_patch = paid[:, : len(self.prototypes)] / sizes.clamp(min=least)  # (B, K)
        weights = torch.einsum("bnk,bk->bn", mixture.belongs, per_patch)
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=least)

    def _mixture(self, batch: Batch) -> Mixture:
        return fit_mixture(batch.bag, batch.mask, self.prototypes)

    def _tokens(self, batch: Batch, mixture: Mixture) -> torch.Tensor:
        """Return the normalised tokens (B, K + P, width), those of the slide first."""
        share = mixture.share[:, :, None]
        slide = self.project(torch.cat([share, mixture.mean, mixture.variance], dim=2))
        if self.slide_stand_in is not None:
            slide = torch.where(batch.slide_present[:, None, None], slide, self.slide_stand_in)
        tokens = torch.cat([slide, self.genes(batch)], dim=1)  # (B, K + P, width of a token)
        codes = self.codes.expand(len(batch), -1, -1)
        normed: torch.Tensor = self.norm(torch.cat([tokens, codes], dim=2))
        return normed
