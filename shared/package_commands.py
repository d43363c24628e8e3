"""`haechi package`: show, verify, sign, import, and make and trust keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from shared.package import Package

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Show, verify and sign model packages.\n\n"
    "A package is a folder or zip that holds a model, its thresholds, what it was measured to do and what it was "
    "made from. It is checked against its own hashes before anything uses it, and against a signature once this "
    "machine trusts a key.",
)

_PACKAGE = typer.Argument(help="Package folder, zip, or registry reference such as bolts@champion.", show_default=False)
_JSON = typer.Option(None, "--json", metavar="FILE", help="Write the same there as JSON.")


@app.command()
def show(
    package: str = _PACKAGE,
    cost: bool = typer.Option(False, "--cost", help="Show parameters and multiply-adds of every layer instead."),
    against: str = typer.Option(
        "", "--against", metavar="PACKAGE", help="With --cost: another package, such as the parent, as `before`."
    ),
    json: Path | None = _JSON,
) -> None:
    """Show what a package is: interface, thresholds, metrics, lineage, licences, files and signature.

    Its hashes are checked; a signature is reported, not demanded (`verify` demands it where a key is trusted).
    """
    from shared import files
    from shared.errors import BadInput
    from shared.package import open_package
    from shared.registry import locate

    if against and not cost:
        raise BadInput("--against is for the cost table; give --cost as well.")
    opened = open_package(locate(package), public_keys=[])
    if cost:
        _show_cost(opened, open_package(locate(against), public_keys=[]) if against else None, json)
        return
    state = _signature_state(opened)
    if json is not None:
        files.write_json(json, _as_json(opened, state))
    _print_package(opened, state)


@app.command()
def verify(
    package: str = _PACKAGE,
    key: list[Path] = typer.Option([], "--key", help="Public key (.pub) that must have signed it; may be repeated."),
    self_test: bool = typer.Option(True, help="Run the model on its golden samples and compare."),
    provider: str = typer.Option("auto", help="Where the self-test runs: auto, cpu, cuda, tensorrt."),
    json: Path | None = _JSON,
) -> None:
    """Check a package fully: hashes, schema, signature, and that the model computes here what it computed at home.

    The keys are those this machine trusts, or the ones given with --key. Exit code 0: sound; 1: refused, and why.
    """
    from shared import files, runtime
    from shared.errors import PackageRefused
    from shared.package import open_package
    from shared.registry import locate

    path = locate(package)
    result: dict[str, Any] = {"package": str(path), "verified": False}
    try:
        opened = open_package(path, public_keys=key or None)
        result |= {
            "fingerprint": opened.fingerprint,
            "signature": _signature_state(opened),
            "signed_by": opened.signed_by,
        }
        if self_test:
            result["self_test_provider"] = runtime.load(opened, provider, warm_up=False).provider
        result["verified"] = True
    except PackageRefused as error:
        result["reason"] = str(error)
        raise
    finally:
        if json is not None:
            files.write_json(json, result)
    checked = f"self-test passed on {result['self_test_provider']}" if self_test else "self-test skipped"
    typer.echo(f"{path} is sound: {opened.manifest.name} {opened.manifest.version}, {result['signature']}, {checked}.")
    typer.echo(f"fingerprint {opened.fingerprint}")


@app.command()
def sign(
    package: Path = typer.Argument(help="Package folder or zip.", show_default=False),
    key: Path = typer.Option(..., "--key", help="Private key made by `haechi package keygen`.", show_default=False),
) -> None:
    """Sign a package in place with a private key. Machines that trust the key then accept it, and no other.

    The signature covers the manifest, and with it the hash of every file.
    """
    from shared.package import sign_package

    signed = sign_package(package, key)
    assert signed.signature is not None
    typer.echo(f"{package} is signed with key {signed.signature.key_id}.")


@app.command()
def keygen(
    key: Path = typer.Argument(help="Where to write the private key, such as factory.pem.", show_default=False),
    trust: bool = typer.Option(False, "--trust", help="Trust the new key on this machine at once."),
) -> None:
    """Make an Ed25519 key pair for signing: KEY (keep it secret) and the same name with .pub (give it away).

    Existing files are never overwritten. On each machine that is to accept nothing unsigned, run
    `haechi package trust KEY.pub`.
    """
    from shared import signing

    made = signing.make_key(key)
    typer.echo(f"private key {key} (keep it secret)")
    typer.echo(f"public key  {signing.public_path(key)}")
    typer.echo(f"key id      {made.key_id}")
    if trust:
        _trust(signing.public_path(key))


@app.command()
def trust(
    public_key: Path = typer.Argument(help="A .pub file made by `haechi package keygen`.", show_default=False),
) -> None:
    """Trust a public key on this machine: from now on only packages that a trusted key signed are accepted."""
    _trust(public_key)


@app.command("import")
def import_(
    model: Path = typer.Argument(metavar="FILE.onnx", help="A detector's ONNX file.", show_default=False),
    output: Path = typer.Option(..., "-o", "--output", help="Package to write, a folder or .zip.", show_default=False),
    head: str = typer.Option(..., "--head", help="How it answers: yolox, picodet or yolo.", show_default=False),
    labels: Path = typer.Option(..., "--labels", help="Text file, one label a line in the order of the classes."),
    task: str = typer.Option("detect", "--task", help="What it does: detect."),
    name: str = typer.Option("", "--name", help="Name of the package; default: made of the output's."),
    licence: str = typer.Option("unknown", "--licence", help="SPDX name of the weights' licence, such as Apache-2.0."),
    min_score: float = typer.Option(
        0.3, "--min-score", help="Score from which on a detection is recommended to count."
    ),
    class_agnostic: bool = typer.Option(
        True, "--class-agnostic/--per-class", help="Whether boxes on one thing count once whatever their classes."
    ),
    sign_with: Path | None = typer.Option(None, "--sign", metavar="KEY", help="Private key to sign the package with."),
    json: Path | None = _JSON,
) -> None:
    """Make a package of a detector that was trained elsewhere, from its ONNX file without post-processing.

    Resizing, decoding and suppression go into the package, so that it takes pictures of any size and gives boxes.
    """
    from shared import files
    from shared.detectors import foreign
    from shared.detectors.heads import Thinning
    from shared.errors import BadInput
    from shared.package import open_package

    if task != "detect":
        raise BadInput(f"--task {task} cannot be imported; only detect can.")
    request = foreign.Import(
        head=head,
        labels=foreign.read_labels(labels),
        name=name or foreign.package_name(output),
        licence=licence,
        min_score=min_score,
        thinning=Thinning(agnostic=class_agnostic),
        signing_key=sign_with,
    )
    foreign.import_detector(model, output, request)
    opened = open_package(output, public_keys=[])
    if json is not None:
        files.write_json(json, _as_json(opened, "signed" if sign_with else "unsigned"))
    typer.echo(f"{output} is a {head} detector of {len(request.labels)} classes, fingerprint {opened.fingerprint}")


def _trust(public_key: Path) -> None:
    from shared import signing

    kept, key = signing.trust_key(public_key)
    typer.echo(f"Key {key.key_id} is trusted on this machine ({kept}); only packages signed by a trusted key load now.")


def _show_cost(package: Package, before: Package | None, json: Path | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from shared import cost, files
    from shared.manifest import printable

    found = cost.cost_of(package)
    compared = cost.cost_of(before) if before is not None else None
    if json is not None:
        result = {"package": str(package.path), **found.as_json()}
        if before is not None and compared is not None:
            result["against"] = {"package": str(before.path), **compared.as_json()}
        files.write_json(json, result)
    headings, rows = cost.table(found, compared)
    title = f"{package.manifest.name} {package.manifest.version}, for one sample"
    if before is not None:
        title += f"; before: {before.manifest.name} {before.manifest.version}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < 3 else "right", overflow="fold")
    for number, row in enumerate(rows):
        table.add_row(*(printable(cell) for cell in row), end_section=number == len(rows) - 2)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def _signature_state(package: Package) -> str:
    """One phrase on the signature, as far as the keys this machine trusts can tell."""
    from shared import signing
    from shared.package import MANIFEST

    if package.signature is None:
        return "unsigned"
    if package.signed_by is not None:
        return f"signed by trusted key {package.signed_by}"
    keys = [signing.read_public(path) for path in signing.pinned_keys()]
    key_id = package.signature.key_id
    if signing.find_signer(package.signature, package.files[MANIFEST], keys):
        return f"signed by trusted key {key_id}"
    if any(key.key_id == key_id for key in keys):
        return f"signature of trusted key {key_id} does not match"
    return f"signed by key {key_id}, which is not trusted here"


def _as_json(package: Package, signature: str) -> dict[str, Any]:
    return {
        "package": str(package.path),
        "fingerprint": package.fingerprint,
        "bytes": package.size,
        "signature": signature,
        "manifest": package.manifest.model_dump(mode="json"),
    }


def human_size(size: int) -> str:
    """Bytes as people read them: 512 B, 3.4 kB, 18.8 MB."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _print_package(package: Package, signature: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from shared.manifest import printable

    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 160  # a log or a pipe has no width to fold to
    for title, rows in _sections(package, signature).items():
        if not rows:
            continue
        table = Table(title=title, title_justify="left", show_header=False, box=box.SIMPLE_HEAD)
        for column in range(max(len(row) for row in rows)):
            table.add_column(overflow="fold", no_wrap=column == 0)
        for row in rows:
            table.add_row(*(printable(cell) for cell in row))
        console.print(table)


def _sections(package: Package, signature: str) -> dict[str, list[tuple[str, ...]]]:
    manifest = package.manifest
    lineage = manifest.lineage
    return {
        f"{manifest.name} {manifest.version}": [
            ("task", manifest.task),
            ("description", manifest.description or "-"),
            ("path", str(package.path)),
            ("size", f"{human_size(package.size)} in {len(package.files)} files"),
            ("fingerprint", package.fingerprint),
            ("signature", signature),
            ("hardware", manifest.hardware),
            ("labels", ", ".join(manifest.labels) or "-"),
        ],
        "Inputs and outputs": [
            (kind, spec.name, spec.datatype, str(spec.shape))
            for kind, specs in (("input", manifest.inputs), ("output", manifest.outputs))
            for spec in specs
        ],
        "Preprocessing": [(name, str(value)) for name, value in manifest.preprocessing.items()],
        "Thresholds": [
            (name, f"{each.value:.6g}", each.method, ", ".join(f"{key} {value}" for key, value in each.details.items()))
            for name, each in manifest.thresholds.items()
        ],
        "Metrics": [
            (name, f"{value:.4g}", "headline" if name == manifest.metric else "")
            for name, value in manifest.metrics.items()
        ],
        "Lineage": [
            ("created", lineage.created),
            ("data", lineage.data_fingerprint),
            ("parent", lineage.parent or "-"),
            ("code", lineage.code_revision),
            ("seed", str(lineage.seed)),
            *((f"setting {name}", str(value)) for name, value in lineage.settings.items()),
        ],
        "Pretrained weights": [(each.name, each.licence, each.source) for each in manifest.weights],
        "Files": [(name, human_size(entry.size), entry.sha256[:16]) for name, entry in manifest.files.items()],
    }
