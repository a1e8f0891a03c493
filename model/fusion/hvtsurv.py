"""HVTSurv: slides alone, their patches in windows of neighbours, the windows shuffled."""

import math
from typing import NamedTuple

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import HeadsConfig, OneStandIn
from model.fusion.layers_elements import Dropout
from model.fusion.layers_inputs import SlideConfig
from model.fusion.layers_spatial import cut_windows, grid_step, slides_in_order

NEAR = 1.9
"""Twice this many steps of the grid are one class of distance; farther, classes are logarithmic."""


class HvtsurvConfig(SlideConfig, HeadsConfig):
    """Widths as published.

    Attributes:
        window: Patches that attend to each other.
        sub_bags: In training a bag is read as this many, each of windows drawn anew.
        masked: Share of the windows that a sub-bag goes without.
    """

    width: int = Field(default=512, gt=0)
    window: int = Field(default=49, gt=0)
    attention_width: int = Field(default=256, gt=0)
    sub_bags: int = Field(default=2, gt=0)
    masked: float = Field(default=0.5, ge=0, lt=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Windows(NamedTuple):
    """The V windows of S places of all bags of a batch, one bag after another.

    Attributes:
        patch: (V, S) which of the batch's B · N patches is there; 0 where none is.
        real: (V, S) whether one is.
        case: (V,) whose they are.
        step: (V,) level-0 pixels between two patches of the grid.
        shuffle: (V · S,) which place comes to each place of the shuffled windows.
    """

    patch: torch.Tensor
    real: torch.Tensor
    case: torch.Tensor
    step: torch.Tensor
    shuffle: torch.Tensor


class WindowAttention(nn.Module):
    """W_o softmax(Q Kᵀ / √w + bias) V, inside each window."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Sequential(nn.Linear(width, width), Dropout(dropout))

    def forward(self, windows: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return windows (V, S, width); `bias` (V, 1 or heads, S or 1, S) is -large on padding."""
        count, size, width = windows.shape
        parts = self.qkv(windows).view(count, size, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind()
        dropped = self.dropout if self.training else 0.0
        seen = scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=dropped
        )  # (V, heads, S, w)
        projected: torch.Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return projected


class Hvtsurv(Fusion):
    """logits = W Σ_n A_n x_n, A = softmax of w·tanh(V x_n) over all patches of all slides.

    x comes from h = ReLU(W_0 x) in windows of 49 neighbouring patches:
    h ← GELU(h + attention(LN(h)) with a bias for how far apart two patches are),
    h ← h + attention(LN(h)) in shuffled windows: of W windows, the j-th shuffled one holds the
    places j, j + W, j + 2 W … of the sequence; h ← h + MLP(LN(h)) and x = LN(h).
    The bias is b[g(|Δx|) + g(|Δy|)], a learned vector of heads for each of 15 distances, where
    g(0) = 0 and else g(Δ) = round(2 α ln(Δ/α) / ln 6), at least 1 and at most 7, with α = 1.9 and
    Δ in steps of the slide's grid.

    Windows are of one slide and shuffled inside it. They are cut one after another: the first patch
    left, in reading order, with the 48 nearest of those left. In training a bag is read as two
    sub-bags, each of a random half of the windows.

    Source: Shao et al. 2023. The authors' code fills the last window up with mirrored patches, or
    drops it, and fails on fewer than 49; here it is smaller. They also evaluate on sub-bags drawn
    at random; here on all windows.
    """

    Config = HvtsurvConfig
    PAPER = (
        'Shao et al. 2023, "HVTSurv: hierarchical vision transformer for patient-level survival '
        'prediction from whole slide image", arXiv:2306.17373'
    )
    CODE = "szc19990412/HVTSurv, MIT"

    def __init__(self, config: HvtsurvConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        width, dropout = config.width, config.dropout
        self.window = config.window
        self.sub_bags, self.masked = config.sub_bags, config.masked
        self.farthest = math.isqrt(config.window)
        self.project = nn.Sequential(nn.Linear(dims.embedding, width), nn.ReLU())
        self.local_norm = nn.LayerNorm(width)
        self.local = WindowAttention(width, config.heads, dropout)
        self.bias = nn.Parameter(torch.empty(2 * self.farthest + 1, config.heads))
        nn.init.trunc_normal_(self.bias, std=0.02)
        self.local_end = nn.Sequential(nn.GELU(), Dropout(dropout))
        self.shuffled_norm = nn.LayerNorm(width)
        self.shuffled = WindowAttention(width, config.heads, dropout)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(width, width),
            Dropout(dropout),
        )
        self.norm = nn.LayerNorm(width)
        self.value = nn.Sequential(nn.Linear(width, config.attention_width), nn.Tanh())
        self.score = nn.Linear(config.attention_width, 1)
        self.stand_ins = OneStandIn("slide", width, config.optional)
        self.head = nn.Linear(width, dims.outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        pooled, _ = self._pool(batch)
        logits: torch.Tensor = self.head(self.stand_ins(pooled, batch))
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N)."""
        return self._pool(batch)[1]

    def _pool(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the pooled vectors (B, width) and each patch's weight (B, N)."""
        windows = self._windows(batch)
        patches = self.project(batch.bag).flatten(0, 1)[windows.patch]  # (V, S, width)
        patches = self._attend_near(patches, windows, batch.coords.flatten(0, 1))
        patches = self._attend_far(patches, windows)
        patches = self.norm(patches + self.mlp(patches))
        scores = self.score(self.value(patches)).squeeze(-1).float()  # (V, S)
        weights = _softmax_of_cases(scores, windows, len(batch))
        of_windows = torch.einsum("vs,vsw->vw", weights, patches)
        pooled = of_windows.new_zeros(len(batch), patches.shape[2])
        of_patches = weights.new_zeros(batch.mask.numel())
        return (
            pooled.index_add(0, windows.case, of_windows),
            of_patches.index_add(0, windows.patch.flatten(), weights.flatten()).view_as(batch.mask),
        )

    def _attend_near(
        self, patches: torch.Tensor, windows: Windows, coords: torch.Tensor
    ) -> torch.Tensor:
        """Let the patches (V, S, width) of each window attend to each other, by distance."""
        places = coords[windows.patch]  # (V, S, 2)
        steps = (places[:, :, None] - places[:, None]).abs() / windows.step[:, None, None, None]
        distance = distance_class(steps, self.farthest).sum(dim=-1)  # (V, S, S)
        bias = self.bias[distance].permute(0, 3, 1, 2)  # (V, heads, S, S)
        bias = bias.masked_fill(~windows.real[:, None, None], torch.finfo(bias.dtype).min)
        ended: torch.Tensor = self.local_end(patches + self.local(self.local_norm(patches), bias))
        return ended

    def _attend_far(self, patches: torch.Tensor, windows: Windows) -> torch.Tensor:
        """Let patches (V, S, width) attend to others as far apart as their bag allows."""
        flat = self.shuffled_norm(patches).flatten(0, 1)  # (V · S, width)
        shuffled = flat[windows.shuffle].view_as(patches)
        real = windows.real.flatten()[windows.shuffle].view_as(windows.real)
        bias = torch.zeros_like(real, dtype=flat.dtype)
        bias = bias.masked_fill(~real, torch.finfo(bias.dtype).min)[:, None, None]
        seen: torch.Tensor = self.shuffled(shuffled, bias).flatten(0, 1)
        return patches + seen[windows.shuffle.argsort()].view_as(patches)

    def _windows(self, batch: Batch) -> Windows:
        """Cut the bags of a batch into windows."""
        bags, places = [], 0
        for case, own in slides_in_order(batch):
            coords = batch.coords[case, own]
            for bag in self._sub_bags(cut_windows(coords, self.window)):  # (W, S)
                ordered = torch.arange(places, places + bag.numel(), device=bag.device)
                bags.append(
                    Windows(
                        patch=(own[bag] + case * batch.mask.shape[1]).where(bag >= 0, 0),
                        real=bag >= 0,
                        case=torch.full_like(bag[:, 0], case),
                        step=torch.full_like(bag[:, 0], grid_step(coords)),
                        shuffle=ordered.view(self.window, -1).T.flatten(),
                    )
                )
                places += bag.numel()
        return Windows(*(torch.cat(parts) for parts in zip(*bags, strict=True)))

    def _sub_bags(self, windows: torch.Tensor) -> list[torch.Tensor]:
        """Return the bags to read a case as: all windows (W, S), or in training random ones."""
        if not self.training:
            return [windows]
        kept = math.ceil(len(windows) * (1 - self.masked))
        draws = [torch.randperm(len(windows))[:kept] for _ in range(self.sub_bags)]
        return [windows[draw.sort().values.to(windows.device)] for draw in draws]


def distance_class(steps: torch.Tensor, farthest: int) -> torch.Tensor:
    """Return the class g, 0 to `farthest`, of distances along one axis in steps of the grid."""
    classes = 2 * NEAR / math.log(6) * torch.log(steps.clamp(min=1) / NEAR)
    return torch.where(steps > 0, classes.round().clamp(1, farthest), 0).long()


def _softmax_of_cases(scores: torch.Tensor, windows: Windows, cases: int) -> torch.Tensor:
    """Return the weights (V, S) of scores (V, S), which sum to 1 over the patches of each case."""
    scores = scores.masked_fill(~windows.real, -torch.inf)
    highest = scores.new_zeros(cases).scatter_reduce(
        0, windows.case, scores.detach().amax(dim=1), "amax", include_self=False
    )
    shares = torch.exp(scores - highest[windows.case, None])
    total = scores.new_zeros(cases).index_add(0, windows.case, shares.sum(dim=1))
    return shares / total[windows.case, None]
