"""Layers in numpy, for tests that compute a fusion a second time."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

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
