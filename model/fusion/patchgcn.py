"""Patch-GCN: slides alone, as graphs of neighbouring patches."""

import torch
from pydantic import Field
from torch import nn

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import GatedAttentionPool, OneStandIn, mlp
from model.fusion.layers_elements import Dropout
from model.fusion.layers_inputs import SlideConfig
from model.fusion.layers_spatial import nearest_patches, slides_in_order

LAYERS = 3
SMALLEST_MESSAGE = 1e-7
PATCHES_AT_ONCE = 2**14
"""Patches whose neighbours' messages are in memory together."""


class PatchgcnConfig(SlideConfig):
    """Widths as published.

    Attributes:
        neighbours: Patches that each one hears from.
        width: Of a patch in the graph; what is pooled is four times as wide.
        attention_width: Of the gated attention.
        layer_dropout: Dropout after each layer of the graph; `dropout` that of all else.
    """

    neighbours: int = Field(default=8, gt=0)
    width: int = Field(default=128, gt=0)
    attention_width: int = Field(default=512, gt=0)
    layer_dropout: float = Field(default=0.1, ge=0, lt=1)
    dropout: float = Field(default=0.25, ge=0, lt=1)


class GraphLayer(nn.Module):
    """h_v + ReLU(LN(MLP(h_v + Σ_u softmax_u(t m_u) ⊙ m_u))), m_u = ReLU(h_u) + ε.

    u runs over the neighbours of v; the softmax, whose t is learned, is of each channel by itself.
    The MLP is W_2 ReLU(LN(W_1 ·)), twice as wide inside. A patch alone hears nothing.

    Source: GENConv in a residual block; Li et al. 2020, "DeeperGCN", arXiv:2006.07739.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.update = nn.Sequential(
            nn.Linear(width, 2 * width, bias=False),
            nn.LayerNorm(2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, width, bias=False),
            nn.LayerNorm(width),
            nn.ReLU(),
        )
        self.dropout = Dropout(dropout)

    def forward(
        self, patches: torch.Tensor, neighbours: torch.Tensor, there: torch.Tensor
    ) -> torch.Tensor:
        """Return patches (B, N, width) after hearing from their neighbours (B, N, K)."""
        messages = patches.relu() + SMALLEST_MESSAGE
        parts = zip(
            torch.split(neighbours, PATCHES_AT_ONCE, dim=1),
            torch.split(there, PATCHES_AT_ONCE, dim=1),
            strict=True,
        )
        heard = torch.cat([self._hear(messages, *part) for part in parts], dim=1)  # (B, N, width)
        updated: torch.Tensor = self.dropout(patches + self.update(patches + heard))
        return updated

    def _hear(
        self, messages: torch.Tensor, neighbours: torch.Tensor, there: torch.Tensor
    ) -> torch.Tensor:
        """Return what some patches, as many as `neighbours` (B, n, K) has, hear (B, n, width)."""
        case = torch.arange(len(messages), device=messages.device)[:, None, None]
        from_each = messages[case, neighbours]  # (B, n, K, width)
        scores = self.temperature * from_each
        scores = scores.masked_fill(~there[..., None], torch.finfo(scores.dtype).min)
        return (scores.softmax(dim=2) * there[..., None] * from_each).sum(dim=2)


class Patchgcn(Fusion):
    """logits = W ReLU(V Σ_n A_n φ([h⁰_n ‖ h¹_n ‖ h²_n ‖ h³_n])), A from gated attention.

    h⁰ is each patch's projection; h¹ to h³ come from three layers over the graph in which each
    patch hears from its 8 nearest on its slide.

    Source: Chen et al. 2021. The authors' first layer has no residual, and a normalisation that
    is never called; here all three are alike.
    """

    Config = PatchgcnConfig
    PAPER = (
        'Chen et al. 2021, "Whole slide images are 2D point clouds: context-aware survival '
        'prediction using patch-based graph convolutional networks", arXiv:2107.13048'
    )
    CODE = "mahmoodlab/Patch-GCN, GPL-3.0"

    def __init__(self, config: PatchgcnConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.neighbours = config.neighbours
        width, dropout = config.width, config.dropout
        self.project = nn.Sequential(nn.Linear(dims.embedding, width), nn.ReLU(), Dropout(dropout))
        self.layers = nn.ModuleList(GraphLayer(width, config.layer_dropout) for _ in range(LAYERS))
        wide = (1 + LAYERS) * width
        self.pool = GatedAttentionPool(wide, wide, config.attention_width, dropout)
        self.slide = nn.Sequential(*mlp((wide, wide), dropout), Dropout(dropout))
        self.stand_ins = OneStandIn("slide", wide, config.optional)
        self.head = nn.Linear(wide, dims.outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        pooled, _ = self.pool(self._in_context(batch), batch.mask)  # (B, 4 · width)
        slide = self.stand_ins(self.slide(pooled), batch)
        logits: torch.Tensor = self.head(slide)
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N)."""
        weights: torch.Tensor = self.pool(self._in_context(batch), batch.mask)[1]
        return weights

    def _in_context(self, batch: Batch) -> torch.Tensor:
        """Return each patch as it is after no, one, two and three layers (B, N, 4 · width)."""
        neighbours, there = _graph(batch, self.neighbours)
        stages = [self.project(batch.bag)]
        for layer in self.layers:
            stages.append(layer(stages[-1], neighbours, there))
        return torch.cat(stages, dim=2)


def _graph(batch: Batch, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each patch's neighbours (B, N, K), and which of them are there (B, N, K)."""
    neighbours = batch.mask.new_zeros(*batch.mask.shape, most, dtype=torch.int64)
    there = torch.zeros_like(neighbours, dtype=torch.bool)
    for case, patches in slides_in_order(batch):
        if len(patches) == 0:
            continue
        nearest, real = nearest_patches(batch.coords[case, patches], most)
        neighbours[case, patches, : nearest.shape[1]] = patches[nearest]
        there[case, patches, : nearest.shape[1]] = real
    return neighbours, there
