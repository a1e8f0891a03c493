"""TransMIL: slides alone, their patches as a sequence that is also read as a square."""

import torch
from pydantic import Field
from torch import nn

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import HeadsConfig, OneStandIn
from model.fusion.layers_inputs import SlideConfig
from model.fusion.layers_nystrom import NystromAttention, NystromLayer


class TransmilConfig(SlideConfig, HeadsConfig):
    """Widths as published; `landmarks` is how many tokens attention is approximated from."""

    width: int = Field(default=512, gt=0)
    landmarks: int = Field(default=256, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Transmil(Fusion):
    """logits = W LN(x_cls): a class token and the patches through attention, PPEG, attention.

    With h_n = ReLU(W x_n + b), a bag of N patches is the sequence h_1 … h_N, h_1, h_2 … filled up
    to a square of s² = ⌈√N⌉² tokens. Each attention layer is x + A(LN(x)), A after Nyström. PPEG
    between them lays the sequence out in rows of s and adds its depth-wise convolutions of 7 x 7,
    5 x 5 and 3 x 3; so where a patch stands in the sequence matters, and its coordinates do not.

    Source: Shao et al. 2021. A square is the bag's own in a batch of several, too.
    """

    Config = TransmilConfig
    PAPER = (
        'Shao et al. 2021, "TransMIL: transformer based correlated multiple instance learning for '
        'whole slide image classification", arXiv:2106.00908'
    )
    CODE = "szc19990412/TransMIL, no licence"

    def __init__(self, config: TransmilConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        width = config.width
        self.project = nn.Sequential(nn.Linear(dims.embedding, width), nn.ReLU())
        self.summary = nn.Parameter(torch.randn(width))
        self.first, self.second = (
            NystromLayer(
                nn.LayerNorm(width),
                NystromAttention(width, config.heads, config.landmarks, config.dropout),
            )
            for _ in range(2)
        )
        self.convolve = nn.ModuleList(
            nn.Conv2d(width, width, side, padding=side // 2, groups=width) for side in (7, 5, 3)
        )
        self.norm = nn.LayerNorm(width)
        self.stand_ins = OneStandIn("slide", width, config.optional)
        self.head = nn.Linear(width, dims.outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        tokens, mask, _ = self._mixed(batch)  # (B, 1 + L, width)
        summary = self.norm(self.second(tokens, mask)[:, 0])  # (B, width)
        logits: torch.Tensor = self.head(self.stand_ins(summary, batch))
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return how much the class token attends to each patch in the second layer (B, N).

        A patch that occurs twice in the sequence has the weights of both. The class token's
        attention to itself is left out.
        """
        tokens, mask, patch = self._mixed(batch)
        weights = self.second.weights(tokens, mask)[:, 1:]  # (B, L)
        weights = weights.new_zeros(batch.mask.shape).scatter_add(1, patch, weights) * batch.mask
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo().tiny)

    def _mixed(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what the second layer reads.

        Returns:
            tokens (B, 1 + L, width), the class token first, their mask (B, 1 + L), and which patch
            each of the L others is (B, L).
        """
        patches = self.project(batch.bag) * batch.mask[:, :, None]  # (B, N, width)
        sides = batch.mask.sum(dim=1, keepdim=True).clamp(min=1).double().sqrt().ceil().long()
        patch, real = _squared(batch.mask, sides)  # (B, L)
        tokens = torch.cat([self.summary.expand(len(batch), 1, -1), _rows(patches, patch)], dim=1)
        mask = torch.cat([torch.ones_like(real[:, :1]), real], dim=1)
        tokens = self.first(tokens, mask)
        squares = self._position(tokens[:, 1:], sides)  # (B, L, width)
        return torch.cat([tokens[:, :1], squares], dim=1), mask, patch

    def _position(self, tokens: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
        """Add to each token (B, L, width) what surrounds it in its square, `sides` (B, 1) wide."""
        largest = int(sides.max())
        axis = torch.arange(largest, device=tokens.device)
        row, column = (place.flatten() for place in torch.meshgrid(axis, axis, indexing="ij"))
        inside = (row < sides) & (column < sides)  # (B, largest²)
        squares = _rows(tokens, (row * sides + column).where(inside, 0)) * inside[:, :, None]
        squares = squares.transpose(1, 2).reshape(len(tokens), -1, largest, largest)
        squares = squares + sum(convolve(squares) for convolve in self.convolve)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        place = (place // sides * largest + place % sides).clamp(max=largest**2 - 1)  # (B, L)
        return _rows(squares.flatten(2).transpose(1, 2), place)


def _squared(mask: torch.Tensor, sides: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill each bag up to a square, with its first patches.

    Returns:
        Which patch each place of the sequence holds (B, L), L the largest square, and which
        places a bag's own square has (B, L).
    """
    own = (~mask).long().argsort(dim=1, stable=True)  # (B, N) real patches first, in their order
    place = torch.arange(int(sides.max()) ** 2, device=mask.device)
    which = place % mask.sum(dim=1, keepdim=True).clamp(min=1)  # (B, L)
    return own.gather(1, which), place < sides**2


def _rows(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return (B, L, width): of each case's tokens (B, N, width) those at `index` (B, L)."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))
