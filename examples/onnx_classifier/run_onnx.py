"""Classify images with a model that comes through standard input and never touches a disk.

    cpm run --stream digits-onnx | python run_onnx.py IMAGES.jsonl

Each line of the images is ``{"id": …, "pixels": [64 integers from 0 to 16]}``, with a ``label`` if it is
known. Each answer is ``{"id": …, "prediction": digit}`` on standard output; the accuracy over the labelled
images goes to standard error. A model that is cut short or too long ends the run with exit 1 and no answer.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

MAX_MODEL_BYTES = 64 << 20
"""Longest model that is taken."""
PIXELS = 64
BRIGHTEST = 16


def main() -> int:
    """Read the model, then the images; answer."""
    parser = argparse.ArgumentParser(description="Classify images with a model from standard input.")
    parser.add_argument("images", type=Path, help="JSON lines")
    parser.add_argument("--quiet", action="store_true", help="tell the accuracy only")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no dump with the model in it
    try:
        images = [parse_image(line) for line in arguments.images.read_text().splitlines()]
        predictions = classify(load_model(read_model()), images)
    except (ValueError, OSError) as error:
        print(f"run_onnx: error: {error}", file=sys.stderr)
        return 1
    if not arguments.quiet:
        for image, prediction in zip(images, predictions, strict=True):
            print(json.dumps({"id": image.get("id"), "prediction": prediction}))
    pairs = [(i["label"], p) for i, p in zip(images, predictions, strict=True) if "label" in i]
    if pairs:
        right = sum(label == prediction for label, prediction in pairs)
        print(f"accuracy on {len(pairs)} images: {right / len(pairs):.4f}", file=sys.stderr)
    return 0


def read_model() -> bytes:
    """Return all of standard input.

    Raises:
        ValueError: It is a terminal, empty or too long.
    """
    if os.isatty(0):
        raise ValueError("model: expected it on standard input, found a terminal")
    model = sys.stdin.buffer.read(MAX_MODEL_BYTES + 1)
    if not 0 < len(model) <= MAX_MODEL_BYTES:
        raise ValueError(f"model: expected 1 to {MAX_MODEL_BYTES} bytes, found {len(model)} or more")
    return model


def load_model(model: bytes) -> onnxruntime.InferenceSession:
    """Load a model from memory.

    Raises:
        ValueError: It is no ONNX model, or not of this shape.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its log would name what the model is made of
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise ValueError("model: it does not load; was the stream cut short?") from error
    shapes = [value.shape[1:] for value in (*session.get_inputs(), *session.get_outputs())]
    if shapes != [[PIXELS], [10]]:
        raise ValueError(f"model: expected {PIXELS} pixels in and 10 scores out, found {shapes}")
    return session


def parse_image(line: str) -> dict[str, Any]:
    """Return one image.

    Raises:
        ValueError: It is none.
    """
    image = json.loads(line)
    pixels = image.get("pixels") if isinstance(image, dict) else None
    if not isinstance(pixels, list) or len(pixels) != PIXELS:
        raise ValueError(f"image: expected {PIXELS} pixels")
    if not all(type(pixel) is int and 0 <= pixel <= BRIGHTEST for pixel in pixels):
        raise ValueError(f"image: expected every pixel to be an integer from 0 to {BRIGHTEST}")
    return image


def classify(session: onnxruntime.InferenceSession, images: list[dict[str, Any]]) -> list[int]:
    """Return the most probable digit of each image."""
    pixels = np.array([image["pixels"] for image in images], dtype=np.float32).reshape(-1, PIXELS)
    (scores,) = session.run(None, {session.get_inputs()[0].name: pixels})
    return [int(digit) for digit in scores.argmax(axis=1)]


if __name__ == "__main__":
    sys.exit(main())
