"""Train the digits classifier and write what the demo ships.

Data: the UCI "Optical Recognition of Handwritten Digits" test set, 1,797 images of 8 x 8 pixels, as
scikit-learn carries it. A quarter, stratified by digit, is held out and never seen in training; the accuracy
on it is printed and stands in ``model/model.json``.

    python examples/confidential_ml/train.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).parent
SEED = 20
HELD_OUT = 0.25
"""Share of the images that is held out."""
HIDDEN = 32
BRIGHTEST = 16
"""Pixels are integers from 0 to 16; the network sees them from 0 to 1."""
SAMPLES = 20
"""Held-out images that are shipped as the example's own small input."""


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description="Train the digits classifier and write model and images.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write model/ and data/ into")
    out = parser.parse_args().out
    pixels, labels = load_digits(return_X_y=True)
    indices = np.arange(len(labels))
    train, held_out = train_test_split(indices, test_size=HELD_OUT, stratify=labels, random_state=SEED)

    # No weight decay: it would drive the weights of the always-white corner pixels to exact zeros, and runs
    # of zeros stand in any file, so that nobody could tell whether a piece of the model had leaked.
    network = MLPClassifier(hidden_layer_sizes=(HIDDEN,), alpha=0.0, max_iter=600, random_state=SEED)
    network.fit(pixels[train] / BRIGHTEST, labels[train])
    accuracy = network.score(pixels[held_out] / BRIGHTEST, labels[held_out])

    write_model(out / "model", network, accuracy, images=len(held_out))
    write_images(out / "data" / "held_out.jsonl", held_out, pixels, labels)
    write_images(out / "data" / "images.jsonl", held_out[:SAMPLES], pixels, labels)
    print(f"accuracy on {len(held_out)} held-out images: {accuracy:.4f}")


def write_model(folder: Path, network: MLPClassifier, accuracy: float, *, images: int) -> None:
    """Write the weights as little-endian float32, and what they are as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        np.ravel(part).astype("<f4").tobytes()
        for layer in zip(network.coefs_, network.intercepts_, strict=True)
        for part in layer
    ]
    (folder / "weights.bin").write_bytes(b"".join(parts))
    description = {
        "layers": [network.coefs_[0].shape[0], HIDDEN, network.coefs_[1].shape[1]],
        "activation": "relu",
        "held_out_accuracy": round(accuracy, 4),
        "held_out_images": images,
        "trained_with": f"scikit-learn {sklearn.__version__}",
    }
    (folder / "model.json").write_text(json.dumps(description, indent=1) + "\n")


def write_images(path: Path, chosen: np.ndarray, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Write images with their true labels as JSON lines; an id is the image's row in the data set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(
            {"id": int(row), "label": int(labels[row]), "pixels": pixels[row].astype(int).tolist()},
            separators=(",", ":"),
        )
        for row in chosen
    ]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
