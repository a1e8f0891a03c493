"""MCAT: gene sets attend to patches; what they see and what they are is encoded as two sets."""

import torch
from torch import nn

from model.batch import Batch, Dims
from model.fusion.layers_attention import CrossAttention
from model.fusion.layers_sets import TwoSets, TwoSetsConfig


class McatConfig(TwoSetsConfig):
    """Widths as published; the co-attention has one head."""


class Mcat(TwoSets):
    """logits = Linear(MLP([encode(W A(G, X) + b) ‖ encode(G)])), A = the genes' cross-attention.

    G are the gene sets' tokens, X = ReLU(W x + b) the patches'. `encode` is a transformer over the
    P tokens, then gated attention pooling; each of the two has its own. The clinical record, which
    the paper does not use, may join as a third vector.

    Source: Chen et al. 2021; the variant that concatenates.
    """

    Config = McatConfig
    PAPER = (
        'Chen et al. 2021, "Multimodal co-attention transformer for survival prediction in '
        'gigapixel whole slide images", doi:10.1109/ICCV48922.2021.00398'
    )
    CODE = "mahmoodlab/MCAT, GPL-3.0, not for commercial use"

    def __init__(self, config: McatConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.co_attention = CrossAttention(config.width, config.width)
        self.co_attended = nn.Linear(config.width, config.width)

    def see(self, genes: torch.Tensor, patches: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return what the gene sets attend to (B, P, width)."""
        seen: torch.Tensor = self.co_attended(self.co_attention(genes, patches, mask))
        return seen

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N), the mean over the gene sets."""
        patches, mask = self.patches(batch)
        return self.co_attention.weights(self.genes(batch), patches, mask) * batch.mask
