"""A two-layer perceptron in plain Python: 64 pixels in, ten class probabilities out.

Standard library only, so that the workload runs wherever a Python 3.10 stands, with nothing to install inside
the confidential environment.
"""

from __future__ import annotations

import array
import json
import math
import operator
import pkgutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PIXELS = 64
"""An image is 8 x 8 pixels, row by row."""

BRIGHTEST = 16
"""A pixel is an integer from 0 (paper) to 16 (ink)."""


class Network:
    """One hidden layer with ReLU, softmax over the digits.

    Args:
        sizes: Inputs, hidden units, outputs.
        weights: Little-endian float32 of hidden weights (inputs x hidden, row by row), hidden biases, output
            weights (hidden x outputs), output biases.

    Raises:
        ValueError: The weights are more or fewer than the sizes need.
    """

    def __init__(self, sizes: Sequence[int], weights: bytes) -> None:
        inputs, hidden, outputs = sizes
        values = array.array("f")
        values.frombytes(weights)
        if sys.byteorder == "big":
            values.byteswap()
        expected = (inputs + 1) * hidden + (hidden + 1) * outputs
        if len(values) != expected:
            raise ValueError(f"model: expected {expected} weights for layers {sizes}, found {len(values)}")
        cut = inputs * hidden
        self._hidden = _columns(values[:cut], hidden), values[cut : cut + hidden]
        rest = values[cut + hidden :]
        cut = hidden * outputs
        self._output = _columns(rest[:cut], outputs), rest[cut:]

    @classmethod
    def shipped(cls) -> Network:
        """Load the model that stands beside this module, in a folder or inside the zip application."""
        description = json.loads(resource("model/model.json"))
        return cls(description["layers"], resource("model/weights.bin"))

    def scores(self, pixels: Sequence[int]) -> list[float]:
        """Return the probability of each digit.

        Args:
            pixels: 64 integers from 0 to 16, row by row.
        """
        hidden = [max(0.0, value) for value in _layer([pixel / BRIGHTEST for pixel in pixels], *self._hidden)]
        logits = _layer(hidden, *self._output)
        top = max(logits)
        powers = [math.exp(logit - top) for logit in logits]
        total = sum(powers)
        return [power / total for power in powers]


def _layer(inputs: list[float], columns: list[array.array[float]], biases: array.array[float]) -> list[float]:
    return [
        sum(map(operator.mul, inputs, column), bias) for column, bias in zip(columns, biases, strict=True)
    ]


def _columns(matrix: array.array[float], width: int) -> list[array.array[float]]:
    """Turn a row-major matrix into its columns: one per unit of the layer."""
    return [matrix[unit::width] for unit in range(width)]


def resource(path: str) -> bytes:
    """Return a file that is shipped inside the application.

    Raises:
        ValueError: There is no such file.
    """
    data = pkgutil.get_data(__name__, path)
    if data is None:
        raise ValueError(f"{path} is missing from the application")
    return data
