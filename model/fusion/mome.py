"""MoME: patches and gene sets in turns, each told of the other by the expert a router picks."""

from dataclasses import replace

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import one_hot

from model.batch import Batch, Dims
from model.fusion.base import Fusion, Labels
from model.fusion.layers import HeadsConfig
from model.fusion.layers_elements import Dropout
from model.fusion.layers_experts import EXPERTS, ExpertLayer, Router, Tokens, all_real, shared
from model.fusion.layers_nystrom import NystromAttention, NystromLayer
from model.fusion.layers_spatial import reading_order
from model.fusion.layers_tokens import (
    ClinicalVectors,
    GeneSetTokens,
    PatchTokens,
    TokensConfig,
)

MEMORY = 0.99
"""What is left of a case in the record of the experts' use when one more case has been seen."""


class MomeConfig(TokensConfig, HeadsConfig):
    """Widths as published.

    Attributes:
        rounds: Of one turn for the patches and one for the gene sets.
        landmarks: How many tokens attention is approximated from.
        bottlenecks: Tokens that carry a modality through the narrow expert.
        balance: Weight of the term of `auxiliary_loss`.
        attention_dropout: Of the attention; `dropout` that of all else.
    """

    width: int = Field(default=512, gt=0)
    rounds: int = Field(default=2, gt=0)
    landmarks: int = Field(default=256, gt=0)
    bottlenecks: int = Field(default=2, gt=0)
    balance: float = Field(default=0.01, ge=0)
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    dropout: float = Field(default=0.25, ge=0, lt=1)


class Mome(Fusion):
    """logits = W x_cls: a class token through attention with all tokens at the end.

    X = ReLU(W_0 x) are the patches in reading order, G the gene sets' tokens. Before, they take
    turns, twice: X ← E(X, G), then G ← E(G, X). E is one of four experts, which a router picks for
    each case: attention in [X ‖ G]; attention in X and 2 tokens that have attended to G; a sum with
    the mean of G; X as it is. All attention is x + A(norm(x)), A after Nyström. The clinical
    record, which the paper does not use, may join G as one more token.

    `auxiliary_loss` is `balance` · E · Σ_e f_e P_e of each of the four routers: P_e is the softmax
    of a case's scores without noise, f_e how often e was the best of late.

    Source: Xiong et al. 2024; the balance is from Fedus et al. 2021, "Switch Transformers",
    arXiv:2101.03961, equation 4, with f over recent cases in place of the batch. In the authors'
    code no gradient reaches the routers, and the bottlenecks and the class token are random numbers
    that are neither trained nor saved; here all are trained. Their scale of the residual
    (Admin) is left out.
    """

    Config = MomeConfig
    PAPER = (
        'Xiong et al. 2024, "MoME: mixture of multimodal experts for cancer survival prediction", '
        "arXiv:2406.09696"
    )
    CODE = "BearCleverProud/MoME, no licence"

    usage: torch.Tensor

    def __init__(self, config: MomeConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        width, dropout = config.width, config.dropout
        self.balance = config.balance
        project = nn.Sequential(nn.Linear(dims.embedding, width), nn.ReLU(), Dropout(dropout))
        self.patches = PatchTokens(config, project, width)
        self.genes = GeneSetTokens(config, dims, width, dropout)
        self.clinical = ClinicalVectors(config, dims, width, dropout)

        def attention(norm: nn.Module) -> NystromLayer:
            dropped = config.attention_dropout
            return NystromLayer(
                norm, NystromAttention(width, config.heads, config.landmarks, dropped)
            )

        turns = range(2 * config.rounds)  # of patches and gene sets, one after the other
        self.routers = nn.ModuleList(Router(width) for _ in turns)
        self.layers = nn.ModuleList(
            ExpertLayer(width, config.bottlenecks, attention, dropout, own_first=turn % 2 == 1)
            for turn in turns
        )
        self.summary = nn.Parameter(torch.rand(1, width))
        self.last = attention(nn.LayerNorm(width))
        self.head = nn.Linear(width, dims.outputs)
        self.register_buffer("usage", torch.full((len(turns), EXPERTS), 1 / EXPERTS))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        sequence, _ = self._sequence(batch)
        logits: torch.Tensor = self.head(self.last(*sequence)[:, 0])
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return how much the class token attends to each patch at the end (B, N).

        Its attention to itself and to the gene sets is left out.
        """
        sequence, order = self._sequence(batch)
        weights = self.last.weights(*sequence)[:, -order.shape[1] :]  # (B, N) in reading order
        weights = torch.zeros_like(weights).scatter(1, order, weights) * batch.mask
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo().tiny)

    def auxiliary_loss(self, batch: Batch, labels: Labels) -> torch.Tensor:
        """Return the balance of the experts (scalar), and note which experts are in use.

        It trains the routers alone, so that what they read needs no graph.
        """
        with torch.no_grad():
            own, other, _ = self._inputs(batch)
        scores = []
        for router, layer in zip(self.routers, self.layers, strict=True):
            scores.append(router(own, other))  # (B, E)
            with torch.no_grad():
                own, other = other, layer(own, other, scores[-1])
        shares = torch.stack(scores).softmax(dim=2)  # (turns, B, E)
        best = one_hot(shares.argmax(dim=2), EXPERTS).float().mean(dim=1)  # (turns, E)
        if self.training:
            self.usage = self.usage.lerp(best, 1 - MEMORY ** len(batch))
        balance = (self.usage[:, None] * shares).sum(dim=2).mean(dim=1)  # (turns,)
        return self.balance * EXPERTS * balance.sum()

    def _sequence(self, batch: Batch) -> tuple[Tokens, torch.Tensor]:
        """Return the class token and all others, and the reading order of the patches (B, N)."""
        own, other, order = self._inputs(batch)
        for router, layer in zip(self.routers, self.layers, strict=True):
            own, other = other, layer(own, other, router(own, other))
        patches, genes = own, other
        return shared(self.summary, len(batch)).then(genes).then(patches), order

    def _inputs(self, batch: Batch) -> tuple[Tokens, Tokens, torch.Tensor]:
        """Return the tokens of patches and of gene sets, and the reading order (B, N)."""
        values, mask = self.patches(batch)  # (B, N, width), (B, N)
        order = reading_order(replace(batch, mask=mask))
        case = torch.arange(len(batch), device=order.device)[:, None]
        patches = Tokens(values[case, order], mask[case, order])
        others = [self.genes(batch), *(vector[:, None] for vector in self.clinical(batch))]
        return patches, all_real(torch.cat(others, dim=1)), order
