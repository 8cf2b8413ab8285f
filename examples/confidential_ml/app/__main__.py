"""Classify handwritten digits: JSON lines in, JSON lines out.

Each line on standard input is ``{"id": …, "pixels": [64 integers from 0 to 16]}``; other members, such as a
``label``, are ignored. Each answer is ``{"id": …, "prediction": digit, "scores": [ten probabilities]}``. The
model itself is never written anywhere. The first line that is not such an object ends the run with exit 1.
With ``--version`` the application only says which one it is.
"""

from __future__ import annotations

import json
import sys

from network import BRIGHTEST, PIXELS, Network, resource


def main() -> int:
    """Answer every line of standard input."""
    if sys.argv[1:] == ["--version"]:
        print(resource("VERSION").decode().strip())
        return 0
    network = Network.shipped()
    for number, line in enumerate(sys.stdin, start=1):
        try:
            answer = classify(network, line)
        except ValueError as error:
            sys.stdout.flush()
            print(f"digits: error: line {number}: {error}", file=sys.stderr)
            return 1
        print(json.dumps(answer))
    return 0


def classify(network: Network, line: str) -> dict[str, object]:
    """Return the answer to one line.

    Raises:
        ValueError: The line is not an image; the message says what was expected.
    """
    image = json.loads(line)
    pixels = image.get("pixels") if isinstance(image, dict) else None
    if not isinstance(pixels, list) or len(pixels) != PIXELS:
        raise ValueError(f'expected an object whose "pixels" are {PIXELS} integers')
    if not all(type(pixel) is int and 0 <= pixel <= BRIGHTEST for pixel in pixels):
        raise ValueError(f"expected every pixel to be an integer from 0 to {BRIGHTEST}")
    scores = network.scores(pixels)
    return {
        "id": image.get("id"),
        "prediction": max(range(len(scores)), key=scores.__getitem__),
        "scores": [round(score, 4) for score in scores],
    }


if __name__ == "__main__":
    sys.exit(main())
