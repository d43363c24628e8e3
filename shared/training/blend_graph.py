"""The graph of a blend: ids of n-grams (and tokens) in, probabilities, scope and embedding out. Written node by node.

    ngram_ids int64 [N, L], ngram_counts float32 [N, L]         0 where filled up
    input_ids, attention_mask int64 [N, T]                      with an encoder
    → logits, probabilities float32 [N, C]; scope_score, scope float32 [N]; embedding float32 [N, D] with an encoder

Known sentences are compared with as int8: a quarter of the memory to read, and what is read is what takes the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from shared.compression import graph as graphs
from shared.training.blend import Hidden, Matrix, Part, Scope
from shared.training.export import OPSET
from shared.training.sentence_layers import OUTPUT, LayerEncoder

_LEVELS = 127
_ENCODER = "encoder_"


class _Writer:
    """Collects nodes and weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def number(self, name: str, value: float) -> str:
        return self.weight(name, np.array(value, dtype=np.float32))

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"head_{output}", **attributes))
        return output


def write(
    part: Part,
    hidden: Hidden | None,
    idf: NDArray[np.float32],
    scope: Scope,
    bank: Matrix | None,
    encoder: LayerEncoder | None,
) -> bytes:
    """The ONNX file.

    Args:
        part: the linear models as one layer, temperatures applied.
        hidden: the network, where there is one.
        idf: [2^bits] rarity of the n-grams.
        bank: [M, D] known sentences' embeddings, where there is an encoder.
    """
    writer = _Writer()
    logits = [writer.weight("bias", part.bias[None].astype(np.float32))]
    if part.table is not None:
        logits.append(_ngrams(writer, part.table, idf))
    if part.dense is not None:
        writer.add("MatMul", [OUTPUT, writer.weight("dense", part.dense.astype(np.float32))], "dense_logits")
        logits.append("dense_logits")
    if hidden is not None:
        logits.append(_hidden(writer, hidden))
    while len(logits) > 1:
        last = len(logits) == 2
        logits = [writer.add("Add", logits[:2], "logits" if last else f"sum_{len(logits)}"), *logits[2:]]
    writer.add("Softmax", ["logits"], "probabilities", axis=1)
    _scope(writer, scope, bank)
    classes = len(part.bias)
    outputs = [("logits", ["batch", classes]), ("probabilities", ["batch", classes])]
    outputs += [("scope_score", ["batch"]), ("scope", ["batch"])]
    if encoder is not None:
        outputs.append(("embedding", ["batch", encoder.width]))
    inputs = [("ngram_ids", TensorProto.INT64, ["batch", "ngrams"])]
    inputs.append(("ngram_counts", TensorProto.FLOAT, ["batch", "ngrams"]))
    if encoder is not None:
        inputs.append((OUTPUT, TensorProto.FLOAT, ["batch", "layers"]))
    head = helper.make_graph(
        writer.nodes,
        "head",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        writer.weights,
    )
    return _joined(head, encoder)


def _ngrams(writer: _Writer, table: Matrix, idf: NDArray[np.float32]) -> str:
    """tf-idf of unit length, times the table: only the rows of ids that occur are read."""
    one, zero = writer.number("one", 1.0), writer.number("zero", 0.0)
    writer.add("Max", ["ngram_counts", one], "at_least_one")
    writer.add("Log", ["at_least_one"], "log_count")
    writer.add("Add", ["log_count", one], "frequency")
    writer.add("Greater", ["ngram_counts", zero], "occurs")
    writer.add("Where", ["occurs", "frequency", zero], "frequency_or_none")
    writer.add("Gather", [writer.weight("idf", idf.astype(np.float32)), "ngram_ids"], "rarity")
    writer.add("Mul", ["frequency_or_none", "rarity"], "weighted")
    writer.add(
        "ReduceL2", ["weighted", writer.weight("second_axis", np.array([1], dtype=np.int64))], "length", keepdims=1
    )
    writer.add("Max", ["length", writer.number("least_length", 1e-9)], "some_length")
    writer.add("Div", ["weighted", "some_length"], "unit")
    writer.add("Gather", [writer.weight("table", table.astype(np.float32)), "ngram_ids"], "rows")
    writer.add("Unsqueeze", ["unit", "second_axis"], "unit_row")
    writer.add("MatMul", ["unit_row", "rows"], "ngram_logits_row")
    return writer.add("Squeeze", ["ngram_logits_row", "second_axis"], "ngram_logits")


def _hidden(writer: _Writer, hidden: Hidden) -> str:
    writer.add("MatMul", [OUTPUT, writer.weight("hidden_first", hidden.first)], "hidden_product")
    writer.add("Add", ["hidden_product", writer.weight("hidden_first_bias", hidden.first_bias)], "hidden_sum")
    writer.add("Relu", ["hidden_sum"], "hidden_active")
    writer.add("MatMul", ["hidden_active", writer.weight("hidden_second", hidden.second)], "hidden_scores")
    return writer.add(
        "Add", ["hidden_scores", writer.weight("hidden_second_bias", hidden.second_bias)], "hidden_logits"
    )


def _scope(writer: _Writer, scope: Scope, bank: Matrix | None) -> None:
    axis = writer.weight("last_axis", np.array([1], dtype=np.int64))
    writer.add("ReduceMax", ["logits", axis], "largest", keepdims=0)
    writer.add("Mul", ["largest", writer.number("logit_scale", 1 / scope.logit_std)], "largest_scaled")
    constant = -scope.logit_mean / scope.logit_std
    summed = "largest_scaled"
    if bank is not None:
        by = scope.nearest_weight / scope.nearest_std
        constant -= scope.nearest_mean * by
        writer.add("Mul", [_nearest(writer, bank), writer.number("nearest_scale", by)], "nearest_scaled")
        summed = writer.add("Add", ["largest_scaled", "nearest_scaled"], "both_scaled")
    writer.add("Add", [summed, writer.number("scope_middle", constant)], "scope_score")
    writer.add("Mul", ["scope_score", writer.number("scope_slope", scope.slope)], "scope_sloped")
    writer.add("Add", ["scope_sloped", writer.number("scope_offset", scope.offset)], "scope_logit")
    writer.add("Sigmoid", ["scope_logit"], "scope")


def _nearest(writer: _Writer, bank: Matrix) -> str:
    """The largest cosine with a known sentence, by an integer product; both sides are rounded to 127 levels."""
    width = bank.shape[1]
    ends = [writer.weight("last_start", np.array([-width], dtype=np.int64))]
    ends.append(writer.weight("last_end", np.array([np.iinfo(np.int64).max], dtype=np.int64)))
    writer.add("Slice", [OUTPUT, *ends, "last_axis"], "embedding")
    top = max(float(np.abs(bank).max()), 1e-6)
    levels = np.round(bank.T * (_LEVELS / top)).astype(np.int8)
    zero_point = writer.weight("zero_point", np.array(128, dtype=np.uint8))
    writer.add("Mul", ["embedding", writer.number("to_levels", _LEVELS / top)], "embedding_scaled")
    low, high = writer.number("lowest", -_LEVELS), writer.number("highest", _LEVELS)
    writer.add("Clip", ["embedding_scaled", low, high], "embedding_clipped")
    writer.add("QuantizeLinear", ["embedding_clipped", writer.number("level", 1.0), zero_point], "embedding_levels")
    writer.add("MatMulInteger", ["embedding_levels", writer.weight("bank", levels), zero_point], "products")
    writer.add("ReduceMax", ["products", "last_axis"], "largest_product", keepdims=0)
    writer.add("Cast", ["largest_product"], "largest_product_float", to=TensorProto.FLOAT)
    return writer.add("Mul", ["largest_product_float", writer.number("from_levels", (top / _LEVELS) ** 2)], "nearest")


def _joined(head: onnx.GraphProto, encoder: LayerEncoder | None) -> bytes:
    opsets = [helper.make_opsetid("", OPSET)]
    if encoder is None:
        model = helper.make_model(head, opset_imports=opsets, ir_version=10)
    else:
        front = graphs.read(encoder.model)
        opsets += [each for each in front.opset_import if each.domain]
        front = compose.add_prefix(front, _ENCODER, rename_inputs=False, rename_outputs=False)
        merged = compose.merge_graphs(front.graph, head, [(OUTPUT, OUTPUT)])
        model = helper.make_model(merged, opset_imports=opsets, ir_version=front.ir_version)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
