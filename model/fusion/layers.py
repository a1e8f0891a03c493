"""Parts that several fusions share."""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import torch
from pydantic import BaseModel, Field, PositiveInt, model_validator
from torch import nn

from model.batch import MODALITIES, Batch, Dims, Modality
from model.fusion.base import FusionConfig
from model.fusion.layers_elements import Dropout, Tanh


def mlp(widths: tuple[int, ...], dropout: float) -> nn.Sequential:
    """Build Linear-ReLU layers, with dropout after each but the last."""
    layers: list[nn.Module] = []
    for index in range(len(widths) - 1):
        if index:
            layers.append(nn.Dropout(dropout))
        layers += [nn.Linear(widths[index], widths[index + 1]), nn.ReLU()]
    return nn.Sequential(*layers)


def snn(
    widths: tuple[int, ...], dropout: float, activation: type[nn.Module] = nn.ELU
) -> nn.Sequential:
    """Build self-normalising layers: Linear, activation, alpha dropout.

    Source: Klambauer et al. 2017, "Self-normalizing neural networks", arXiv:1706.02515, with the
    ELU that most survival models use in place of its SELU.
    """
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), activation(), nn.AlphaDropout(dropout)]
    return nn.Sequential(*layers)


def init_xavier(module: nn.Module) -> None:
    """Draw every Linear's weights from Xavier's normal distribution, with zero bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)


def piece_size(device: torch.device) -> int:
    """Return how many patches pass through layers at once: on a CPU what a core's cache holds."""
    return 1024 if device.type == "cpu" else 4096


class GatedAttentionPool(nn.Module):
    """Pool a bag by gated attention.

    With h_n = ReLU(W x_n + b), a_n = w·(tanh(V h_n) ⊙ σ(U h_n)) and A = softmax(a) over real
    patches, the pooled vector is Σ A_n h_n.

    Source: Ilse, Tomczak and Welling 2018, "Attention-based deep multiple instance learning",
    arXiv:1802.04712, equation 9.
    """

    def __init__(self, embedding: int, width: int, attention_width: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(embedding, width), nn.ReLU(), Dropout(dropout))
        self.value = nn.Sequential(nn.Linear(width, attention_width), Tanh(), Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(width, attention_width), nn.Sigmoid(), Dropout(dropout))
        self.score = nn.Linear(attention_width, 1)

    def forward(self, bag: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the pooled vectors (B, width) and weights (B, N); an empty bag pools to zeros.

        Pieces of the batch are pooled apart and then weighed by their share of the softmax: what is
        in work stays in the cache, and without a graph only one piece's activations are in memory.
        """
        cases = torch.arange(len(bag), device=bag.device)[:, None]  # (B, 1)
        rows = bag.flatten(0, 1), mask.flatten(), cases.expand_as(mask).flatten()
        lowest = torch.finfo(torch.float32).min
        pieces = (torch.split(row, piece_size(bag.device)) for row in rows)
        scores, levels, parts = [], [], []
        for x, real, of in zip(*pieces, strict=True):
            patches = self.project(x)  # (n, width)
            score = self.score(self.value(patches) * self.gate(patches)).squeeze(-1)  # (n,)
            # `lowest` in bfloat16 is -inf, and a softmax over nothing else is no number.
            score = score.to(torch.promote_types(score.dtype, torch.float32))
            own = torch.where((of == cases) & real, score, lowest)  # (B, n)
            scores.append(score)
            levels.append(own.logsumexp(dim=1))
            parts.append(own.softmax(dim=1) @ patches)  # (B, width)
        share = torch.stack(levels).softmax(dim=0)  # (pieces, B)
        pooled = torch.einsum("pb,pbw->bw", share, torch.stack(parts)) * mask.any(dim=1)[:, None]
        every = torch.cat(scores).view(mask.shape)  # (B, N)
        weights = torch.where(mask, every, lowest).softmax(dim=1)
        return pooled, weights * mask


def stand_in_vector(width: int) -> nn.Parameter:
    """Return a vector (width,) to learn, near 0; at 0 the slope of a cosine has no bound."""
    return nn.Parameter(torch.linspace(-0.02, 0.02, width))


class StandIn(nn.Module):
    """Replace the vector of an absent modality by a learned one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = stand_in_vector(width)

    def forward(self, vector: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Return (B, width): the case's own vector where `present` (B,), else the stand-in."""
        return torch.where(present[:, None], vector, self.vector)


class StandIns(nn.ModuleDict):
    """The stand-ins of those modalities that a case may lack."""

    def __init__(self, widths: Mapping[Modality, int], optional: Sequence[Modality]) -> None:
        super().__init__({name: StandIn(widths[name]) for name in optional})

    def forward(
        self, vectors: Mapping[Modality, torch.Tensor], batch: Batch
    ) -> dict[Modality, torch.Tensor]:
        """Return modality → (B, width), where absent the stand-in, in the order given."""
        return {
            name: self[name](vector, batch.present(name)) if name in self else vector
            for name, vector in vectors.items()
        }


class OneStandIn(nn.ModuleDict):
    """The stand-in of one modality, where a case may lack it."""

    def __init__(self, name: Modality, width: int, optional: Sequence[Modality]) -> None:
        super().__init__({name: StandIn(width)} if name in optional else {})
        self.of = name

    def forward(self, vector: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return vector (B, width), where the modality is absent the stand-in."""
        if self.of not in self:
            return vector
        stood_in: torch.Tensor = self[self.of](vector, batch.present(self.of))
        return stood_in


class BranchesConfig(FusionConfig):
    """Widths of the three branches; the defaults are those of the paper's public repository."""

    slide_width: int = Field(default=512, gt=0)
    attention_width: int = Field(default=256, gt=0)
    rna_widths: tuple[PositiveInt, ...] = Field(default=(2048, 512, 128), min_length=1)
    dropout: float = Field(default=0.25, ge=0, lt=1)


class Branches(nn.Module):
    """Turn each modality into one vector: attention pool, RNA MLP, the clinical columns as is.

    Source: "Attention-Based Multimodal Survival Prediction with Cross-Modal Bilinear Fusion";
    widths from hassancpu/ChimeraChallenge2025_Task_3.
    """

    def __init__(self, config: BranchesConfig, dims: Dims) -> None:
        super().__init__()
        widths = {
            "slide": config.slide_width,
            "rna": config.rna_widths[-1],
            "clinical": dims.clinical,
        }
        self.widths: dict[Modality, int] = {
            name: widths[name] for name in MODALITIES if name in config.modalities
        }
        if "slide" in self.widths:
            self.slide = GatedAttentionPool(
                dims.embedding, config.slide_width, config.attention_width, config.dropout
            )
        if "rna" in self.widths:
            self.rna = mlp((dims.genes, *config.rna_widths), config.dropout)
        self.stand_ins = StandIns(self.widths, config.optional)

    def forward(self, batch: Batch) -> dict[Modality, torch.Tensor]:
        """Return modality → vector (B, width), in the order of MODALITIES."""
        encoded = {name: self._encode(name, batch) for name in self.widths}
        vectors: dict[Modality, torch.Tensor] = self.stand_ins(encoded, batch)
        return vectors

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the pool's weight of each patch (B, N).

        Raises:
            ValueError: The model uses no slides.
        """
        if "slide" not in self.widths:
            used = ", ".join(self.widths)
            raise ValueError(f"the model weighs no patches: its modalities are {used}")
        weights: torch.Tensor = self.slide(batch.bag, batch.mask)[1]
        return weights

    def _encode(self, name: Modality, batch: Batch) -> torch.Tensor:
        if name == "slide":
            pooled: torch.Tensor = self.slide(batch.bag, batch.mask)[0]
            return pooled
        if name == "rna":
            encoded: torch.Tensor = self.rna(batch.rna)
            return encoded
        return batch.clinical


class LowRankBilinear(nn.Module):
    """f(x, y) = W_o((W_x x + b_x) ⊙ (W_y y + b_y)) + b_o.

    Source: "Attention-Based Multimodal Survival Prediction with Cross-Modal Bilinear Fusion".
    """

    def __init__(self, width_x: int, width_y: int, rank: int, width_out: int) -> None:
        super().__init__()
        self.x = nn.Linear(width_x, rank)
        self.y = nn.Linear(width_y, rank)
        self.out = nn.Linear(rank, width_out)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the interaction (B, width_out) of x (B, width_x) and y (B, width_y)."""
        joined: torch.Tensor = self.out(self.x(x) * self.y(y))
        return joined


def check_pairs(modalities: Sequence[Modality]) -> None:
    """Raise a ValueError unless there are two modalities to pair."""
    if len(set(modalities)) < 2:
        found = ", ".join(modalities)
        raise ValueError(f"modalities: expected two or more to pair, found {found}")


class HeadsConfig(BaseModel):
    """What a model with attention has among its settings: heads that share its width equally."""

    width: int = Field(gt=0)
    heads: int = Field(default=8, gt=0)

    @model_validator(mode="after")
    def _heads_divide(self) -> "HeadsConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width}: expected a multiple of heads, {self.heads}")
        return self


class PairsConfig(BranchesConfig):
    """Rank and output widths of the bilinear blocks, one for each pair of modalities."""

    rank: int = Field(default=64, gt=0)
    slide_rna: int = Field(default=64, gt=0)
    slide_clinical: int = Field(default=32, gt=0)
    rna_clinical: int = Field(default=32, gt=0)

    @model_validator(mode="after")
    def _two_modalities(self) -> "PairsConfig":
        check_pairs(self.modalities)
        return self


class Pairs(nn.Module):
    """Low-rank bilinear blocks over all pairs of modalities, concatenated."""

    def __init__(self, config: PairsConfig, widths: dict[Modality, int]) -> None:
        super().__init__()
        outputs: dict[tuple[Modality, ...], int] = {
            ("slide", "rna"): config.slide_rna,
            ("slide", "clinical"): config.slide_clinical,
            ("rna", "clinical"): config.rna_clinical,
        }
        self.pairs = list(combinations(widths, 2))
        self.blocks = nn.ModuleList(
            LowRankBilinear(widths[x], widths[y], config.rank, outputs[x, y]) for x, y in self.pairs
        )
        self.width = sum(outputs[pair] for pair in self.pairs)

    def forward(self, vectors: dict[Modality, torch.Tensor]) -> torch.Tensor:
        """Return the pairs' interactions (B, width)."""
        joined = [
            block(vectors[x], vectors[y])
            for block, (x, y) in zip(self.blocks, self.pairs, strict=True)
        ]
        return torch.cat(joined, dim=1)
