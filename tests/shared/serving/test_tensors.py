"""Tensors between numpy, JSON and binary: what goes in comes out, and nothing false goes in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from shared.errors import BadInput
from shared.manifest import DATATYPES as DECLARED
from shared.serving import tensors

NUMERIC = [name for name in tensors.DTYPES if name != "BYTES"]
SHAPES = npst.array_shapes(max_dims=4, max_side=4)


def test_datatypes_are_those_that_a_manifest_may_declare() -> None:
    assert tensors.DTYPES.keys() == DECLARED.keys()
    assert all(tensors.DTYPES[name] == DECLARED[name] for name in DECLARED)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), datatype=st.sampled_from(NUMERIC), shape=SHAPES)
def test_numbers_go_round_in_both_forms(data: st.DataObject, datatype: str, shape: tuple[int, ...]) -> None:
    array = data.draw(npst.arrays(tensors.DTYPES[datatype], shape))
    assert tensors.datatype_of(array) == datatype
    content = tensors.to_binary(array)
    back = tensors.from_binary("x", memoryview(b"!" + content)[1:], datatype, shape)  # at an odd address
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert back.flags.aligned
    if array.dtype.kind != "f" or np.isfinite(array).all():
        text = orjson.loads(orjson.dumps(tensors.to_json(array)))
        np.testing.assert_array_equal(tensors.from_json("x", text, datatype, shape, 8), array)


@settings(max_examples=100, deadline=None)
@given(items=st.lists(st.binary(max_size=20), min_size=1, max_size=6))
def test_bytes_go_round(items: list[bytes]) -> None:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    content = tensors.to_binary(array)
    back = tensors.from_binary("x", memoryview(content), "BYTES", (len(items),))
    assert back.tolist() == items
    for cut in range(len(content)):
        with pytest.raises(BadInput):
            tensors.from_binary("x", memoryview(content[:cut]), "BYTES", (len(items),))


@settings(max_examples=100, deadline=None)
@given(items=st.lists(st.text(max_size=20), min_size=1, max_size=6))
def test_text_goes_round_in_json(items: list[str]) -> None:
    array = tensors.from_json("x", items, "BYTES", (len(items),), 8)
    assert tensors.to_json(array) == items
    assert tensors.to_json(np.array(items, dtype=object)) == items  # as ONNX Runtime gives text


def test_bytes_that_are_no_text_must_leave_in_binary() -> None:
    with pytest.raises(BadInput, match="binary_data"):
        tensors.to_json(np.array([b"\xff"], dtype=object))


@pytest.mark.parametrize("datatype", [name for name in NUMERIC if tensors.DTYPES[name].kind in "iu"])
def test_whole_numbers_out_of_range_are_refused(datatype: str) -> None:
    bounds = np.iinfo(tensors.DTYPES[datatype])
    assert tensors.from_json("x", [int(bounds.max)], datatype, (1,), 8)[0] == bounds.max
    assert tensors.from_json("x", [int(bounds.min)], datatype, (1,), 8)[0] == bounds.min
    for value in (int(bounds.max) + 1, int(bounds.min) - 1):
        with pytest.raises(BadInput, match="range"):
            tensors.from_json("x", [value], datatype, (1,), 8)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP32", [3.5e38]), ("FP16", [70000]), ("FP32", [True]), ("FP32", ["1"]), ("FP32", [None]), ("INT32", [1.0]),
        ("INT32", [True]), ("BOOL", [1]), ("BOOL", ["true"]), ("BYTES", [1]), ("BYTES", [None]), ("UINT8", [[1], 2]),
        ("UINT8", [[[[[1]]]]]), ("UINT8", {}), ("UINT8", "1"), ("UINT8", None), ("UINT8", []), ("UINT8", [1, 2]),
        ("UINT8", [{}]),
    ],
)  # fmt: skip
def test_json_of_another_kind_is_refused(datatype: str, data: Any) -> None:
    with pytest.raises(BadInput, match=r"^input a: .*\.$"):
        tensors.from_json("input a", data, datatype, (1,), 4)


@settings(max_examples=200, deadline=None)
@given(
    shape=st.one_of(
        st.lists(st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=2)), max_size=5),
        st.integers(),
        st.none(),
        st.text(max_size=3),
    ),
    datatype=st.sampled_from(list(tensors.DTYPES)),
)
def test_shapes_are_taken_only_when_they_fit_the_limit(shape: Any, datatype: str) -> None:
    try:
        taken = tensors.check_shape("x", shape, datatype, 1000)
    except BadInput:
        return
    assert all(type(extent) is int and extent >= 0 for extent in taken)
    assert (
        math.prod(extent or 1 for extent in taken) * (4 if datatype == "BYTES" else tensors.DTYPES[datatype].itemsize)
        <= 1000
    )


def test_empty_tensors_cannot_claim_extents_that_nothing_could_hold() -> None:
    assert tensors.check_shape("x", [0, 100], "FP32", 1000) == (0, 100)
    assert tensors.from_json("x", [], "INT8", (0, 3), 8).shape == (0, 3)
    assert tensors.from_binary("x", memoryview(b""), "BYTES", (2, 0)).shape == (2, 0)
    for shape in ([0, 1 << 62], [1 << 62, 0, 1 << 62]):
        with pytest.raises(BadInput, match="limit"):
            tensors.check_shape("x", shape, "FP32", 1000)


def test_true_is_one_in_memory_whatever_byte_it_came_as() -> None:
    array = tensors.from_binary("x", memoryview(b"\x00\x01\x02\xff"), "BOOL", (4,))
    assert array.view(np.uint8).tolist() == [0, 1, 1, 1]


def test_other_byte_orders_and_layouts_leave_as_the_protocol_wants() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    assert tensors.datatype_of(array) == "INT32"
    assert tensors.to_binary(array) == np.array([0, 3, 1, 4, 2, 5], dtype="<i4").tobytes()
    assert tensors.to_json(array) == [0, 3, 1, 4, 2, 5]
    with pytest.raises(TypeError):
        tensors.datatype_of(np.zeros(1, dtype=np.complex64))
