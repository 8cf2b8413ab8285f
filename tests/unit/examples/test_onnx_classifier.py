"""The second example: the committed model is the first one's weights, and runs from memory."""

import json
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
EXAMPLE = EXAMPLES / "onnx_classifier"
HELD_OUT = EXAMPLES / "confidential_ml" / "data" / "held_out.jsonl"
MODEL = (EXAMPLE / "model" / "digits.onnx").read_bytes()


def run(*words, stdin=b""):
    command = [sys.executable, EXAMPLE / "run_onnx.py", *words]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def test_committed_model_is_what_the_converter_writes(tmp_path):
    out = tmp_path / "digits.onnx"
    subprocess.run([sys.executable, EXAMPLE / "convert.py", out], check=True, capture_output=True)

    assert out.read_bytes() == MODEL
    onnx.checker.check_model(onnx.load_from_string(MODEL), full_check=True)


def test_reaches_the_accuracy_of_the_first_example_on_the_held_out_images():
    ran = run(HELD_OUT, stdin=MODEL)

    assert ran.returncode == 0, ran.stderr
    accuracy = float(re.fullmatch(rb"accuracy on 450 images: ([0-9.]+)\n", ran.stderr)[1])
    stated = json.loads((EXAMPLES / "confidential_ml" / "model" / "model.json").read_text())
    assert accuracy >= 0.95
    assert accuracy == pytest.approx(stated["held_out_accuracy"], abs=1e-4)
    images = [json.loads(line) for line in HELD_OUT.read_text().splitlines()]
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == [image["id"] for image in images]
    right = sum(a["prediction"] == i["label"] for a, i in zip(answers, images, strict=True))
    assert round(right / len(images), 4) == accuracy


@pytest.mark.parametrize("model", [b"", MODEL[:5000], b"no model", MODEL + b"\xff" * 100])
def test_model_that_is_cut_or_none_gives_one_error_and_no_answer(model):
    ran = run(HELD_OUT, stdin=model)

    assert (ran.returncode, ran.stdout) == (1, b"")
    assert re.fullmatch(rb"run_onnx: error: model: [^\n]+\n", ran.stderr)


def test_image_that_is_none_gives_one_error_and_no_answer(tmp_path):
    (tmp_path / "images").write_text('{"id": 1, "pixels": [17]}\n')

    ran = run(tmp_path / "images", stdin=MODEL)

    assert (ran.returncode, ran.stdout) == (1, b"")
    assert ran.stderr.startswith(b"run_onnx: error: image: ")
