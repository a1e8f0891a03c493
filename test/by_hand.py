"""Layers in numpy, for tests that compute a fusion a second time."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from toy_fusions import DIMS

Array = npt.NDArray[np.float64]
Weights = dict[str, Array]


def shuffled(fusion: nn.Module, std: float = 0.5) -> Weights:
    """Give every parameter, biases too, a value of its own; return them."""
    torch.manual_seed(5)
    for value in fusion.parameters():
        nn.init.normal_(value, std=std)
    return {name: array(value) for name, value in fusion.named_parameters()}


def array(tensor: Tensor) -> Array:
    """Return a tensor as float64."""
    values: Array = tensor.detach().double().numpy()
    return values


def linear(weights: Weights, name: str, x: Array) -> Array:
    y: Array = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return y


def relu(x: Array) -> Array:
    y: Array = np.maximum(x, 0)
    return y


def sigmoid(x: Array) -> Array:
    y: Array = 1 / (1 + np.exp(-x))
    return y


def softmax(x: Array) -> Array:
    y: Array = np.exp(x) / np.exp(x).sum()
    return y


def attended(weights: Weights, name: str, bag: Array) -> Array:
    """Return a bag (N, D) pooled by gated attention (width,)."""
    h = relu(linear(weights, f"{name}.project.0", bag))
    gated = np.tanh(linear(weights, f"{name}.value.0", h)) * sigmoid(
        linear(weights, f"{name}.gate.0", h)
    )
    pooled: Array = softmax(linear(weights, f"{name}.score", gated)[:, 0]) @ h
    return pooled


def count(module: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(value.numel() for value in module.parameters())


def elu(x: Array) -> Array:
    y: Array = np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
    return y


def norm(weights: Weights, name: str, x: Array) -> Array:
    spread = np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    y: Array = (x - x.mean(axis=1, keepdims=True)) / spread
    return y * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: Array) -> Array:
    y: Array = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    return y


def gene_tokens(weights: Weights, rna: Array, name: str = "genes") -> Array:
    """Return the tokens (P, width) of the toy gene sets by a loop over them."""
    tokens, row = [], 0
    for index, genes in enumerate(DIMS.gene_sets.values()):
        first = weights[f"{name}.encode.members"][row : row + len(genes)]
        h = elu(rna[list(genes)] @ first + weights[f"{name}.encode.members_bias"][index])
        inner = weights[f"{name}.encode.inner.0"][index]
        tokens.append(elu(h @ inner + weights[f"{name}.encode.inner_bias.0"][index]))
        row += len(genes)
    return np.stack(tokens)


def attend(weights: Weights, name: str, queries: Array, tokens: Array) -> tuple[Array, Array]:
    """Return the attended (Q, width) and the weights (Q, N)."""

    def mapped(part: str, x: Array) -> Array:
        y: Array = x @ weights[f"{name}.{part}.weight"].T + weights.get(f"{name}.{part}.bias", 0)
        return y

    q, k = mapped("query", queries), mapped("key", tokens)
    shares = np.stack([softmax(row) for row in q @ k.T / np.sqrt(q.shape[1])])
    return shares @ mapped("value", tokens), shares
