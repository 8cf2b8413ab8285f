"""Write the digits classifier as an ONNX model.

The weights are those that ``examples/confidential_ml/train.py`` trained; nothing is trained again. The same
weights give the same bytes, whatever machine and version of ``onnx`` write them.

    python examples/onnx_classifier/convert.py [OUT.onnx]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
WEIGHTS = HERE.parent / "confidential_ml" / "model"
BRIGHTEST = 16.0
"""Pixels are integers from 0 to 16; the network was trained on 0 to 1."""
OPSET = 17
IR_VERSION = 8
"""Old enough for every onnxruntime since 1.13."""


def main() -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(description="Write the digits classifier as an ONNX model.")
    parser.add_argument("out", type=Path, nargs="?", default=HERE / "model" / "digits.onnx")
    out = parser.parse_args().out
    out.write_bytes(convert())
    print(f"{out}: {out.stat().st_size} bytes")


def convert() -> bytes:
    """Return the model: ``pixels`` (N x 64 float32, 0 to 16) in, ``scores`` (N x 10) out."""
    inputs, hidden, outputs = json.loads((WEIGHTS / "model.json").read_text())["layers"]
    values = np.frombuffer((WEIGHTS / "weights.bin").read_bytes(), dtype="<f4")
    sizes = [inputs * hidden, hidden, hidden * outputs, outputs]
    first, first_bias, second, second_bias = np.split(values, np.cumsum(sizes)[:-1])
    constants = {
        "brightest": np.array(BRIGHTEST, dtype=np.float32),
        "hidden_weights": first.reshape(inputs, hidden),
        "hidden_bias": first_bias,
        "output_weights": second.reshape(hidden, outputs),
        "output_bias": second_bias,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Div", ["pixels", "brightest"], ["scaled"]),
            helper.make_node("Gemm", ["scaled", "hidden_weights", "hidden_bias"], ["sums"]),
            helper.make_node("Relu", ["sums"], ["hidden"]),
            helper.make_node("Gemm", ["hidden", "output_weights", "output_bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
        ],
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", inputs])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="digits"
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


if __name__ == "__main__":
    main()
