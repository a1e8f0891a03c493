"""HFBSurv: factorised bilinear products, first inside each modality, then between two."""

from itertools import combinations, pairwise

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import nn
from torch.nn.functional import normalize

from model.batch import MODALITIES, Batch, Dims, Modality
from model.fusion.base import Fusion, FusionConfig
from model.fusion.layers import GatedAttentionPool, StandIns, check_pairs

SQUARE_ROOT_FLOOR = 1e-8


class HfbConfig(FusionConfig):
    """Widths as published; the slide's stands for that of the paper's ready-made features.

    Attributes:
        hidden: Width of each modality's encoding.
        inner: Width of the product of a modality with itself; with `between`, of two.
        rank: Products that are summed for each entry.
        factor_dropout: Dropout of the products; `dropout` that of the head.
    """

    slide_width: int = Field(default=80, gt=0)
    attention_width: int = Field(default=64, gt=0)
    hidden: int = Field(default=50, gt=0)
    inner: int = Field(default=20, gt=0)
    between: int = Field(default=20, gt=0)
    rank: int = Field(default=20, gt=0)
    head: tuple[PositiveInt, PositiveInt] = (256, 64)
    factor_dropout: float = Field(default=0.1, ge=0, lt=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)

    @model_validator(mode="after")
    def _two_modalities(self) -> "HfbConfig":
        check_pairs(self.modalities)
        return self


class Products(nn.Module):
    """f(x, y)_o = sum over the rank of x ⊙ y, its signed square root, scaled to length 1."""

    def __init__(self, rank: int, dropout: float) -> None:
        super().__init__()
        self.rank = rank
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return (B, width) of projections x and y, both (B, width · rank)."""
        summed = self.dropout(x * y).unflatten(1, (-1, self.rank)).sum(dim=2)  # (B, width)
        # x / √(|x| + floor) is the signed root, without its infinite slope at 0.
        return normalize(summed * (summed.abs() + SQUARE_ROOT_FLOOR).rsqrt(), dim=1)


class Hfb(Fusion):
    """logits = head([Σ_m g_m ‖ Σ_mn α_mn f(V_m g_m, V_n g_n)]), with g_m = s_m [h_m ‖ f(U_m h_m)].

    h_m is a modality's encoding and s_m = σ(w·[h_m ‖ f(U_m h_m)]) how much it counts; a pair counts
    more the more its two do and the less they are alike:
    α = softmax over pairs of (s_m + s_n) / (softmax(g_m)·softmax(g_n) + ½).
    A Cox log hazard is kept between -3 and 3, as published.

    Source: Li et al. 2022. Put right here, against the authors' code: the gate of the third
    modality multiplies that modality, not the first, and each modality has its own V. Changed:
    layer normalisation where the paper normalises over the batch, as one case's risk must not
    depend on which others share its chunk; the sizes are the same.
    """

    Config = HfbConfig
    PAPER = (
        'Li et al. 2022, "HFBSurv: hierarchical multimodal fusion with factorized bilinear models '
        'for cancer survival prediction", doi:10.1093/bioinformatics/btac113'
    )
    CODE = "Liruiqing-ustc/HFBSurv, no licence"

    def __init__(self, config: HfbConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        inputs = {"slide": config.slide_width, "rna": dims.genes, "clinical": dims.clinical}
        names = [name for name in MODALITIES if name in config.modalities]
        width = config.hidden + config.inner
        if "slide" in names:
            self.pool = GatedAttentionPool(
                dims.embedding, config.slide_width, config.attention_width, config.dropout
            )
        self.encoders = nn.ModuleDict(
            {name: _tanh((inputs[name], config.hidden, config.hidden), 0.0) for name in names}
        )
        self.stand_ins = StandIns(dict.fromkeys(names, config.hidden), config.optional)
        self.inner = _projections(names, config.hidden, config.inner * config.rank)
        self.between = _projections(names, width, config.between * config.rank)
        self.products = Products(config.rank, config.factor_dropout)
        self.gate = nn.Linear(width, 1)
        self.head = nn.Sequential(
            nn.LayerNorm(width + config.between),
            *_tanh((width + config.between, *config.head), config.dropout),
            nn.Linear(config.head[-1], dims.outputs),
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        gates: dict[str, torch.Tensor] = {}  # (B, 1)
        gated: dict[str, torch.Tensor] = {}  # (B, hidden + inner)
        for name, encoded in self.stand_ins(self._encode(batch), batch).items():
            projected = self.inner[name](encoded)
            own = torch.cat([encoded, self.products(projected, projected)], dim=1)
            gates[name] = torch.sigmoid(self.gate(own))
            gated[name] = gates[name] * own
        single = torch.stack(list(gated.values())).sum(dim=0)
        joined = torch.cat([single, self._pairs(gates, gated)], dim=1)
        logits: torch.Tensor = self.head(joined)
        return 6 * torch.sigmoid(logits) - 3 if self.dims.outputs == 1 else logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N).

        Raises:
            ValueError: The model uses no slides.
        """
        if "slide" not in self.config.modalities:
            return super().attention(batch)
        weights: torch.Tensor = self.pool(batch.bag, batch.mask)[1]
        return weights

    def _encode(self, batch: Batch) -> dict[Modality, torch.Tensor]:
        """Return modality → encoding (B, hidden), in the order of MODALITIES."""
        given = {"rna": batch.rna, "clinical": batch.clinical}
        if "slide" in self.config.modalities:
            given["slide"] = self.pool(batch.bag, batch.mask)[0]
        return {name: self.encoders[name](given[name]) for name in MODALITIES if name in self.inner}

    def _pairs(
        self, gates: dict[str, torch.Tensor], gated: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return the pairs' products (B, between), weighted by how much each pair counts."""
        shares = {name: torch.softmax(vector, dim=1) for name, vector in gated.items()}
        projected = {name: self.between[name](vector) for name, vector in gated.items()}
        pairs = list(combinations(gated, 2))
        scores = [
            (gates[x] + gates[y]) / ((shares[x] * shares[y]).sum(dim=1, keepdim=True) + 0.5)
            for x, y in pairs
        ]
        products = torch.stack([self.products(projected[x], projected[y]) for x, y in pairs], dim=1)
        weights = torch.softmax(torch.cat(scores, dim=1), dim=1)  # (B, pairs)
        return torch.einsum("bp,bpw->bw", weights, products)


def _projections(names: list[Modality], width_in: int, width_out: int) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(width_in, width_out) for name in names})


def _tanh(widths: tuple[int, ...], dropout: float) -> nn.Sequential:
    """Build Linear-tanh layers with dropout."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.Tanh(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
