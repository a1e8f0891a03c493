"""Self-attention whose cost is linear in the number of tokens."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from model.fusion.layers_elements import Dropout

INVERSE_STEPS = 6
KERNEL = 33
"""Tokens that the convolution of the values spans."""


class NystromAttention(nn.Module):
    """softmax(Q K̃ᵀ) · softmax(Q̃ K̃ᵀ)⁺ · softmax(Q̃ Kᵀ) V + conv(V), projected.

    Q̃ and K̃ are the landmarks: means of the queries and keys over m segments of the sequence, which
    differ by at most one token in length. All products are scaled by 1 / √(width of a head). The
    convolution runs along the sequence, with one kernel for each head.

    The landmarks approximate softmax(Q Kᵀ) V. Where a case has no more than m tokens, each token
    is a landmark and this is what comes out, exactly: the pseudo-inverse cancels the third factor.

    Source: Xiong et al. 2021, "Nyströmformer", arXiv:2102.03902. The public
    package pads a sequence with zeros up to a multiple of m, and lets them draw attention; here
    padding counts for nothing.
    """

    def __init__(self, width: int, heads: int, landmarks: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.landmarks = landmarks
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.along = nn.Conv2d(
            heads, heads, (KERNEL, 1), padding=(KERNEL // 2, 0), groups=heads, bias=False
        )
        self.out = nn.Sequential(nn.Linear(width, width), Dropout(dropout))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return (B, L, width) of tokens (B, L, width), of which those in `mask` (B, L) are real.

        The real tokens come first, and each case has one or more.
        """
        tokens = tokens * mask[:, :, None]
        query, key, value = self._heads(tokens)  # (B, heads, L, w), padding 0
        real = mask[:, None, None]
        if tokens.shape[1] <= self.landmarks:
            seen = scaled_dot_product_attention(query, key, value, attn_mask=real)
        else:
            means, landmark = _segment_means(tokens, mask, self.landmarks)  # (B, m, width), (B, m)
            landmark = landmark[:, None, None]
            mean_query, mean_key, mean_value = self._heads(means)  # (B, heads, m, w)
            heard = scaled_dot_product_attention(mean_query, key, value, attn_mask=real)
            middle = (mean_query @ mean_key.transpose(2, 3)).float() * query.shape[-1] ** -0.5
            middle = middle.masked_fill(~landmark, torch.finfo(middle.dtype).min).softmax(dim=-1)
            short = (mask.sum(dim=1) <= self.landmarks)[:, None, None, None]
            passed_on = torch.where(short, mean_value, pseudo_inverse(middle) @ heard)
            seen = scaled_dot_product_attention(query, mean_key, passed_on, attn_mask=landmark)
        joined = seen + self.along(value)  # (B, heads, L, w)
        projected: torch.Tensor = self.out(joined.transpose(1, 2).flatten(2))
        return projected

    def weights(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the attention (B, L) that the first token pays, the mean over the heads.

        This is its row of softmax(Q Kᵀ) itself, not of the approximation, some of whose weights
        are negative.
        """
        query, key, _ = self._heads(tokens)
        scores = query[:, :, :1] @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask[:, None, None], lowest)  # (B, heads, 1, L)
        weights: torch.Tensor = scores.softmax(dim=-1).mean(dim=(1, 2)) * mask
        return weights

    def _heads(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return query, key and value, each (B, heads, L, width / heads)."""
        parts: torch.Tensor = self.qkv(tokens)
        parts = parts.view(*tokens.shape[:2], 3, self.heads, -1)  # (B, L, 3, heads, w)
        return parts.permute(2, 0, 3, 1, 4).unbind()


class NystromLayer(nn.Module):
    """x + NystromAttention(norm(x))."""

    def __init__(self, norm: nn.Module, attention: NystromAttention) -> None:
        super().__init__()
        self.norm = norm
        self.attention = attention

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return (B, L, width); as `NystromAttention`."""
        attended: torch.Tensor = tokens + self.attention(self.norm(tokens), mask)
        return attended

    def weights(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the attention (B, L) that the first token pays."""
        return self.attention.weights(self.norm(tokens), mask)


def pseudo_inverse(matrix: torch.Tensor) -> torch.Tensor:
    """Approximate the Moore-Penrose inverse of matrices A (..., m, m) without decomposing them.

    Z₀ = Aᵀ / (‖A‖₁ ‖A‖_∞), then Z ← Z (13 I - AZ (15 I - AZ (7 I - AZ))) / 4, which converges with
    the third power of the error. Each matrix has norms of its own, so none depends on the others.

    Source: Xiong et al. 2021, arXiv:2102.03902, after Razavi et al. 2014.
    """
    size = matrix.abs()
    norms = size.sum(dim=-2).amax(dim=-1) * size.sum(dim=-1).amax(dim=-1)
    inverse = matrix.transpose(-2, -1) / norms[..., None, None]
    one = torch.eye(matrix.shape[-1], device=matrix.device, dtype=matrix.dtype)
    with torch.autocast(matrix.device.type, enabled=False):  # errors of 16 bits would be inverted
        for _ in range(INVERSE_STEPS):
            both = matrix @ inverse
            inverse = inverse @ (13 * one - both @ (15 * one - both @ (7 * one - both))) / 4
    return inverse


def _segment_means(
    tokens: torch.Tensor, mask: torch.Tensor, most: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average the tokens (B, L, width) over up to `most` segments of each case's own sequence.

    Returns:
        means (B, m, width) and which of the m are real (B, m): a case of few tokens has fewer.
    """
    cases, length, width = tokens.shape  # L > m
    sizes = mask.sum(dim=1, keepdim=True)  # (B, 1)
    counts = sizes.clamp(max=most)
    position = torch.arange(length, device=tokens.device)
    segment = (position * counts // sizes).where(mask, 0)  # (B, L)
    means = tokens.new_zeros(cases, most, width).scatter_add(
        1, segment[:, :, None].expand_as(tokens), tokens
    )
    members = tokens.new_zeros(cases, most).scatter_add(1, segment, mask.to(tokens))  # (B, m)
    real = torch.arange(most, device=tokens.device) < counts
    return means / members.clamp(min=1)[:, :, None], real
