"""The command line: one short module a command; heavy imports wait until a command runs."""

from __future__ import annotations

import sys
import traceback
import warnings
from pathlib import Path
from typing import NoReturn, TextIO

import typer

from img2img.cli import (
    bench,
    check,
    compare,
    data,
    eval_,
    export,
    import_,
    infer,
    listing,
    new,
    run,
    show,
    study,
)
from img2img.cli.options import DebugOption, wants_debug
from img2img.errors import Img2ImgError, Interrupted, Note, RecipeError, SaidElsewhere
from img2img.names import printable
from img2img.signals import was_asked

PACKAGE = Path(__file__).parents[1]

app = typer.Typer(
    name="img2img",
    help="Train on pairs of images, and turn one kind into the other.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("infer")(infer.infer)
app.command("compare")(compare.compare)
app.command("check")(check.check)
app.command("eval")(eval_.eval_)
app.command("bench")(bench.bench)
app.command("list")(listing.list_components)
app.command("show")(show.show)
app.command("new")(new.new)
app.command("import")(import_.import_)
app.command("export")(export.export)
app.add_typer(data.app, name="data")
app.add_typer(study.app, name="study")


@app.callback(invoke_without_command=True)
def top(
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
    debug: DebugOption = False,
) -> None:
    """Train on pairs of images, and turn one kind into the other."""
    if version:
        import importlib.metadata

        print(importlib.metadata.version("img2img"))
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line; every error a user can cause is one readable message, no traceback."""
    warnings.showwarning = _print_warning
    try:
        try:
            app()
        except (Interrupted, SaidElsewhere):
            raise
        except Exception as error:
            # What a signal raised within C code comes out as any error, which is nobody's fault.
            if not was_asked():
                raise
            raise KeyboardInterrupt from error
    except Img2ImgError as error:
        if wants_debug():
            traceback.print_exc()
        elif not isinstance(error, SaidElsewhere):
            print(_fit(_lines(error)), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as asked:
        if wants_debug() and asked.__cause__ is not None:
            traceback.print_exc()
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except SystemExit as left:
        if left.code == 130:  # typer's answer to KeyboardInterrupt, which says nothing
            print("interrupted", file=sys.stderr)
        raise
    except BrokenPipeError:
        # `img2img list | head`: whoever read us has left, which is no failure.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        # A full disk, a name that is too long, a folder that is not ours: no fault of the program.
        if wants_debug():
            traceback.print_exc()
        else:
            place = f"{error.filename}: " if error.filename else ""
            print(_fit(f"error: {place}{error.strerror or error}"), file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if wants_debug():
            traceback.print_exc()
        elif isinstance(error, MemoryError) or "memory" in str(error).lower():
            # torch has a type of its own for CUDA and none for the CPU.
            print(
                "error: out of memory; make train.batch_size, data.crop_size or generator.width "
                "smaller, or --batch-size for infer",
                file=sys.stderr,
            )
        else:
            text = f"error: unexpected {type(error).__name__}: {error}"
            hint = "This is a fault in img2img or a plugin; --debug shows where"
            print(_fit(f"{text}\n{hint}"), file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _fit(message: str) -> str:
    # Names and texts of strangers are in it; only line breaks of ours may reach a terminal.
    return "\n".join(printable(line) for line in message.split("\n"))


def _lines(error: Img2ImgError) -> str:
    if isinstance(error, Interrupted):
        return str(error)
    if not isinstance(error, RecipeError):
        return f"error: {error}"
    # Each mistake begins its line with file and line, as compilers do, so that editors go there.
    count = len(error.problems)
    return f"{error}\nerror: {count} {'mistake' if count == 1 else 'mistakes'} in the recipe"


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # Our own are written for users; what libraries tell developers is for --debug.
    if wants_debug() or Path(filename).is_relative_to(PACKAGE):
        kind = "note" if issubclass(category, Note) else "warning"
        print(_fit(f"{kind}: {message}"), file=sys.stderr)
