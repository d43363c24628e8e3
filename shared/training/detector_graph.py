"""A detector's whole inference as one ONNX graph: picture of any size in, boxes in that picture's pixels out.

    image uint8 [N, H, W, 3]
      → letterbox: antialiased resize to a longer side of S, grey to a square, scaled to 0..1     [N, 3, S, S]
      → the network with its decoding, as torch exported it    predictions [N, A, 4 + C + E], in pixels of the square
      → the surest anchors, non-maximum suppression in each class, the surest K of what is left
      → back to the picture: boxes [N, K, 4], scores [N, K] (0: nothing), classes [N, K], and masks or keypoints

What comes before and after is written in ONNX's text form, so that it can be read; the three are joined here.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import onnx.checker
import onnx.compose
import onnx.parser
import onnx.shape_inference

from shared.training.export import OPSET

NETWORK = "network/"
"""Before the names of everything in the exported network."""
_RESIZE = 'mode = "linear", coordinate_transformation_mode = "half_pixel", antialias = 1, exclude_outside = 1'
"""As torch and Pillow resize. Without the last word pixels at the edge differ by up to 12 of 255."""
GREY = 114
"""The brightness around a letterboxed picture, 0 to 255, as in YOLO since its third version."""


@dataclass(frozen=True)
class Head:
    """What the network gives, and what is to be kept of it."""

    side: int
    """S, pixels of the square."""
    anchors: int
    classes: int
    extra: int = 0
    """E: numbers behind the class scores, one for each mask prototype or each coordinate of a keypoint."""
    suppress: bool = True
    """Whether boxes overlap and must be thinned out; not for heads that are trained to say each thing once."""
    overlap: float = 0.7
    """IoU above which the less sure of two boxes of a class goes."""
    least_score: float = 0.01
    detections: int = 100
    """K"""
    candidates: int = 1000
    """Anchors that go into the suppression, the surest ones: its cost grows with their square."""
    prototypes: int = 0
    """Pixels a side of the mask prototypes; 0: no masks."""
    keypoints: tuple[int, int] | None = None
    """(P, 2 or 3)"""

    @property
    def kept(self) -> int:
        """K, or less where the network has fewer answers."""
        return min(self.detections, self.chosen * self.classes)

    @property
    def chosen(self) -> int:
        return min(self.candidates, self.anchors)


def compose(core: bytes, head: Head) -> bytes:
    """The whole graph around an exported network.

    Args:
        core: takes `pixels` FP32 [N, 3, S, S], gives `predictions` FP32 [N, A, 4 + C + E] (left, top, right, bottom;
            class probabilities; more) and, for masks, `prototypes` FP32 [N, E, h, h].
    """
    network = onnx.compose.add_prefix(onnx.load_from_string(core), NETWORK)
    before, after = _parse(_letterbox(head.side), network), _parse(_detections(head), network)
    joined = onnx.compose.merge_models(before, network, [("pixels", NETWORK + "pixels")])
    links = [("geometry", "geometry"), (NETWORK + "predictions", "predictions")]
    if head.prototypes:
        links.append((NETWORK + "prototypes", "prototypes"))
    return _checked(onnx.compose.merge_models(joined, after, links))


def whole_picture(core: bytes, side: int) -> bytes:
    """The graph of a classifier: the whole picture, resized to the square, whatever its shape.

    Args:
        core: takes `pixels` FP32 [N, 3, S, S] from 0 to 1.
    """
    network = onnx.compose.add_prefix(onnx.load_from_string(core), NETWORK)
    joined = onnx.compose.merge_models(_parse(_square(side), network), network, [("pixels", NETWORK + "pixels")])
    names = {value.name: value.name.removeprefix(NETWORK) for value in joined.graph.output}
    for node in joined.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in joined.graph.output:
        value.name = names[value.name]
    return _checked(joined)


def with_outputs(model: bytes, names: list[str]) -> bytes:
    """The same graph with inner FP32 tensors among its outputs, to be compared before they are thinned out."""
    proto = onnx.load_from_string(model)
    for name in names:
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return bytes(proto.SerializeToString())


def _parse(text: str, like: onnx.ModelProto) -> onnx.ModelProto:
    header = f'<ir_version: {like.ir_version}, opset_import: ["" : {OPSET}]>\n'
    return onnx.parser.parse_model(header + text)


def _checked(model: onnx.ModelProto) -> bytes:
    onnx.checker.check_model(model, full_check=True)
    del model.graph.value_info[:]  # as inferred for the parts; the runtime infers them for the whole
    return bytes(model.SerializeToString())


def _square(side: int) -> str:
    return f"""square (uint8[N, H, W, 3] image) => (float[N, 3, {side}, {side}] pixels)
<int64[2] square_size = {{{side}, {side}}}, float full = {{255}}>
{{
    planes = Transpose <perm = [0, 3, 1, 2]> (image)
    bright = Cast <to = 1> (planes)
    batch = Shape <start = 0, end = 2> (bright)
    size = Concat <axis = 0> (batch, square_size)
    resized = Resize <{_RESIZE}> (bright, , , size)
    pixels = Div (resized, full)
}}"""


def _letterbox(side: int) -> str:
    """`geometry` holds the scale and the first column and row of the picture in the square."""
    return f"""letterbox (uint8[N, H, W, 3] image)
    => (float[N, 3, {side}, {side}] pixels, float[5] geometry)
<float[1] square_side = {{{side}}}, int64[2] square_size = {{{side}, {side}}}, int64[2] none = {{0, 0}},
 float half = {{0.5}}, float one = {{1}}, int64 two = {{2}}, float full = {{255}}, float grey = {{{GREY / 255}}},
 int64[2] across_down = {{1, 0}}, int64[4] shape = {{0, 3, {side}, {side}}}>
{{
    planes = Transpose <perm = [0, 3, 1, 2]> (image)
    bright = Cast <to = 1> (planes)
    whole_size = Shape <start = 2, end = 4> (bright)
    whole = Cast <to = 1> (whole_size)
    longer = ReduceMax <keepdims = 1> (whole)
    scale = Div (square_side, longer)
    scaled = Mul (whole, scale)
    raised = Add (scaled, half)
    rounded = Floor (raised)
    at_least = Max (rounded, one)
    inner = Cast <to = 7> (at_least)
    batch = Shape <start = 0, end = 2> (bright)
    size = Concat <axis = 0> (batch, inner)
    resized = Resize <{_RESIZE}> (bright, , , size)
    normal = Div (resized, full)
    spare = Sub (square_size, inner)
    first = Div (spare, two)
    last = Sub (spare, first)
    edges = Concat <axis = 0> (none, first, none, last)
    padded = Pad <mode = "constant"> (normal, edges, grey)
    pixels = Reshape (padded, shape)
    first_xy = Gather <axis = 0> (first, across_down)
    offset = Cast <to = 1> (first_xy)
    whole_xy = Gather <axis = 0> (whole, across_down)
    geometry = Concat <axis = 0> (scale, offset, whole_xy)
}}"""


def _detections(head: Head) -> str:
    chosen, kept = head.chosen, head.kept
    inputs = f"float[N, {head.anchors}, {4 + head.classes + head.extra}] predictions, float[5] geometry"
    outputs = f"float[N, {kept}, 4] boxes, float[N, {kept}] scores, int64[N, {kept}] classes"
    if head.prototypes:
        inputs += f", float[N, {head.extra}, {head.prototypes}, {head.prototypes}] prototypes"
        outputs += f", float[N, {kept}, {head.prototypes}, {head.prototypes}] masks"
    if head.keypoints:
        outputs += f", float[N, {kept}, {head.keypoints[0]}, 3] keypoints"
    parts = f"{head.classes}, {head.extra}" if head.extra else f"{head.classes}"
    return f"""detections ({inputs}) => ({outputs})
<int64[1] chosen = {{{chosen}}}, int64[1] kept = {{{kept}}}, int64 row = {{{chosen}}},
 int64[{3 if head.extra else 2}] widths = {{4, {parts}}},
 float least = {{{head.least_score}}}, float overlap = {{{head.overlap}}}, int64[1] most = {{{kept}}},
 float zero = {{0}}, int64[2] flat = {{0, -1}}, int64[1] axis2 = {{2}}, int64[1] zoom_at = {{0}},
 int64[4] twice = {{1, 2, 1, 2}}, int64[4] corners = {{3, 4, 3, 4}}{_constants(head)}>
{{
    all_boxes, all_scores{", all_extra" if head.extra else ""} = Split <axis = 2> (predictions, widths)
    surest = ReduceMax <keepdims = 0> (all_scores, axis2)
    surest_scores, surest_index = TopK <axis = 1> (surest, chosen)
    pick = Unsqueeze (surest_index, axis2)
    some_boxes = GatherND <batch_dims = 1> (all_boxes, pick)
    some_scores = GatherND <batch_dims = 1> (all_scores, pick)
    by_class = Transpose <perm = [0, 2, 1]> (some_scores)
    {_suppression(head.suppress)}
    every = Reshape (left, flat)
    scores, place = TopK <axis = 1> (every, kept)
    number = Div (place, row)
    start = Mul (number, row)
    anchor = Sub (place, start)
    keep = Unsqueeze (anchor, axis2)
    square_boxes = GatherND <batch_dims = 1> (some_boxes, keep)
    there = Greater (scores, zero)
    there_column = Unsqueeze (there, axis2)
    zero_class = Sub (number, number)
    classes = Where (there, number, zero_class)
    zoom = Gather <axis = 0> (geometry, zoom_at)
    shift = Gather <axis = 0> (geometry, twice)
    edge = Gather <axis = 0> (geometry, corners)
    moved = Sub (square_boxes, shift)
    grown = Div (moved, zoom)
    within = Min (grown, edge)
    inside = Max (within, zero)
    boxes = Where (there_column, inside, zero)
    {_extra(head)}
}}"""


def _suppression(suppress: bool) -> str:
    """`left` [N, C, candidates]: the scores of what stays, 0 for the rest."""
    if not suppress:
        return """enough = Greater (by_class, least)
    left = Where (enough, by_class, zero)"""
    return """selected = NonMaxSuppression (some_boxes, by_class, most, overlap, least)
    nothing = Mul (by_class, zero)
    selected_scores = GatherND (by_class, selected)
    left = ScatterND (nothing, selected, selected_scores)"""


def _constants(head: Head) -> str:
    if head.prototypes:
        side = head.prototypes
        steps = ", ".join(str(index + 0.5) for index in range(side))
        return (
            f",\n int64[3] prototype_rows = {{0, 0, -1}}, int64[4] mask_shape = {{0, 0, {side}, {side}}},"
            f" float[{side}] columns = {{{steps}}}, float[{side}, 1] rows = {{{steps}}},"
            f" float shrink = {{{head.side / side}}}, int64[1] axis3 = {{3}}"
        )
    if head.keypoints:
        points, width = head.keypoints
        return (
            f",\n int64[4] point_shape = {{0, 0, {points}, {width}}}, int64[2] once = {{1, 2}}, int64[1] axis3 = {{3}},"
            f" int64[{2 if width == 3 else 1}] point_widths = {{{'2, 1' if width == 3 else '2'}}}, float sure = {{1}}"
        )
    return ""


def _extra(head: Head) -> str:
    """Masks or keypoints of what was kept."""
    if not head.extra:
        return ""
    text = """some_extra = GatherND <batch_dims = 1> (all_extra, pick)
    extra = GatherND <batch_dims = 1> (some_extra, keep)
"""
    if head.prototypes:
        # Outside its box a mask is noise that the network was never asked about.
        text += """    prototype_lines = Reshape (prototypes, prototype_rows)
    mask_lines = MatMul (extra, prototype_lines)
    mask_shares = Sigmoid (mask_lines)
    mask_squares = Reshape (mask_shares, mask_shape)
    mask_boxes = Div (square_boxes, shrink)
    mask_corners = Unsqueeze (mask_boxes, axis3)
    left_edge, top_edge, right_edge, bottom_edge = Split <axis = 2, num_outputs = 4> (mask_corners)
    from_left = GreaterOrEqual (columns, left_edge)
    to_right = LessOrEqual (columns, right_edge)
    from_top = GreaterOrEqual (rows, top_edge)
    to_bottom = LessOrEqual (rows, bottom_edge)
    in_columns = And (from_left, to_right)
    in_rows = And (from_top, to_bottom)
    in_box = And (in_columns, in_rows)
    there_square = Unsqueeze (there_column, axis3)
    in_mask = And (in_box, there_square)
    masks = Where (in_mask, mask_squares, zero)"""
    elif head.keypoints:
        split = "place_xy, visible = Split <axis = 3> (points, point_widths)"
        if head.keypoints[1] == 2:
            # A constant that has the shape of the others.
            split = """place_xy = Identity (points)
    visible_rows = ReduceMax <keepdims = 1> (points, axis3)
    no_rows = Mul (visible_rows, zero)
    visible = Add (no_rows, sure)"""
        text += f"""    points = Reshape (extra, point_shape)
    {split}
    point_shift = Gather <axis = 0> (geometry, once)
    moved_xy = Sub (place_xy, point_shift)
    picture_xy = Div (moved_xy, zoom)
    marked = Concat <axis = 3> (picture_xy, visible)
    there_point = Unsqueeze (there_column, axis3)
    keypoints = Where (there_point, marked, zero)"""
    return text
