"""`haechi registry`: keep versions of packages, and say which one serves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from shared.registry import Change, Version

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Keep versions of packages; choose champion and challenger.\n\n"
    "Each package added gets the next number: bolts@1, bolts@2... The alias champion names the one that serves; a "
    "challenger runs beside it to be compared. Promoting is one step that a crash cannot halve; rollback undoes it.",
)

_REGISTRY = typer.Option(
    None, "--registry", metavar="DIR", help="Folder of the registry [default: HAECHI_HOME/registry]"
)
_JSON = typer.Option(None, "--json", metavar="FILE", help="Write the same there as JSON.")
_REFERENCE = typer.Argument(help="Name and version, such as bolts@3 or bolts@challenger.", show_default=False)


@app.command("list")
def list_versions(
    name: str | None = typer.Argument(None, help="Only this package.", show_default=False),
    registry: Path | None = _REGISTRY,
    json: Path | None = _JSON,
) -> None:
    """List the versions that are stored, with their headline metric and aliases."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from shared.package_commands import human_size
    from shared.registry import Registry

    store = Registry(registry)
    versions = store.list(name)
    _write_json(json, [_version_json(version) for version in versions])
    if not versions:
        typer.echo(f"Registry {store.root} is empty; add a package with `haechi registry add PACKAGE`.")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("package", "aliases", "made as", "task", "metric", "size", "signed by", "added"):
        table.add_column(column, overflow="fold", no_wrap=column == "package")
    for version in versions:
        table.add_row(
            version.reference,
            ", ".join(version.aliases),
            version.package_version,
            version.task,
            f"{version.metric} {version.metrics[version.metric]:.4g}" if version.metric else "",
            human_size(version.size),
            version.signed_by or "",
            version.added[:10],
        )
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 160  # a log or a pipe has no width to fold to
    console.print(table)


@app.command()
def add(
    package: Path = typer.Argument(help="Package folder or zip.", show_default=False),
    alias: str | None = typer.Option(None, "--alias", help="Point this alias at it too: champion, challenger, ..."),
    registry: Path | None = _REGISTRY,
    json: Path | None = _JSON,
) -> None:
    """Verify a package fully, self-test included, and store it as the next version of its name.

    The same content is stored once: adding it again names the version it has.
    """
    from shared.registry import Registry

    store = Registry(registry)
    known = {version.reference for version in store.list()}
    version = store.add(package, alias=alias)
    _write_json(json, _version_json(version))
    stored = "already stored as" if version.reference in known else "stored as"
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    typer.echo(f"{package} is {stored} {version.reference}{aliases}.")
    if not version.aliases:
        typer.echo(f"To let it serve: haechi registry promote {version.reference}")


@app.command()
def promote(reference: str = _REFERENCE, registry: Path | None = _REGISTRY, json: Path | None = _JSON) -> None:
    """Make a version the champion. `haechi registry rollback` brings the old one back."""
    from shared.errors import BadInput
    from shared.registry import Registry

    if "@" not in reference:
        raise BadInput(f"say which version of {reference} to promote, such as {reference}@3 or {reference}@challenger.")
    store = Registry(registry)
    version = store.resolve(reference)
    _report(store.promote(version.name, version.version), json)


@app.command()
def alias(
    reference: str = _REFERENCE,
    alias: str = typer.Argument(help="challenger, champion, or a name of your own.", show_default=False),
    remove: bool = typer.Option(False, "--remove", help="Remove the alias from the package instead."),
    registry: Path | None = _REGISTRY,
    json: Path | None = _JSON,
) -> None:
    """Point an alias at a version, for example: haechi registry alias bolts@4 challenger."""
    from shared.registry import Registry

    store = Registry(registry)
    version = store.resolve(reference)
    _report(store.set_alias(version.name, alias, None if remove else version.version), json)


@app.command()
def rollback(
    name: str = typer.Argument(help="Name of the package.", show_default=False),
    registry: Path | None = _REGISTRY,
    json: Path | None = _JSON,
) -> None:
    """Make the previous champion the champion again; once more goes one further back."""
    from shared.registry import Registry

    _report(Registry(registry).rollback(name), json)


@app.command()
def history(
    name: str = typer.Argument(help="Name of the package.", show_default=False),
    registry: Path | None = _REGISTRY,
    json: Path | None = _JSON,
) -> None:
    """Show every change of a package: who added, promoted and rolled back what, and when."""
    from shared.registry import Registry

    lines = Registry(registry).audit(name)
    _write_json(json, lines)
    for line in lines:
        target = f"{line['package']}@{line['version']}" if line["version"] is not None else line["package"]
        details = ", ".join(f"{key} {value}" for key, value in line["details"].items() if value is not None)
        typer.echo(f"{line['time']}  {line['who']}  {line['action']}  {target}  {details}")


def _report(change: Change, json: Path | None) -> None:
    _write_json(json, dataclasses.asdict(change))
    what = f"{change.alias} of {change.name}"
    if change.before == change.after:
        typer.echo(f"{what} was version {change.after} already." if change.after else f"{what} did not exist.")
    elif change.after is None:
        typer.echo(f"{what} is removed; it was version {change.before}.")
    else:
        typer.echo(f"{what} is now version {change.after}{f', was {change.before}' if change.before else ''}.")


def _version_json(version: Version) -> dict[str, Any]:
    return dataclasses.asdict(version) | {"path": str(version.path), "reference": version.reference}


def _write_json(path: Path | None, value: Any) -> None:
    if path is not None:
        from shared import files

        files.write_json(path, value)
