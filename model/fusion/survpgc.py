"""SurvPGC: gene sets and patches attend to each other, and so do clinical sentences and patches."""

from collections.abc import Mapping

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import cosine_similarity

from model.batch import Batch, Dims
from model.errors import ConfigError
from model.fusion.base import Fusion, Labels
from model.fusion.layers import stand_in_vector
from model.fusion.layers_attention import HubAttention, hub_feed_forward, masked_mean
from model.fusion.layers_inputs import SlideAndProfileConfig
from model.fusion.layers_tokens import GeneSetTokens, GroupedSnn, PatchTokens, SharedLinear


class SurvpgcConfig(SlideAndProfileConfig):
    """Widths as published; RNA or the clinical record may be left out of `modalities`.

    Attributes:
        width: Of the tokens; `attended` after the attention.
        hidden: Of the layer before the output.
        gene_vectors: Whether each gene set is a vector of a foundation model such as scFoundation,
            whose numbers stand in the RNA record where expression would.
        genes_dropout: Of the networks of the gene sets; `dropout` that after the attention.
        beta: The share of the cosine loss in the objective; none, as in the paper's main results,
            when 0. The paper's own is 0.3.
        margin: A cosine up to this costs nothing.
    """

    width: int = Field(default=256, gt=0)
    attended: int = Field(default=128, gt=0)
    hidden: int = Field(default=64, gt=0)
    gene_vectors: bool = False
    genes_dropout: float = Field(default=0.25, ge=0, lt=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    beta: float = Field(default=0.0, ge=0, lt=1)
    margin: float = Field(default=0.2, ge=-1, lt=1)

    @model_validator(mode="after")
    def _two_paths(self) -> "SurvpgcConfig":
        if self.beta and len(set(self.modalities)) < 3:
            raise ValueError("beta: expected slide, rna and clinical to compare the two paths")
        return self


class Survpgc(Fusion):
    """logits = MLP([z_G ‖ z_C]), z_Q = [mean FF(Q') ‖ mean FF(X')], Q' and X' = hub(Q, X).

    G are the tokens of the gene sets, C those of the sentences that tell of the clinical record,
    X = W x + b the patches', the same for both paths; each path has a hub attention of its own, in
    which the tokens of Q attend to each other and to patches, and patches to Q alone. FF(t) =
    LN(W_2 GELU(W_1 LN(t))) is shared by all. To the likelihood may be added, with the weight
    β / (1 - β), mean max(0, cos(z_G, z_C) - margin): the paths should find different things.

    The paper's G are one linear layer of four vectors of scFoundation, for who has them
    (`gene_vectors`); else, as in SurvPath, each gene set's own network makes a token. In the
    authors' code padding is attended to and counts in the mean; here it does neither.

    Source: Hou et al. 2025.
    """

    Config = SurvpgcConfig
    PAPER = (
        'Hou et al. 2025, "Multimodal deep learning for cancer prognosis prediction with clinical '
        'information prompts integration", doi:10.1038/s41746-025-02257-y'
    )
    CODE = "Houjiaxin123/SurvPGC, no licence"
    READS_TEXT = True

    def __init__(self, config: SurvpgcConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.beta, self.margin = config.beta, config.margin
        width, attended = config.width, config.attended
        self.patches = PatchTokens(config, nn.Linear(dims.embedding, width), width)
        self.tokens = nn.ModuleDict()
        if "rna" in config.modalities:
            encode = _shared if config.gene_vectors else GroupedSnn
            self.tokens["rna"] = GeneSetTokens(config, dims, width, config.genes_dropout, encode)
        if "clinical" in config.modalities:
            self.tokens["clinical"] = SentenceTokens(config, dims, width)
        self.hubs = nn.ModuleDict({name: HubAttention(width, attended) for name in self.tokens})
        self.feed_forward = hub_feed_forward(attended, config.dropout)
        self.head = nn.Sequential(
            nn.Linear(2 * len(self.hubs) * attended, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, dims.outputs),
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        logits: torch.Tensor = self.head(torch.cat(self._paths(batch), dim=1))
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return each patch's share (B, N) of the attention paid to patches, the paths' mean."""
        patches, mask = self.patches(batch)
        paid = [
            hub.weights(self.tokens[name](batch), patches, mask)
            for name, hub in self.hubs.items()
            if isinstance(hub, HubAttention)
        ]
        return torch.stack(paid).mean(dim=0) * batch.mask

    def auxiliary_loss(self, batch: Batch, labels: Labels) -> torch.Tensor | None:
        """Return the weighted cosine loss, None where β is 0."""
        if not self.beta:
            return None
        genes, clinical = self._paths(batch)
        cosine = cosine_similarity(genes, clinical)  # (B,)
        return self.beta / (1 - self.beta) * (cosine - self.margin).clamp(min=0).mean()

    def _paths(self, batch: Batch) -> list[torch.Tensor]:
        """Return z_G and z_C, or the one of them that there is, each (B, 2 · attended)."""
        patches, mask = self.patches(batch)  # (B, N, width), (B, N)
        found = []
        for name, hub in self.hubs.items():
            groups, seen = hub(self.tokens[name](batch), patches, mask)  # (B, P, a), (B, N, a)
            parts = [
                self.feed_forward(groups).mean(dim=1),
                masked_mean(self.feed_forward(seen), mask),
            ]
            found.append(torch.cat(parts, dim=1))
        return found


class SentenceTokens(nn.Module):
    """The tokens of the sentences on a case's record; a learned one stands in for each if absent.

    Raises:
        ConfigError: The run has no sentences.
    """

    def __init__(self, config: SurvpgcConfig, dims: Dims, width: int) -> None:
        super().__init__()
        sentences, width_in = dims.clinical_tokens
        if not sentences:
            raise ConfigError(
                "fusion survpgc: expected clinical sentences ([clinical_text] encoder), found none"
            )
        self.project = nn.Linear(width_in, width)
        self.stand_in = stand_in_vector(width) if "clinical" in config.optional else None

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (B, S, width)."""
        tokens: torch.Tensor = self.project(batch.clinical_tokens)
        if self.stand_in is None:
            return tokens
        return torch.where(batch.clinical_present[:, None, None], tokens, self.stand_in)


def _shared(gene_sets: Mapping[str, tuple[int, ...]], width: int, dropout: float) -> SharedLinear:
    """Build what makes tokens of gene vectors, which has no dropout."""
    return SharedLinear(gene_sets, width)
