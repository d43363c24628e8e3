"""The command `haechi <noun> <verb>`.

A noun's module is imported when the noun is used, never for `haechi --help`, which must answer at once on a small
machine; commands in turn import numpy, ONNX Runtime and the rest inside their functions. Every `HaechiError` becomes
one `error: …` line on stderr and its exit code: 2 for usage and bad input, 1 for failures, 130 for an interrupt.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from shared.errors import HaechiError

NOUNS = {
    "inspection": ("solutions.inspection.commands:app", "Judge parts: learn from photographs of good ones."),
    "bot": ("solutions.contact_center.commands:app", "A text bot: make, train, talk to, test, evaluate, serve."),
    "cctv": ("solutions.cctv.commands:app", "Watch cameras: safety and security events with evidence."),
    "train": ("shared.training.commands:train", "Train a model from a YAML file: pictures, boxes, text."),
    "search": ("shared.training.search_commands:search", "Search a training's settings, by accuracy and latency."),
    "compress": ("shared.compression.commands:compress", "Make a package smaller and faster, with a certificate."),
    "bench": ("shared.bench_commands:app", "Measure packages side by side on this machine."),
    "data": ("data_tools.commands:app", "Check and make data sets."),
    "package": ("shared.package_commands:app", "Show, verify and sign model packages."),
    "registry": ("shared.registry_commands:app", "Keep versions of packages; choose champion and challenger."),
    "serve": ("solutions.serve_commands:app", "Serve packages over HTTP, with the console."),
    "demo": ("solutions.inspection.demo:demo", "Walk the whole path on built-in samples."),
    "version": ("solutions.cli:version", "Print the version."),
}
"""Name: where its `typer.Typer` (a noun with verbs) or function (a verb of its own) is, and its line in the help."""

INTERRUPTED = 130

TRAINING_MODULES = frozenset(
    {
        "mlflow",
        "onnx",
        "onnxscript",
        "onnxslim",
        "optuna",
        "sklearn",
        "tensorboard",
        "timm",
        "torch",
        "torch_pruning",
        "torchvision",
        "transformers",
        "ultralytics",
    }
)
CCTV_MODULES = dict.fromkeys(("paho", "scipy", "supervision"), "cctv")


class _Lazy(TyperCommand):
    """A name and a line of help that turn into the real command when it is used."""

    def __init__(self, name: str, target: str, summary: str) -> None:
        super().__init__(name, help=summary, rich_markup_mode=None)
        self._target = target

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self._load().make_context(info_name, args, parent=parent, **extra)

    def _load(self) -> Any:
        module, _, attribute = self._target.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, typer.Typer):
            found.rich_markup_mode = None  # plain help: quick, and the same in a log as on a terminal
            return typer.main.get_group(found)
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(self.name)(found)
        return typer.main.get_command(app)


def _root() -> TyperGroup:
    context = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
    app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True, context_settings=context)
    app.callback(help="Industrial AI for people who run real places. Each noun has its own --help.")(_global_options)
    root = typer.main.get_group(app)
    for name, (target, summary) in NOUNS.items():
        root.add_command(_Lazy(name, target, summary))
    return root


def _version_and_exit(given: bool) -> None:
    if given:
        version()
        raise typer.Exit


def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(f"haechi {installed('haechi')}")


def _global_options(
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress on stderr (also HAECHI_QUIET=1)."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log at DEBUG (also HAECHI_LOG_LEVEL=DEBUG)."),
    _version: bool = typer.Option(
        False, "--version", help="Print the version.", is_eager=True, callback=_version_and_exit
    ),
) -> None:
    # Through the environment, so that processes which a command starts behave alike.
    if quiet:
        os.environ["HAECHI_QUIET"] = "1"
    if verbose:
        os.environ["HAECHI_LOG_LEVEL"] = "DEBUG"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; `arguments` default to those of the process."""
    try:
        result = _root().main(arguments, prog_name="haechi", standalone_mode=False)
        sys.stdout.flush()
        if result == INTERRUPTED:  # typer turns KeyboardInterrupt into this code
            return _fail("interrupted.", INTERRUPTED)
        return result if isinstance(result, int) else 0
    except HaechiError as error:
        return _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted.", INTERRUPTED)
    except BrokenPipeError:
        # The reader (`head`, say) has gone. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        extra = "training" if missing in TRAINING_MODULES else CCTV_MODULES.get(missing)
        if extra is None:
            raise
        return _fail(
            f"this command needs {error.name}, which the base install leaves out; "
            f'install the {extra} extra: python -m pip install "haechi[{extra}]".',
            1,
        )
    except OSError as error:
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}; check the path, its permissions and the free space.", 1)


def _usage(error: typer.TyperException) -> int:
    """A wrong option or argument. Typer gives the class only as private; these attributes are what `show` uses."""
    context = getattr(error, "ctx", None)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if "\n" in message:  # no arguments at all: the message is the help
        sys.stderr.write(message + "\n")
        return 2
    hint = f" See {context.command_path} --help." if context is not None else ""
    return _fail(message + hint, 2)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
