"""Attention between tokens, of which patches are many."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from model.fusion.layers_elements import Dropout

QUERIES_AT_ONCE = 64
"""Of attention weights, which need memory for each pair; attention itself does not."""


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Return softmax(query · keyᵀ / √w) · value: (B, Q, w) of (B, Q, w) and twice (B, N, w).

    The weights are never in memory at once. Keys where `mask` (B, N) is False count for nothing;
    a case without any key gets zeros.
    """
    if mask is None:
        return scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
    some = mask.any(dim=1, keepdim=True)  # (B, 1)
    allowed = (mask | ~some)[:, None, None]  # (B, 1, 1, N): a softmax over nothing is not a number
    heads = (query[:, None], key[:, None], value[:, None])
    return scaled_dot_product_attention(*heads, attn_mask=allowed)[:, 0] * some[:, None]


def attention_weights(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return how much each key counts in `attend` (B, N): the mean over the queries (B, Q, w).

    Computed for a few queries at a time, for the sake of memory.
    """
    lowest = torch.finfo(query.dtype).min
    total = torch.zeros_like(mask, dtype=query.dtype)
    for part in torch.split(query, QUERIES_AT_ONCE, dim=1):
        scores = part @ key.transpose(1, 2) * query.shape[-1] ** -0.5  # (B, part, N)
        total = total + scores.masked_fill(~mask[:, None], lowest).softmax(dim=-1).sum(dim=1)
    return total / query.shape[1] * mask


class CrossAttention(nn.Module):
    """Q' = softmax(F_q(Q) F_k(X)ᵀ / √width) F_v(X), with one head and linear F.

    F_k has no bias: it would shift all scores of a query alike, which a softmax does not see.

    Where few queries ask many tokens, F_k and F_v are applied to the queries and to the sums:
    F_q(Q) · W_k x = W_kᵀ F_q(Q) · x, and Σ A_n (W_v x_n + b) = W_v Σ A_n x_n + b as Σ A_n = 1. That
    spares the products with each token, and the keys and values.
    """

    def __init__(self, width_in: int, width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.query = nn.Linear(width_in, width, bias=bias)
        self.key = nn.Linear(width_in, width, bias=False)
        self.value = nn.Linear(width_in, width, bias=bias)

    def forward(
        self, queries: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return (B, Q, width) of queries (B, Q, width_in) and tokens (B, N, width_in)."""
        asked = self.query(queries)
        same = self.key.in_features == self.key.out_features
        if not same or queries.shape[1] >= tokens.shape[1]:
            return attend(asked, self.key(tokens), self.value(tokens), mask)
        seen: torch.Tensor = self.value(attend(asked @ self.key.weight, tokens, tokens, mask))
        return seen if mask is None else seen * mask.any(dim=1)[:, None, None]

    def weights(
        self, queries: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return how much each token counts (B, N), the mean over the queries."""
        return attention_weights(self.query(queries), self.key(tokens), mask)


class HubAttention(nn.Module):
    """A few group tokens attend to each other and to all patches, the patches to the groups alone.

    With q, k, v = LN(·) W: G' = softmax(q_G [k_G ‖ k_X]ᵀ / √width) [v_G ‖ v_X] of the groups and
    X' = softmax(q_X k_Gᵀ / √width) v_G of the patches. Without attention among patches the cost is
    linear in their number. No residual, no projection of the output.

    Source: Jaume et al. 2024, arXiv:2304.06819.
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width_in)
        self.attention = CrossAttention(width_in, width, bias=False)

    def forward(
        self, groups: torch.Tensor, patches: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return groups (B, P, width) and patches (B, N, width); `mask` (B, N) is of patches."""
        groups, patches = self.norm(groups), self.norm(patches)
        among = torch.cat([groups, patches], dim=1)  # (B, P + N, width_in)
        hub = self.attention(groups, among, _with_groups(mask, groups))
        return hub, self.attention(patches, groups)

    def weights(
        self, groups: torch.Tensor, patches: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return each patch's share (B, N) of the attention that the groups pay to patches."""
        groups, patches = self.norm(groups), self.norm(patches)
        among = torch.cat([groups, patches], dim=1)
        paid = self.attention.weights(groups, among, _with_groups(mask, groups))
        paid = paid[:, groups.shape[1] :]  # (B, N)
        return paid / paid.sum(dim=1, keepdim=True).clamp(min=torch.finfo(paid.dtype).tiny)


def hub_feed_forward(width: int, dropout: float) -> nn.Sequential:
    """Build what follows a `HubAttention`: LN(W_2 GELU(W_1 LN(t))), without a residual."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, width),
        nn.GELU(),
        Dropout(dropout),
        nn.Linear(width, width),
        nn.LayerNorm(width),
    )


def _with_groups(mask: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Put the groups (B, P, width), all of them real, in front of the patches' mask (B, N)."""
    return torch.cat([mask.new_ones(groups.shape[:2]), mask], dim=1)


def masked_mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of the real tokens (B, width) of (B, N, width), zeros without any."""
    share = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)  # (B, N)
    return torch.einsum("bn,bnw->bw", share, tokens)
