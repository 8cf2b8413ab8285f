"""The example is what it claims: the trained network, the same file every time, and a program of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

EXAMPLE = Path(__file__).parents[3] / "examples" / "confidential_ml"
HELD_OUT = EXAMPLE / "data" / "held_out.jsonl"


def run(*command, stdin=""):
    return subprocess.run(
        [sys.executable, *map(str, command)], input=stdin, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def application(tmp_path_factory):
    path = tmp_path_factory.mktemp("example") / "digits.pyz"
    assert run(EXAMPLE / "build_zipapp.py", path, "--version", "1.0").returncode == 0
    return path


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def scikit_learn_network():
    """scikit-learn's own classifier, carrying the committed weights."""
    pixels, labels = load_digits(return_X_y=True)
    network = MLPClassifier(hidden_layer_sizes=(32,), max_iter=1, random_state=0)
    with pytest.warns(match="Maximum iterations"):
        network.fit(pixels / 16, labels)
    values = np.frombuffer((EXAMPLE / "model" / "weights.bin").read_bytes(), dtype="<f4").astype(float)
    cuts = np.cumsum([64 * 32, 32, 32 * 10])
    hidden, hidden_bias, output, output_bias = np.split(values, cuts)
    network.coefs_ = [hidden.reshape(64, 32), output.reshape(32, 10)]
    network.intercepts_ = [hidden_bias, output_bias]
    return network


def test_predicts_what_scikit_learn_predicts_with_the_same_weights(application):
    images = lines(HELD_OUT.read_text())
    answers = lines(run(application, stdin=HELD_OUT.read_text()).stdout)
    expected = scikit_learn_network().predict_proba(np.array([image["pixels"] for image in images]) / 16)
    assert [answer["id"] for answer in answers] == [image["id"] for image in images]
    assert [answer["prediction"] for answer in answers] == expected.argmax(axis=1).tolist()
    assert np.allclose([answer["scores"] for answer in answers], expected, atol=1e-4)


def test_reaches_the_stated_accuracy_on_the_held_out_images(application):
    images = lines(HELD_OUT.read_text())
    answers = lines(run(application, stdin=HELD_OUT.read_text()).stdout)
    right = sum(a["prediction"] == i["label"] for a, i in zip(answers, images, strict=True))
    stated = json.loads((EXAMPLE / "model" / "model.json").read_text())
    assert round(right / len(images), 4) == stated["held_out_accuracy"]
    assert right / len(images) >= 0.95


def test_training_again_gives_an_equally_good_model_and_the_same_images(tmp_path):
    outcome = run(EXAMPLE / "train.py", "--out", tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    accuracy = float(outcome.stdout.rsplit(maxsplit=1)[-1])
    assert accuracy >= 0.95
    for name in ("held_out.jsonl", "images.jsonl"):
        assert (tmp_path / "data" / name).read_bytes() == (EXAMPLE / "data" / name).read_bytes()


def test_shipped_images_are_held_out_images():
    held_out = HELD_OUT.read_text().splitlines()
    shipped = (EXAMPLE / "data" / "images.jsonl").read_text().splitlines()
    assert len(shipped) == 20
    assert set(shipped) <= set(held_out)


def test_the_same_sources_build_the_same_bytes(application, tmp_path):
    again = tmp_path / "again.pyz"
    run(EXAMPLE / "build_zipapp.py", again, "--version", "1.0")
    assert again.read_bytes() == application.read_bytes()


def test_versions_differ_and_say_which_they_are(application, tmp_path):
    newer = tmp_path / "newer.pyz"
    run(EXAMPLE / "build_zipapp.py", newer, "--version", "1.1")
    assert newer.read_bytes() != application.read_bytes()
    assert run(application, "--version").stdout == "1.0\n"
    assert run(newer, "--version").stdout == "1.1\n"


def test_runs_by_its_own_name(application):
    image = HELD_OUT.read_text().splitlines()[0]
    outcome = subprocess.run([application], input=image, capture_output=True, text=True, check=True)
    assert lines(outcome.stdout)[0]["id"] == json.loads(image)["id"]


@pytest.mark.parametrize(
    ("line", "found_wrong"),
    [
        ("not json", "Expecting value"),
        ("[]", '"pixels" are 64 integers'),
        ('{"id":1}', '"pixels" are 64 integers'),
        ('{"id":1,"pixels":[1,2]}', '"pixels" are 64 integers'),
        (json.dumps({"pixels": [17] * 64}), "from 0 to 16"),
        (json.dumps({"pixels": [True] * 64}), "from 0 to 16"),
    ],
)
def test_refuses_what_is_no_image_and_names_the_line(application, line, found_wrong):
    image = HELD_OUT.read_text().splitlines()[0]
    outcome = run(application, stdin=f"{image}\n{line}\n{image}\n")
    assert outcome.returncode == 1
    assert len(lines(outcome.stdout)) == 1
    assert outcome.stderr.startswith("digits: error: line 2: ")
    assert found_wrong in outcome.stderr


def test_answers_hold_no_weight_of_the_model(application):
    answered = run(application, stdin=HELD_OUT.read_text()).stdout
    weights = np.frombuffer((EXAMPLE / "model" / "weights.bin").read_bytes(), dtype="<f4")
    assert not [weight for weight in weights if repr(float(weight)) in answered]
