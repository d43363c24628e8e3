"""Rewrites must change how a graph computes, and nothing that it computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from shared.compression import attention, graph
from tests.shared.packages import run_model


def model_of(
    nodes: list[onnx.NodeProto], x: list[Any], y: list[Any], constants: dict[str, np.ndarray], **other: list[Any]
) -> bytes:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    inputs += [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in other.items()]
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "made",
            inputs,
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
            [numpy_helper.from_array(values, name) for name, values in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def kinds(model: bytes) -> list[str]:
    return [node.op_type for node in graph.read(model).graph.node]


def blurred(padding: str = "edge", stride: int = 1) -> bytes:
    """A map [n, 1, 10, 12] is stretched to 40×36 and blurred along rows and columns."""
    kernel = np.array([0.1, 0.2, 0.4, 0.2, 0.1], dtype=np.float32)
    return model_of(
        [
            helper.make_node("Resize", ["x", "", "", "sizes"], ["a"], mode="linear"),
            helper.make_node("Pad", ["a", "pads"], ["b"], mode=padding),
            helper.make_node("Conv", ["b", "across"], ["c"], kernel_shape=[1, 5]),
            helper.make_node("Conv", ["c", "down"], ["y"], kernel_shape=[5, 1], strides=[stride, stride]),
        ],
        [1, 1, 10, 12],
        [1, 1, None, None],
        {
            "sizes": np.array([1, 1, 40, 36]),
            "pads": np.array([0, 0, 2, 2, 0, 0, 2, 2]),
            "across": kernel.reshape(1, 1, 1, 5),
            "down": kernel.reshape(1, 1, 5, 1),
        },
    )


def test_a_blurred_map_is_two_products():
    model = blurred()
    small = graph.clean(model)
    assert kinds(small) == ["MatMul", "MatMul"]
    x = np.random.default_rng(0).normal(size=(1, 1, 10, 12)).astype(np.float32)
    assert np.allclose(run_model(small, {"x": x})["y"], run_model(model, {"x": x})["y"], atol=1e-5)


@pytest.mark.parametrize(("other", "stays"), [({"padding": "reflect"}, "Pad"), ({"stride": 2}, "Conv")])
def test_what_is_not_understood_stays(other, stays):
    model = blurred(**other)
    small = graph.clean(model)
    assert stays in kinds(small)
    x = np.random.default_rng(0).normal(size=(1, 1, 10, 12)).astype(np.float32)
    assert np.allclose(run_model(small, {"x": x})["y"], run_model(model, {"x": x})["y"], atol=1e-5)


def test_normalisation_by_channel_is_one_convolution():
    generator = np.random.default_rng(0)
    model = model_of(
        [
            helper.make_node("Mul", ["x", "by"], ["a"]),
            helper.make_node("Sub", ["a", "mean"], ["b"]),
            helper.make_node("Div", ["b", "std"], ["c"]),
            helper.make_node("Conv", ["c", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        ],
        [1, 3, 8, 8],
        [1, 24, 8, 8],
        {
            "by": np.array(1 / 255, dtype=np.float32),
            "mean": np.array([0.4, 0.5, 0.6], dtype=np.float32).reshape(1, 3, 1, 1),
            "std": np.array([0.2, 0.25, 0.3], dtype=np.float32).reshape(3, 1, 1),
            "w": generator.normal(size=(24, 3, 3, 3)).astype(np.float32),
        },
    )
    small = graph.clean(model)
    assert kinds(small) == ["Conv", "Conv"]
    x = generator.uniform(0, 255, (1, 3, 8, 8)).astype(np.float32)
    assert np.allclose(run_model(small, {"x": x})["y"], run_model(model, {"x": x})["y"], atol=1e-4)


def test_detector_tails_are_told_from_the_network():
    """A box decoder's weighted sum is a convolution, too; it has few weights."""
    generator = np.random.default_rng(0)
    model = model_of(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], "backbone", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["a", "head"], ["b"], "head", kernel_shape=[1, 1]),
            helper.make_node("Softmax", ["b"], ["c"], "tail_softmax", axis=1),
            helper.make_node("Conv", ["c", "sum"], ["y"], "tail_sum", kernel_shape=[1, 1]),
        ],
        [1, 3, 8, 8],
        [1, 1, 8, 8],
        {
            "w": generator.normal(size=(64, 3, 3, 3)).astype(np.float32),
            "head": generator.normal(size=(16, 64, 1, 1)).astype(np.float32),
            "sum": np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1),
        },
    )
    found = graph.parts(graph.read(model))
    assert found.network == {"backbone", "head"}
    assert found.after == {"tail_softmax", "tail_sum"}


# -- transformers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformer() -> bytes:
    """A BERT of two layers, as the exporter writes it."""
    import torch
    from transformers import BertConfig, BertModel

    from shared.training.export import export

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            config = BertConfig(
                vocab_size=200, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
            )
            config._attn_implementation = "eager"
            self.net = BertModel(config, add_pooling_layer=False).eval()
            for name, parameter in self.net.named_parameters():
                if name.endswith("bias"):  # zeros would be optimised away
                    torch.nn.init.normal_(parameter, std=0.1)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.net(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.ones(2, 7, dtype=torch.int64)
    both = {0: "batch", 1: "tokens"}
    return export(
        Encoder().eval(),
        {"input_ids": ids, "attention_mask": ids},
        ["hidden"],
        {"input_ids": both, "attention_mask": both},
    )


def tokens() -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, 200, (3, 9))
    mask = np.ones((3, 9), dtype=np.int64)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.slow
def test_attention_is_fused_and_answers_alike(transformer):
    clean = graph.clean(transformer)
    assert graph.is_transformer(graph.read(clean))
    fused = attention.fuse(clean)
    assert kinds(fused).count("Attention") == 2
    assert kinds(fused).count("Gelu") == 2
    assert "Softmax" not in kinds(fused)
    counted = tokens()["attention_mask"].astype(bool)  # what padding answers is nobody's business
    wanted, got = (run_model(each, tokens())["hidden"][counted] for each in (transformer, fused))
    assert np.abs(got - wanted).max() < 1e-4


@pytest.mark.slow
def test_dynamic_int8_is_for_transformers(transformer):
    from shared.compression import quantise
    from shared.compression.targets import TARGETS

    small = quantise.dynamic(attention.fuse(graph.clean(transformer)), TARGETS["x86"])
    assert len(small) < 0.4 * len(transformer)
    counted = tokens()["attention_mask"].astype(bool)
    wanted, got = (run_model(each, tokens())["hidden"][counted] for each in (transformer, small))
    cosine = (wanted * got).sum(-1) / np.linalg.norm(wanted, axis=-1) / np.linalg.norm(got, axis=-1)
    assert cosine.min() > 0.99


def test_short_names_change_nothing_and_tell_computed_constants_still():
    model = graph.clean(blurred())
    small = graph.shortened(model)
    tensors = graph.read(small).graph.initializer
    assert [node.name for node in graph.read(small).graph.node] == [node.name for node in graph.read(model).graph.node]
    assert all(len(tensor.name.removesuffix(graph.FIXED)) <= 3 for tensor in tensors)
    assert sum(tensor.name.endswith(graph.FIXED) for tensor in tensors) == 2
    x = np.random.default_rng(0).normal(size=(1, 1, 10, 12)).astype(np.float32)
    assert np.allclose(run_model(small, {"x": x})["y"], run_model(model, {"x": x})["y"], atol=1e-6)
