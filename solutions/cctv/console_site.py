"""The site file as the console changes it: zones, lines and private areas of one camera, drawn on its picture.

The file belongs to the people who wrote it, so that only the sections that changed are written anew and every comment
elsewhere stays. The new text is read back as any site file is; where it does not say exactly what was drawn (flow
style, aliases and the like), the whole file is written anew, which the answer says, since its comments are lost then.
A version, the file's fingerprint, keeps two people from undoing each other's work.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from shared.errors import BadInput
from shared.files import write_bytes
from shared.serving.errors import NotFound, Refusal
from shared.yaml_files import Mistakes, parse, validate
from solutions.cctv.config import Camera, Site

SECTIONS = ("zones", "lines", "private")
DIGITS = 4
"""Of a place in the file: a ten-thousandth of the picture is less than a pixel of a 4K camera's sub-stream."""
Places = Mapping[str, Mapping[str, list[tuple[float, float]]]]
"""Section, then name, then points."""
_INDENT = 2
_lock = threading.Lock()


class Changed(Refusal):
    """Somebody else has changed the file since it was read."""

    status = 409


@dataclass(frozen=True)
class SiteFile:
    """A site file as it was read."""

    path: Path
    content: bytes
    site: Site

    @property
    def version(self) -> str:
        """Fingerprint of the content: the start of its SHA-256 in hex."""
        return hashlib.sha256(self.content).hexdigest()[:32]


def read(path: Path) -> SiteFile:
    """Read a site file.

    Raises:
        BadInput: it cannot be read or is not valid, with every mistake.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path.name}: cannot be read ({error.strerror}); check the path and its permissions."
        ) from error
    return SiteFile(path, content, _site_of(content, path.name))


def draw(path: Path, camera: str, places: Places, version: str) -> tuple[SiteFile, bool]:
    """Replace sections of a camera's drawing in the file, in one step; sections that `places` lacks stay.

    Args:
        version: of the file that the drawing is based on.

    Returns:
        The file as it is now, and whether comments were lost: those inside a changed section, or all of them.

    Raises:
        NotFound: there is no such camera.
        Changed: the file has another version by now.
        BadInput: the drawing is not valid, such as a zone removed that a rule names.
        HaechiError: the file cannot be written.
    """
    with _lock:
        now = read(path)
        if camera not in now.site.cameras:
            raise NotFound(f"there is no camera {camera[:64]} in {path.name}.")
        if now.version != version:
            raise Changed("the site file has been changed meanwhile; load the drawing again.")
        rounded = {section: _rounded(shapes) for section, shapes in places.items()}
        before = {section: _rounded(getattr(now.site.cameras[camera], section)) for section in rounded}
        changed = {section: shapes for section, shapes in rounded.items() if shapes != before[section]}
        if not changed:
            return now, False
        document = cast(dict[str, Any], _value_of(now.content, path.name))
        document["cameras"][camera] = document["cameras"][camera] | changed
        wanted = _checked(document, path.name, camera)
        content, lost = _written(now.content, path.name, camera, changed, document, wanted)
        write_bytes(path, content)
        return SiteFile(path, content, wanted), lost


def drawing_of(camera: Camera) -> dict[str, dict[str, list[list[float]]]]:
    """Zones, lines and private areas of a camera, as JSON has them."""
    return {section: _rounded(getattr(camera, section)) for section in SECTIONS}


def _rounded(shapes: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    return {name: [[round(float(value), DIGITS) for value in point] for point in shapes[name]] for name in shapes}


def _value_of(content: bytes, shown: str) -> Any:
    mistakes = Mistakes()
    document = parse(content, shown, mistakes)
    mistakes.refuse()
    assert document is not None
    return document.value


def _site_of(content: bytes, shown: str) -> Site:
    mistakes = Mistakes()
    document = parse(content, shown, mistakes)
    site = None if document is None else validate(Site, document, (), mistakes)
    mistakes.refuse()
    assert site is not None
    return site


def _checked(document: dict[str, Any], shown: str, camera: str) -> Site:
    """The site of a document that was changed here; mistakes are the drawing's, and have no line."""
    try:
        return Site.model_validate(document)
    except ValueError as error:
        first = error.errors()[0] if hasattr(error, "errors") else {"msg": str(error)}
        what = str(first["msg"]).removeprefix("Value error, ")
        raise BadInput(f"{shown}: camera {camera}: {what}; change the drawing or the rules.") from error


def _written(
    content: bytes, shown: str, camera: str, changed: Mapping[str, Any], document: Any, wanted: Site
) -> tuple[bytes, bool]:
    """The new content, and whether comments were lost."""
    text = content.decode("utf-8-sig")
    lost = False
    for section, shapes in changed.items():
        edited = _edited(text, camera, section, shapes)
        if edited is None:
            break
        text, replaced = edited
        lost = lost or "#" in replaced  # names and numbers have none: it is a comment
    else:
        try:
            if _site_of(text.encode(), shown) == wanted:
                return text.encode(), lost
        except BadInput:
            pass  # written anew below
    anew = yaml.safe_dump(document, allow_unicode=True, sort_keys=False, default_flow_style=None, width=120).encode()
    if _site_of(anew, shown) != wanted:
        raise BadInput(f"{shown}: the drawing cannot be written into this file; write the places by hand.")
    return anew, True


# --- changing a section of the text -----------------------------------------------------------------------------------


def _edited(text: str, camera: str, section: str, shapes: Mapping[str, list[list[float]]]) -> tuple[str, str] | None:
    """The text with this section of the camera replaced, added or removed, and what stood there; None where its form
    is not understood."""
    node = _camera_node(text, camera)
    if node is None or node.flow_style or not node.value:
        return None
    block = _block(section, shapes, node.value[0][0].start_mark.column)
    for key, value in node.value:
        if key.value == section:
            start = key.start_mark.index - key.start_mark.column
            return _spliced(text, start, _end_of_line(text, _end(value)), block)
    before = next((key for key, _ in node.value if key.value == "rules"), None)
    if before is not None:
        at = before.start_mark.index - before.start_mark.column
    else:
        at = _end_of_line(text, max(_end(value) for _, value in node.value))
    return _spliced(text, at, at, block)


def _spliced(text: str, start: int, end: int, block: str) -> tuple[str, str]:
    head = text[:start]
    return head + ("\n" if head and not head.endswith("\n") else "") + block + text[end:], text[start:end]


def _block(section: str, shapes: Mapping[str, list[list[float]]], column: int) -> str:
    """The section as lines of YAML; nothing where it is empty."""
    if not shapes:
        return ""
    lines = [f"{' ' * column}{section}:\n"]
    for name, points in shapes.items():
        places = ", ".join(f"[{x!r}, {y!r}]" for x, y in points)
        lines.append(f"{' ' * (column + _INDENT)}{name}: [{places}]\n")
    return "".join(lines)


def _camera_node(text: str, camera: str) -> yaml.MappingNode | None:
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for part in ("cameras", camera):
        found = (value for key, value in node.value if key.value == part)
        node = next(found, None)
        if not isinstance(node, yaml.MappingNode):
            return None
    return cast(yaml.MappingNode, node)


def _end(node: yaml.Node) -> int:
    """Where a value ends. A block's own mark lies behind the comments that follow it, so its last part is asked."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _end_of_line(text: str, index: int) -> int:
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1
