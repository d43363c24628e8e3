"""A foreign network becomes a detector of ours: picture of any size in, boxes in that picture's pixels out.

Before the network comes what it expects of a picture, behind it its head's decoding and the suppression; both are
written in ONNX's text form (`shared.detectors.heads` has the heads) and joined here. The network itself is brought to
the operator set of our own exports and, where it was exported for one picture at a time, to batches of any size; after
each change it must answer as before.

Needs the onnx library, which the extra `training` brings; nothing that runs packages imports this.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.detectors.heads import GREY, Decoding, Seeing, Thinning
from shared.errors import BadInput, HaechiError
from shared.runtime import onnxruntime

OPSET = 18
"""As in `shared.training.export`."""
NETWORK = "network/"
"""Before the names of everything in the foreign network."""
LARGEST = 512 * 1024 * 1024
"""Bytes: above it is no detector for a camera, and near 2 GiB protobuf ends."""
_SAME = 1e-4
"""How far answers may move, over the largest one, when the network is rewritten."""


def onnx_library() -> types.ModuleType:
    """The onnx module with its parts.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import onnx
        import onnx.checker
        import onnx.compose
        import onnx.numpy_helper
        import onnx.parser
        import onnx.version_converter
    except ImportError as error:
        raise BadInput(
            "importing a model needs the onnx library; install it with: pip install 'haechi[training]'."
        ) from error
    return onnx


@dataclass(frozen=True)
class Network:
    """A network that was read and runs."""

    proto: Any
    """onnx.ModelProto of `OPSET`"""
    input: str
    size: tuple[int, int]
    """Height and width of its pictures."""
    batches: bool
    """Whether it takes more than one picture at a time."""

    def run(self, pixels: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Its answer to FP32 [N, 3, h, w]."""
        return run(self.proto.SerializeToString(), {self.input: pixels})


def read_network(path: Path) -> Network:
    """A detector's network from an ONNX file.

    Raises:
        BadInput: no ONNX file, too large, weights outside, not one picture of fixed size as its input, or of operators
            that cannot be run here; one sentence names the file and the mend.
    """
    onnx = onnx_library()
    try:
        if path.stat().st_size > LARGEST:
            raise BadInput(f"{path} has more than {LARGEST >> 20} MiB; export a smaller network.")
        proto = onnx.load_from_string(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}.") from error
    except BadInput:
        raise
    except Exception as error:  # protobuf's errors have no common base that is public
        raise BadInput(f"{path} is not an ONNX file, or is damaged; export it again.") from error
    if not proto.graph.node or not proto.graph.output:
        raise BadInput(f"{path} is not an ONNX file, or is damaged; export it again.")
    _refuse_outside_weights(proto, path)
    return _rewritten(_plain(proto), path)


def session(model: bytes) -> Callable[[Mapping[str, np.ndarray]], dict[str, Any]]:
    """An ONNX model on one thread of the CPU: takes inputs by name, gives all outputs.

    Raises:
        HaechiError: ONNX Runtime cannot load it; when called, that it cannot run it.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(Path(os.devnull) / "none")
    )

    def answer(inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        try:
            return dict(zip(names, loaded.run(names, dict(inputs)), strict=True))
        except Exception as error:  # ONNX Runtime's have no common base below Exception
            raise _failed(error) from error

    try:
        loaded = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _failed(error) from error
    names = [node.name for node in loaded.get_outputs()]
    return answer


def run(model: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`session`, once."""
    return session(model)(inputs)


def _failed(error: Exception) -> HaechiError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return HaechiError(lines[0].split(" : ")[-1][:200].rstrip(". "))


def ordinary_picture(size: tuple[int, int]) -> NDArray[np.float32]:
    """FP32 [1, 3, h, w] from 0 to 255: soft structure, the same every time."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(rows / (7 + 5 * i)) * np.cos(columns / (11 + 3 * i)) for i in range(3)]
    return ((np.stack(waves) + 1) * 127.5).astype(np.float32)[None]


def compose(network: Network, seeing: Seeing, decoding: Decoding, thinning: Thinning) -> bytes:
    """The whole graph: `image` UINT8 [N, H, W, 3] (RGB) in; `boxes`, `scores`, `classes` out."""
    onnx = onnx_library()
    inner = onnx.compose.add_prefix(network.proto, NETWORK)
    before = _parse(_before(seeing, network.size), inner)
    after = _parse(_after(decoding, thinning), inner)
    for name, value in decoding.constants.items():
        after.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
    joined = onnx.compose.merge_models(before, inner, [("pixels", NETWORK + network.input)])
    links = [(NETWORK + name, f"part{index}") for index, name in enumerate(decoding.outputs)]
    links += [(name, name) for name in ("zoom", "shift_by", "edge")]
    joined = onnx.compose.merge_models(joined, after, links)
    del joined.graph.value_info[:]
    wanted = ("boxes", "scores", "classes")
    kept = {value.name: value for value in joined.graph.output}
    del joined.graph.output[:]
    joined.graph.output.extend(kept[name] for name in wanted)
    onnx.checker.check_model(joined, full_check=True)
    return bytes(joined.SerializeToString())


def _refuse_outside_weights(proto: Any, path: Path) -> None:
    """Also those of constants and of branches: a package is one file, and nothing may make a model read others."""

    def tensors(graph: Any) -> Any:
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                for inner in (attribute.g, *attribute.graphs):
                    yield from tensors(inner) if inner.node else ()

    if any(tensor.external_data or tensor.data_location == 1 for tensor in tensors(proto.graph)):
        raise BadInput(f"{path} keeps its weights in other files; export it again with the weights inside.")


def _plain(proto: Any) -> Any:
    """Weights are no inputs, as they were until IR version 4."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return proto


def _rewritten(proto: Any, path: Path) -> Network:
    onnx = onnx_library()
    if len(proto.graph.input) != 1:
        raise BadInput(
            f"{path} has {len(proto.graph.input)} inputs, and a detector takes one, the picture; export it without "
            "post-processing."
        )
    value = proto.graph.input[0]
    shape = [each.dim_value for each in value.type.tensor_type.shape.dim]
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT or len(shape) != 4 or shape[1] != 3:
        raise BadInput(f"{path}: its input {value.name} is not FP32 of shape [N, 3, height, width]; export it so.")
    size = (shape[2], shape[3])
    if not all(32 <= length <= 4096 for length in size):
        raise BadInput(f"{path}: its input {value.name} has no fixed size from 32 to 4096 pixels; export it with one.")
    picture = ordinary_picture(size)
    try:
        wanted = run(proto.SerializeToString(), {value.name: picture})
    except HaechiError as error:
        raise BadInput(f"{path} cannot be run here: {error}; export it again for ONNX Runtime.") from error
    _refuse_unlike(wanted, path)
    newer = _of_our_opset(proto, wanted, picture, path)
    freed = _freed(newer, picture)
    return Network(freed if freed is not None else newer, value.name, size, freed is not None)


def _refuse_unlike(found: Mapping[str, Any], path: Path) -> None:
    for name, array in found.items():
        if getattr(array, "dtype", None) != np.float32 or not np.isfinite(array).all():
            raise BadInput(f"{path}: its output {name} is not finite FP32; export it without post-processing, in FP32.")


def _of_our_opset(proto: Any, wanted: Mapping[str, Any], picture: np.ndarray, path: Path) -> Any:
    onnx = onnx_library()
    versions = [each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")]
    name = proto.graph.input[0].name
    try:
        newer = proto if versions == [OPSET] else onnx.version_converter.convert_version(proto, OPSET)
        found = run(newer.SerializeToString(), {name: picture})
    except Exception as error:  # the converter raises what it likes
        raise BadInput(
            f"{path} is of ONNX operator set {max(versions, default=0)} and cannot be brought to {OPSET}; export it "
            f"with opset {OPSET}."
        ) from error
    if not _same(wanted, found):
        raise BadInput(f"{path} answers otherwise in operator set {OPSET}; export it with opset {OPSET}.")
    return newer


def _same(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    return all(
        found[name].shape == array.shape
        and float(np.abs(found[name] - array).max(initial=0)) <= _SAME * max(1.0, float(np.abs(array).max(initial=0)))
        for name, array in wanted.items()
    )


def _freed(proto: Any, picture: NDArray[np.float32]) -> Any | None:
    """The same network for batches of any size, or None where it cannot be had.

    What ties an export to one picture are shapes written out in Reshape; their leading 1 becomes a 0, "as it was".
    """
    onnx = onnx_library()
    freed = onnx.ModelProto()
    freed.CopyFrom(proto)
    graph = freed.graph
    name = graph.input[0].name
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del graph.value_info[:]
    weights = {tensor.name: tensor for tensor in graph.initializer}
    made = {node.output[0]: node for node in graph.node if node.op_type == "Constant"}
    loose = {}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[0] in weights or node.input[0] in made:
            continue
        source = weights.get(node.input[1]) or next(
            (each.t for each in getattr(made.get(node.input[1]), "attribute", ()) if each.name == "value"), None
        )
        shape = None if source is None else onnx.numpy_helper.to_array(source)
        if shape is not None and shape.size and shape[0] == 1:
            node.input[1] = f"{node.input[1]}_loose"
            loose[node.input[1]] = np.concatenate([[0], shape[1:]]).astype(np.int64)
    graph.initializer.extend(onnx.numpy_helper.from_array(shape, key) for key, shape in loose.items())
    other = np.ascontiguousarray(picture[:, :, ::-1])
    try:
        both = run(freed.SerializeToString(), {name: np.concatenate([picture, other])})
        alone = [run(proto.SerializeToString(), {name: each}) for each in (picture, other)]
    except HaechiError:
        return None
    together = {key: np.concatenate([answer[key] for answer in alone]) for key in alone[0]}
    return freed if _same(together, both) else None


def _parse(text: str, like: Any) -> Any:
    onnx = onnx_library()
    return onnx.parser.parse_model(f'<ir_version: {like.ir_version}, opset_import: ["" : {OPSET}]>\n{text}')


def _used(constants: Mapping[str, str], body: str) -> str:
    """The declarations of those constants that occur."""
    words = set(re.findall(r"\w+", body))
    return ",\n ".join(text for name, text in constants.items() if name in words)


def _before(seeing: Seeing, size: tuple[int, int]) -> str:
    """`zoom`, `shift_by` and `edge` [4] lead back: (place - shift_by) / zoom, within 0 and edge.

    Pictures are resized as OpenCV does by default, without smoothing: all three families train on such.
    """
    height, width = size
    constants = {
        "target": f"float[2] target = {{{height}, {width}}}",
        "target_size": f"int64[2] target_size = {{{height}, {width}}}",
        "raise": f"float raise = {{{0.5 if seeing.fit == 'centre' else 0.001}}}",
        "one": "float one = {1}",
        "halves": "int64 halves = {2}",
        "channels": "int64[1] channels = {3}",
        "none": "int64[1] none = {0}",
        "corner": "int64[2] corner = {0, 0}",
        "grey": f"uint8 grey = {{{GREY:.0f}}}",
        "shape": f"int64[4] shape = {{0, {height}, {width}, 3}}",
        "backwards": "int64[3] backwards = {2, 1, 0}",
        "twice": "int64[4] twice = {1, 0, 1, 0}",
        "mean": f"float[3, 1, 1] mean = {{{', '.join(map(repr, seeing.mean))}}}",
        "std": f"float[3, 1, 1] std = {{{', '.join(map(repr, seeing.std))}}}",
    }
    first = {
        "centre": "start_at = Div (spare, halves)",
        "corner": "start_at = Identity (corner)",
        "stretch": "start_at = Identity (corner)",
    }[seeing.fit]
    inner = """scale = ReduceMin <keepdims = 1> (ratios)
    scaled = Mul (whole, scale)
    raised = Add (scaled, raise)
    floored = Floor (raised)
    at_least = Max (floored, one)
    inner = Cast <to = 7> (at_least)
    scales = Concat <axis = 0> (scale, scale)"""
    if seeing.fit == "stretch":
        inner = "inner = Identity (target_size)\n    scales = Identity (ratios)"
    body = f"""whole_size = Shape <start = 1, end = 3> (image)
    whole = Cast <to = 1> (whole_size)
    ratios = Div (target, whole)
    {inner}
    batch = Shape <start = 0, end = 1> (image)
    size = Concat <axis = 0> (batch, inner, channels)
    resized = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (image, , , size)
    spare = Sub (target_size, inner)
    {first}
    end_at = Sub (spare, start_at)
    edges = Concat <axis = 0> (none, start_at, none, none, end_at, none)
    padded = Pad <mode = "constant"> (resized, edges, grey)
    squared = Reshape (padded, shape)
    planes = Transpose <perm = [0, 3, 1, 2]> (squared)
    ordered = {"Gather <axis = 1> (planes, backwards)" if seeing.bgr else "Identity (planes)"}
    bright = Cast <to = 1> (ordered)
    {_normalised(seeing)}
    zoom = Gather <axis = 0> (scales, twice)
    start_place = Cast <to = 1> (start_at)
    shift_by = Gather <axis = 0> (start_place, twice)
    edge = Gather <axis = 0> (whole, twice)"""
    outputs = f"float[N, 3, {height}, {width}] pixels, float[4] zoom, float[4] shift_by, float[4] edge"
    return f"before (uint8[N, H, W, 3] image) => ({outputs})\n<{_used(constants, body)}>\n{{\n    {body}\n}}"


def _normalised(seeing: Seeing) -> str:
    text = "centred = Sub (bright, mean)" if any(seeing.mean) else "centred = Identity (bright)"
    plain = all(value == 1 for value in seeing.std)
    return f"{text}\n    pixels = {'Identity (centred)' if plain else 'Div (centred, std)'}"


def _after(decoding: Decoding, thinning: Thinning) -> str:
    chosen = min(thinning.candidates, decoding.anchors)
    kinds = 1 if thinning.agnostic else decoding.classes
    kept = min(thinning.detections, chosen * kinds)
    constants = {
        "part_widths": f"int64[3] part_widths = {{2, 2, {decoding.rest}}}",
        "chance_widths": f"int64[2] chance_widths = {{1, {decoding.classes}}}",
        "side_shape": "int64[4] side_shape = {0, 0, 4, -1}",
        "two": "float two = {2}",
        "zero": "float zero = {0}",
        "across_down": "int64[2] across_down = {1, 0}",
        "chosen": f"int64[1] chosen = {{{chosen}}}",
        "kept": f"int64[1] kept = {{{kept}}}",
        "row": f"int64 row = {{{chosen}}}",
        "least": f"float least = {{{thinning.least_score}}}",
        "overlap": f"float overlap = {{{thinning.overlap}}}",
        "flat": "int64[2] flat = {0, -1}",
        "axis1": "int64[1] axis1 = {1}",
        "axis2": "int64[1] axis2 = {2}",
        "axis3": "int64[1] axis3 = {3}",
    }
    body = f"""{decoding.text}
    surest = ReduceMax <keepdims = 0> (chances, axis2)
    surest_scores, surest_index = TopK <axis = 1> (surest, chosen)
    pick = Unsqueeze (surest_index, axis2)
    some_boxes = GatherND <batch_dims = 1> (places, pick)
    {_AGNOSTIC_BEFORE if thinning.agnostic else _CLASSES_BEFORE}
    selected = NonMaxSuppression (some_boxes, by_class, kept, overlap, least)
    nothing = Mul (by_class, zero)
    selected_scores = GatherND (by_class, selected)
    left = ScatterND (nothing, selected, selected_scores)
    every = Reshape (left, flat)
    scores, place = TopK <axis = 1> (every, kept)
    there = Greater (scores, zero)
    there_column = Unsqueeze (there, axis2)
    {_AGNOSTIC_AFTER if thinning.agnostic else _CLASSES_AFTER}
    zero_class = Sub (number, number)
    classes = Where (there, number, zero_class)
    keep = Unsqueeze (anchor, axis2)
    square_boxes = GatherND <batch_dims = 1> (some_boxes, keep)
    moved_back = Sub (square_boxes, shift_by)
    grown_back = Div (moved_back, zoom)
    within = Min (grown_back, edge)
    inside = Max (within, zero)
    boxes = Where (there_column, inside, zero)"""
    inputs = [f"float[N, {', '.join(map(str, shape))}] part{i}" for i, shape in enumerate(decoding.shapes)]
    inputs += ["float[4] zoom", "float[4] shift_by", "float[4] edge"]
    outputs = f"float[N, {kept}, 4] boxes, float[N, {kept}] scores, int64[N, {kept}] classes"
    return f"after ({', '.join(inputs)}) => ({outputs})\n<{_used(constants, body)}>\n{{\n    {body}\n}}"


_AGNOSTIC_BEFORE = """kind = ArgMax <axis = 2, keepdims = 0> (chances)
    some_kinds = GatherND <batch_dims = 1> (kind, pick)
    by_class = Unsqueeze (surest_scores, axis1)"""
_AGNOSTIC_AFTER = """anchor = Identity (place)
    of_kind = Unsqueeze (anchor, axis2)
    number = GatherND <batch_dims = 1> (some_kinds, of_kind)"""
_CLASSES_BEFORE = """some_scores = GatherND <batch_dims = 1> (chances, pick)
    by_class = Transpose <perm = [0, 2, 1]> (some_scores)"""
_CLASSES_AFTER = """number = Div (place, row)
    start = Mul (number, row)
    anchor = Sub (place, start)"""
