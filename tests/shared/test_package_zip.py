"""Zipped packages from hostile hands: bombs, names that lead elsewhere, links, encryption; and plain damage."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shared import archive
from shared.errors import PackageRefused
from shared.package import open_package
from tests.shared.packages import make_package


def zip_of(*entries: tuple[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None) -> bytes:
    """A zip of entries in order; `change` edits each one's header."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in entries:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            if change:
                change(entry)
            made.writestr(entry, content)
    return buffer.getvalue()


def read(content: bytes) -> dict[str, bytes]:
    return archive.read_zip(io.BytesIO(content), len(content), "p.zip")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil", r"leads out of the package"),
        ("assets/../../evil", r"leads out of the package"),
        ("/etc/passwd", r"absolute path"),
        ("C:/evil", r"backslash, a colon"),
        ("assets\\evil", r"backslash"),
        ("assets/a\0.txt", r"NUL"),
        ("assets/./a", r"begins with a dot"),
        ("assets//a", r"not made of letters"),
        ("assets/a\n", r"not made of letters"),
        ("assets/ａ", r"not made of letters"),
        ("a/" * 8 + "b", r"more than 8 folders deep"),
        ("a" * 241, r"longer than 240"),
        ("NUL.txt", r"not made of letters"),
    ],
)
def test_unsafe_names_are_refused(name: str, reason: str) -> None:
    # ZipInfo cuts names at a NUL, so that one is put into the finished file.
    content = zip_of((name.replace("\0", "\1"), b"")).replace(name.replace("\0", "\1").encode(), name.encode())
    with pytest.raises(PackageRefused, match=reason):
        read(content)


def test_folder_entry_that_leads_out_is_refused() -> None:
    with pytest.raises(PackageRefused, match="the folder name"):
        read(zip_of(("../", b"")))


@pytest.mark.parametrize("names", [("a.txt", "a.txt"), ("a.txt", "A.TXT")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_names_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(PackageRefused, match="twice"):
        read(zip_of((names[0], b"1"), (names[1], b"2")))


@pytest.mark.parametrize(
    ("mode", "reason"), [(stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "plain file"), (stat.S_IFCHR, "plain file")]
)
def test_links_and_devices_are_refused(mode: int, reason: str) -> None:
    def change(entry: zipfile.ZipInfo) -> None:
        entry.external_attr = (mode | 0o777) << 16

    with pytest.raises(PackageRefused, match=reason):
        read(zip_of(("assets/link", b"/etc/passwd"), change=change))


def test_encrypted_entries_are_refused() -> None:
    content = bytearray(zip_of(("a.txt", b"secret")))
    for marker, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(marker) + offset] |= 1
    with pytest.raises(PackageRefused, match="encrypted"):
        read(bytes(content))


def test_unusual_compression_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as made:
        made.writestr("a.txt", b"a")
    with pytest.raises(PackageRefused, match="unusual way"):
        read(buffer.getvalue())


def test_folder_with_content_is_refused() -> None:
    with pytest.raises(PackageRefused, match="has content"):
        read(zip_of(("assets/", b"content")))


def test_bomb_by_ratio_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """120 MB of zeros in 120 kB: over 64 MiB, each byte of the zip may become 200."""
    content = zip_of(("model.onnx", bytes(120_000_000)))
    assert len(content) < 200_000
    with pytest.raises(PackageRefused, match=r"zip bomb\?.*model\.onnx"):
        read(content)
    monkeypatch.setattr(archive, "MAX_RATIO", 1000)
    assert len(read(content)["model.onnx"]) == 120_000_000


def test_bomb_by_total_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 1000)
    assert read(zip_of(("a", bytes(500)), ("b", bytes(500)))).keys() == {"a", "b"}
    with pytest.raises(PackageRefused, match="zip bomb"):
        read(zip_of(("a", bytes(500)), ("b", bytes(501))))


def test_total_size_binds_folders_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_package(tmp_path / "p")
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 1000)
    with pytest.raises(PackageRefused, match="larger than its size allows"):
        open_package(path)


@pytest.mark.parametrize("claimed", [0, 10, 2**31])
def test_sizes_in_headers_are_not_believed(claimed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both headers say another size than what unpacks; memory and result must not follow them."""
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 100_000)
    content = bytearray(zip_of(("a.txt", bytes(200_000))))
    for marker, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = content.index(marker) + offset
        content[start : start + 4] = claimed.to_bytes(4, "little")
    with pytest.raises(PackageRefused):
        read(bytes(content))


def test_many_entries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    assert len(read(zip_of(*((f"f{i}", b"") for i in range(3))))) == 3
    with pytest.raises(PackageRefused, match="more than 3 files"):
        read(zip_of(*((f"f{i}", b"") for i in range(4))))


def test_many_files_in_a_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_package(tmp_path / "p", assets={"a": b"", "b": b""})
    monkeypatch.setattr(archive, "MAX_ENTRIES", 5)
    with pytest.raises(PackageRefused, match="more than 5 files"):
        open_package(path)


def test_golden_samples_are_a_zip_too_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FREE_BYTES", 1000)
    with pytest.raises(PackageRefused, match="zip bomb"):
        archive.read_arrays(zip_of(("image.npy", bytes(10_000_000))), "golden")


@pytest.mark.parametrize("keep", [0, 1, 20, 1000, -1])
def test_truncated_zip_is_refused(tmp_path: Path, keep: int) -> None:
    path = make_package(tmp_path / "p.zip")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PackageRefused, match=r"p\.zip is refused: it is not a sound zip"):
        open_package(path)


def test_nothing_is_written_while_reading(tmp_path: Path) -> None:
    path = make_package(tmp_path / "in" / "p.zip")
    open_package(path)
    assert [child.name for child in (tmp_path / "in").iterdir()] == ["p.zip"]
