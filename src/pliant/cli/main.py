"""The command line. Each command parses, calls one function and shows what came; imports wait until then."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .handler import Handler

app = typer.Typer(
    cls=Handler,
    help="One network in, a family out: bend a network, train once, search on your own hardware, ship plain models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help="digits, digits:convnet, charlm, or a task file such as my_task.py")
]
NetworkName = Annotated[
    str,
    typer.Argument(metavar="NETWORK", help="a task, torchvision:resnet50, timm:NAME, hf:CLASS or hf:CLASS:config.json"),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="the folder that `pliant run --out` made")]
MemberId = Annotated[str, typer.Option("--member", help="the member's id, as the report shows it")]


class Format(StrEnum):
    """The formats that a member can leave in."""

    onnx = "onnx"
    pt2 = "pt2"
    safetensors = "safetensors"


def _version(asked: bool) -> None:
    if asked:
        from .. import __version__

        typer.echo(f"pliant {__version__}")
        raise typer.Exit


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Take the options that stand before every command."""


@app.command()
def run(
    task: TaskName,
    out: Annotated[Path, typer.Option("--out", help="the run's folder; an unfinished run in it goes on")],
    quick: Annotated[
        bool, typer.Option("--quick", help="fewer steps and trials: minutes, to see that it works")
    ] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="training steps [default: the task's]")] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="members to measure [default: the task's]")] = None,
    seed: Annotated[int, typer.Option(help="the seed of everything that is drawn")] = 0,
    choices: Annotated[
        str | None, typer.Option(metavar="A,B", help="what may vary: width,depth or width(ratios=(0.5,1.0)),depth")
    ] = None,
    constraint: Annotated[
        list[str] | None, typer.Option("--constraint", metavar="TEXT", help='such as "macs <= 1e6"; may be repeated')
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="how to train: technique(field=value, …), of `pliant systems --kind train`"),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="the learning rate of training [default: the task's]")] = None,
    threads: Annotated[int, typer.Option(min=1, help="threads of every timing")] = 1,
) -> None:
    """Do everything: check, bend, train, search, extract, export and report. Killed, the same command goes on."""
    from .running import run_task

    run_task(
        task,
        out,
        quick=quick,
        steps=steps,
        budget=budget,
        seed=seed,
        choices=None if choices is None else (choices,),
        constraints=tuple(constraint or ()),
        recipe=recipe,
        lr=lr,
        threads=threads,
    )


@app.command()
def search(
    run: RunFolder,
    budget: Annotated[
        int | None, typer.Option(min=1, help="members to measure, those stored earlier included [default: 50]")
    ] = None,
    searcher: Annotated[
        str | None, typer.Option(metavar="NAME", help="technique(field=value, …), of `pliant systems --kind search`")
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option("--objective", metavar="NAME", help="macs, params, bytes, latency, memory, or the task's error"),
    ] = None,
    constraint: Annotated[
        list[str] | None, typer.Option("--constraint", metavar="TEXT", help='such as "macs <= 1e6"; may be repeated')
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="STORAGE", help="a file, or postgresql://… to share [default: RUN/search.db]")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="go on with the stored study: what is not given is as it was, the budget too"),
    ] = False,
    seed: Annotated[int | None, typer.Option(help="of the search [default: the run's]")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes that measure")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="measure on a Ray cluster: host:6379, auto or local")
    ] = None,
    remeasure: Annotated[
        int | None, typer.Option(min=1, help="how often each member of the front is measured [default: 1]")
    ] = None,
    results: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="results from elsewhere, as CSV or JSON")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="threads of every timing [default: 1]")] = None,
) -> None:
    """Search a trained run again: other objectives, constraints or searcher. Killed, the same command goes on."""
    from .searching import search_run

    search_run(
        run,
        budget=budget,
        searcher=searcher,
        objectives=tuple(objective or ()),
        constraints=None if constraint is None else tuple(constraint),
        storage=storage,
        resume=resume,
        seed=seed,
        workers=workers,
        ray=ray,
        remeasure=remeasure,
        results=results,
        threads=threads,
    )


@app.command()
def analyze(
    network: NetworkName,
    only: Annotated[
        str | None, typer.Option("--only", metavar="PATH", help="only this submodule, such as backbone")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option("--inputs", metavar="FILE", help="a JSON file with the call's keyword arguments")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="write the same as a page")] = None,
) -> None:
    """Show a picture of a network: what bends, what moves together, what does not bend, and why."""
    from .analysis import show_analysis

    show_analysis(network, only, inputs, html)


@app.command()
def extract(
    run: RunFolder,
    member: MemberId,
    out: Annotated[Path, typer.Option("--out", help="the .safetensors file to write")],
) -> None:
    """Write a member's weights; the lines that load them are shown."""
    from .running import export_member

    export_member(run, member, "safetensors", out)


@app.command()
def export(
    run: RunFolder,
    member: MemberId,
    out: Annotated[Path, typer.Option("--out", help="the file to write: .onnx, .pt2 or .safetensors")],
    format: Annotated[  # noqa: A002
        Format | None, typer.Option("--format", help="what to make [default: what the suffix of --out says]")
    ] = None,
) -> None:
    """Make a file of a member that needs no Pliant, checked against the member and timed."""
    from .running import export_member

    export_member(run, member, None if format is None else format.value, out)


@app.command()
def report(run: RunFolder) -> None:
    """Write a run's report again from its stored numbers."""
    from ..report import load, write_report

    typer.echo(str(write_report(load(run / "report.json"), run / "report.html")))


@app.command()
def systems(
    kind: Annotated[str | None, typer.Option(help="only one kind, such as search")] = None,
) -> None:
    """List the published systems that Pliant implements."""
    from .catalogue import show_systems

    show_systems(kind)


@app.command("new-task")
def new_task(file: Annotated[Path, typer.Argument(metavar="FILE", help="the Python file to write")]) -> None:
    """Write a commented task file that runs as it is, to put your own network and data into."""
    from ..tasks import new_task as write

    path = write(file)
    task, out = shlex.quote(str(path)), shlex.quote(f"runs/{path.stem}")
    typer.echo(f"wrote {path}\n\n  pliant analyze {task}\n  pliant run {task} --out {out} --quick")
