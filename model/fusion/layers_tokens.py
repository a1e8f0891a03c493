"""Tokens of gene sets and of patches, and the clinical record as a vector."""

from collections.abc import Callable, Mapping

import torch
from pydantic import model_validator
from torch import nn
from torch.nn.functional import elu, embedding_bag

from model.batch import Batch, Dims, Modality
from model.errors import ConfigError
from model.fusion.base import FusionConfig
from model.fusion.layers import OneStandIn, piece_size, snn, stand_in_vector
from model.fusion.layers_elements import AlphaDropout


class TokensConfig(FusionConfig):
    """A model of patches and gene sets, which may be told the clinical record too."""

    modalities: tuple[Modality, ...] = ("slide", "rna")

    @model_validator(mode="after")
    def _slide_and_rna(self) -> "TokensConfig":
        absent = [name for name in ("slide", "rna") if name not in self.modalities]
        if absent:
            raise ValueError(
                f"modalities: expected slide and rna, found no {' and no '.join(absent)}"
            )
        return self


class GroupedSnn(nn.Module):
    """Turn each gene set's expression into a token by self-normalising layers of its own.

    h_p = f(x_p W_p + b_p), x_p the expression of set p's genes and f the ELU or another activation,
    then f(h_p V_p + c_p) for each further layer; alpha dropout after each. One operation a layer
    serves all sets: the first is a sum of rows of one matrix with a row for each member of each
    set, weighted by expression; the others are batched products. So each set costs what its genes
    cost, with no loop and no padding.

    Source: Jaume et al. 2024, "Modeling dense multimodal interactions between biological pathways
    and histology for survival prediction", arXiv:2304.06819.
    """

    genes: torch.Tensor
    starts: torch.Tensor

    def __init__(
        self,
        gene_sets: Mapping[str, tuple[int, ...]],
        width: int,
        dropout: float,
        layers: int = 2,
        activation: Callable[[torch.Tensor], torch.Tensor] = elu,
    ) -> None:
        super().__init__()
        self.activation = activation
        sizes = torch.tensor([len(genes) for genes in gene_sets.values()])
        members = [gene for genes in gene_sets.values() for gene in genes]
        # Both follow from the widths that a bundle states, so neither is part of the state.
        self.register_buffer("genes", torch.tensor(members), persistent=False)
        self.register_buffer("starts", sizes.cumsum(0) - sizes, persistent=False)
        bound = sizes[:, None] ** -0.5  # (P, 1), of torch's own draw for a Linear of that size
        rows = bound.repeat_interleave(sizes, dim=0, output_size=len(members))
        self.members = nn.Parameter(
            _uniform(rows.expand(-1, width))
        )  # (members of all sets, width)
        self.members_bias = nn.Parameter(_uniform(bound.expand(-1, width)))  # (P, width)
        inner = torch.full((len(sizes), width, width), width**-0.5)
        self.inner = nn.ParameterList(_uniform(inner) for _ in range(layers - 1))
        self.inner_bias = nn.ParameterList(_uniform(inner[:, 0]) for _ in range(layers - 1))
        self.dropout = AlphaDropout(dropout)

    def forward(self, rna: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, P, width) of expression (B, G)."""
        cases, members = len(rna), len(self.genes)
        row = torch.arange(members, device=rna.device).repeat(cases)
        first = members * torch.arange(cases, device=rna.device)[:, None]
        sums: torch.Tensor = embedding_bag(
            row,
            self.members,
            (first + self.starts).flatten(),
            mode="sum",
            per_sample_weights=rna[:, self.genes].flatten(),
        )  # (B · P, width)
        tokens: torch.Tensor = self.dropout(
            self.activation(sums.view(cases, len(self.starts), -1) + self.members_bias)
        )
        for weight, bias in zip(self.inner, self.inner_bias, strict=True):
            tokens = torch.einsum("bpi,pio->bpo", tokens, weight) + bias
            tokens = self.dropout(self.activation(tokens))
        return tokens


def _uniform(bound: torch.Tensor) -> torch.Tensor:
    """Draw uniformly from -bound to bound."""
    return (2 * torch.rand_like(bound) - 1) * bound


class SharedLinear(nn.Module):
    """Turn P gene sets, each the numbers of a foundation model's vector, into tokens by one layer.

    Raises:
        ConfigError: The vectors are not of one length.
    """

    genes: torch.Tensor

    def __init__(self, gene_sets: Mapping[str, tuple[int, ...]], width: int) -> None:
        super().__init__()
        sizes = {len(genes) for genes in gene_sets.values()}
        if len(sizes) > 1:
            found = " and ".join(map(str, sorted(sizes)))
            raise ConfigError(f"gene vectors: expected one length, found {found}")
        self.register_buffer("genes", torch.tensor(list(gene_sets.values())), persistent=False)
        self.project = nn.Linear(sizes.pop(), width)

    def forward(self, rna: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, P, width) of the RNA record (B, G)."""
        tokens: torch.Tensor = self.project(rna[:, self.genes])
        return tokens


class GeneSetTokens(nn.Module):
    """The tokens of a case's gene sets; a learned profile stands in for absent RNA.

    Args:
        config: Of the fusion.
        dims: With the gene sets.
        width: Of a token.
        dropout: Of what makes the tokens.
        encode: What makes them, from gene sets, width and dropout.

    Raises:
        ConfigError: The run names no gene sets.
    """

    def __init__(
        self,
        config: FusionConfig,
        dims: Dims,
        width: int,
        dropout: float,
        encode: Callable[[Mapping[str, tuple[int, ...]], int, float], nn.Module] = GroupedSnn,
    ) -> None:
        super().__init__()
        if not dims.gene_sets:
            name = type(config).__name__.removesuffix("Config").lower()
            raise ConfigError(f"fusion {name}: expected gene sets ([rna] gene_sets), found none")
        self.stand_ins = OneStandIn("rna", dims.genes, config.optional)
        self.encode = encode(dims.gene_sets, width, dropout)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (B, P, width)."""
        tokens: torch.Tensor = self.encode(self.stand_ins(batch.rna, batch))
        return tokens


class PatchTokens(nn.Module):
    """The tokens of a case's patches; one learned token stands in for an absent slide."""

    def __init__(self, config: FusionConfig, project: nn.Module, width: int) -> None:
        super().__init__()
        self.project = project
        self.stand_in = stand_in_vector(width) if "slide" in config.optional else None

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens (B, N, width) and which are real or stand in (B, N)."""
        tokens = _in_pieces(self.project, batch.bag)
        if self.stand_in is None or batch.slide_present.all():
            return tokens, batch.mask
        stands_in = torch.zeros_like(batch.mask)
        stands_in[:, 0] = ~batch.slide_present
        return torch.where(stands_in[..., None], self.stand_in, tokens), batch.mask | stands_in


def _in_pieces(layers: nn.Module, bag: torch.Tensor) -> torch.Tensor:
    """Return what layers make of each patch (B, N, width) of a bag (B, N, D).

    Without a graph, which keeps every layer's activations anyway, only one piece's are in memory.
    In training not even then: a step's first pass has no graph, and its second one must meet the
    same dropout.
    """
    if layers.training or torch.is_grad_enabled():
        whole: torch.Tensor = layers(bag)
        return whole
    rows, size = bag.flatten(0, 1), piece_size(bag.device)
    one: torch.Tensor = layers(rows[:1])  # for its width and type
    made = one.new_empty(len(rows), one.shape[1])
    for into, piece in zip(torch.split(made, size), torch.split(rows, size), strict=True):
        into.copy_(layers(piece))
    return made.view(*bag.shape[:2], -1)


class ClinicalVectors(nn.Module):
    """The clinical record as one vector, or as none where the model does not use it.

    A learned record stands in for an absent one.
    """

    def __init__(self, config: FusionConfig, dims: Dims, width: int, dropout: float) -> None:
        super().__init__()
        self.count = int("clinical" in config.modalities)
        if self.count:
            self.stand_ins = OneStandIn("clinical", dims.clinical, config.optional)
            self.encode = snn((dims.clinical, width), dropout)

    def forward(self, batch: Batch) -> list[torch.Tensor]:
        """Return `count` vectors (B, width)."""
        return [self.encode(self.stand_ins(batch.clinical, batch))] if self.count else []
