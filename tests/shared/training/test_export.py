"""The exporter: names and sizes are what was asked for, and the file computes what the module computes."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from shared.training.export import OPSET, Session, export


class Words(nn.Module):
    """Its operator, and so the tensor inside the graph, is called `embedding` as well."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.table(ids)
        return rows.mean(dim=1), rows.sum(dim=(1, 2))


def test_an_output_may_have_the_name_of_an_operator_inside(caplog: pytest.LogCaptureFixture) -> None:
    module = Words().eval()
    ids = torch.randint(0, 50, (2, 5))
    with caplog.at_level(logging.INFO):
        content = export(module, {"ids": ids}, ["embedding", "total"], {"ids": {0: "batch", 1: "sequence"}})
    assert caplog.messages == [], "the exporter's remarks to its developers are not for people who train"
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [output.name for output in model.graph.output] == ["embedding", "total"]
    assert model.opset_import[0].version == OPSET
    other = torch.randint(0, 50, (3, 7))  # both dimensions are free
    got = Session(content, threads=1).run({"ids": other.numpy()})
    with torch.inference_mode():
        embedding, total = module(other)
    np.testing.assert_allclose(got["embedding"], embedding, atol=1e-6)
    np.testing.assert_allclose(got["total"], total, atol=1e-5)
