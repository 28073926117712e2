"""`rosetta verify`, `trace` and `compare`: the proof."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.architecture.presets import list_presets
from shared.cli.options import (
    Batch,
    Checks,
    DType,
    HtmlFile,
    Images,
    ImageSize,
    Json,
    LeaveOut,
    MarkdownFile,
    Mini,
    ModelExplorer,
    Precision,
    Preset,
    Seed,
    Settings,
    Sides,
    Take,
    TrainingSettings,
    Weights,
    canonical_weights,
    check_outputs,
    choose_frameworks,
    command_line,
    make_console,
    make_inputs,
    open_weights,
    parse_size,
    spec_of,
    square,
    write_json,
    write_node_data,
    write_pages,
    write_text,
)
from shared.errors import SpecError

if TYPE_CHECKING:
    from shared.verification.trace import Trace

Alone = Annotated[
    bool,
    typer.Option(
        "--isolated",
        help="Also every layer by itself, fed what its framework had in front of it: errors "
        "do not add up; and every gradient, from the framework's own activations.",
        metavar="",
    ),
]
PAGE_SHARE = 20  # of the time of a run, one part in so many goes into pages of what is done


def verify(
    context: typer.Context,
    presets: Annotated[
        list[str] | None,
        typer.Argument(
            help="Presets, at full size; unless given, miniatures of a small set that has every "
            "kind of layer.",
            metavar="PRESET...",
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Verify every preset, at full size.", metavar="")
    ] = False,
    framework: Sides = None,
    dtype: Precision = DType.float64,
    settings: Settings = None,
    take: Take = None,
    leave_out: LeaveOut = None,
    image_size: ImageSize = None,
    batch: Batch = None,
    seed: Seed = 0,
    weights: Weights = None,
    image: Images = None,
    mini: Mini = False,
    check: Checks = None,
    training: TrainingSettings = None,
    alone: Alone = False,
    json_file: Json = None,
    markdown: MarkdownFile = None,
    html: HtmlFile = None,
    model_explorer: ModelExplorer = None,
) -> None:
    """Build a network in every framework with the same weights, run and train it, and compare every
    layer and step.
    """
    from shared.cli import pages
    from shared.cli import report_verify as report
    from shared.cli.live import is_live
    from shared.cli.report_checkpoints import print_remarks
    from shared.cli.report_diagnose import causes_json, isolated_json, print_causes, print_isolated
    from shared.frameworks.registry import installed
    from shared.frameworks.verify import (
        DEFAULT_PRESETS,
        count_networks,
        iter_verdicts,
        possible_inputs,
    )

    started = time.perf_counter()
    if presets and len(presets) == 1 and is_live(presets[0]) and not weights:
        weights, presets = presets[0], None
    if every and presets:
        raise SpecError("--all verifies every preset; name presets or say --all, not both")
    if every and weights:
        raise SpecError("--weights and --image belong to one preset; name it")
    checkpoint = (
        open_weights(weights, presets, settings, mini, take, leave_out)
        if weights and not every
        else None
    )
    small_set = not (every or presets or checkpoint)
    mini = mini or small_set  # at full size, its networks take very long
    implied = small_set and "--miniature" not in sys.argv
    command = command_line() + (" --miniature" if implied else "")
    if checkpoint:
        names, specs = [checkpoint.preset or checkpoint.scheme.convention], [checkpoint.spec]
    else:
        names = list_presets() if every else presets or list(DEFAULT_PRESETS)
        specs = [spec_of(name, settings, mini) for name in names]
    chosen = choose_frameworks(framework, reference=True, exported=True)
    check_outputs(json_file, markdown, html, model_explorer)
    canonical = canonical_weights(context, checkpoint) if checkpoint else None
    inputs = make_inputs(
        specs, names, dtype, seed, batch, image_size, canonical, image, weights, check, training
    )
    inputs = possible_inputs(chosen, dataclasses.replace(inputs, isolated=alone))
    console, errors = make_console(json_file), make_console(stderr=True)
    verdicts, due = [], 0.0
    with report.VerifyProgress(errors, total=count_networks(specs) * len(chosen)) as progress:
        for verdict in iter_verdicts(specs, chosen, inputs, progress.step):
            verdicts.append(verdict)
            if markdown:  # after every network: a long run that is interrupted keeps what it found
                write_text(markdown, pages.verify_markdown(verdicts, inputs, command))
            if html and time.perf_counter() >= due:  # a page of many networks takes seconds
                begun = time.perf_counter()
                write_pages(pages.verify_page(verdicts, inputs, command), html)
                due = time.perf_counter() + PAGE_SHARE * (time.perf_counter() - begun)
            if len(specs) > 1 and not verdict.passed:
                report.print_failure(errors, verdict)
    if html:
        write_pages(pages.verify_page(verdicts, inputs, command), html)
    comparisons = [c for verdict in verdicts for c in verdict.comparisons]
    passed = all(verdict.passed for verdict in verdicts)
    environment = {k: v for verdict in verdicts for k, v in verdict.versions.items()}
    write_json(
        json_file,
        {
            "passed": passed,
            "miniature": mini,
            "environment": environment,
            "comparisons": [c.to_dict() for c in comparisons],
            "seconds": round(time.perf_counter() - started, 1),
            "peak_bytes": {
                s.framework: max(
                    t.peak_bytes for w in verdicts for t in w.steps if t.framework == s.framework
                )
                for v in verdicts
                for s in v.steps
            },
            "failures": {v.spec.name: v.failure for v in verdicts if v.failure},
            "causes": [
                cause for v in verdicts for cause in causes_json(v.causes, preset=v.spec.name)
            ],
            **(
                {
                    "isolated": [
                        {"preset": v.spec.name, **row}
                        for v in verdicts
                        for row in isolated_json(v.isolated)
                    ]
                }
                if alone
                else {}
            ),
        },
    )
    write_node_data(model_explorer, comparisons)
    if len(verdicts) == 1:
        console.print(report.setting(verdicts[0], inputs), soft_wrap=True)
        print_remarks(console, checkpoint)
        console.print()
        console.print(report.comparison_table(comparisons), soft_wrap=True)
        report.print_failures(console, comparisons)
        print_isolated(console, verdicts[0].isolated)
        print_causes(console, verdicts[0].causes)
    else:
        console.print(report.verdict_table(verdicts), soft_wrap=True)
        print_isolated(
            console,
            [
                (f"{v.spec.name}, {side}", check, rows)
                for v in verdicts
                for side, check, rows in v.isolated
            ],
        )
    console.print()
    console.print(report.conclusion(verdicts, time.perf_counter() - started), soft_wrap=True)
    if small_set:
        console.print(
            "  miniatures, shallow and narrow; name a preset for its full size", style="dim"
        )
    absent = (
        [name for name in ("torch", "keras", "flax") if name not in installed()]
        if not framework
        else []
    )
    if absent:
        console.print(f"  not installed, so not compared: {', '.join(absent)}", style="yellow")
    raise typer.Exit(0 if passed else 1)


def trace(
    context: typer.Context,
    preset: Preset,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The trace, a safetensors file.", metavar="FILE")
    ],
    framework: Annotated[
        str,
        typer.Option(
            help="torch, keras, keras:tensorflow, keras:jax, keras:torch, flax or reference.",
            metavar="NAME",
        ),
    ] = "torch",
    dtype: Precision = DType.float64,
    settings: Settings = None,
    take: Take = None,
    leave_out: LeaveOut = None,
    image_size: ImageSize = None,
    batch: Batch = None,
    seed: Seed = 0,
    weights: Weights = None,
    image: Images = None,
    mini: Mini = False,
    check: Checks = None,
    training: TrainingSettings = None,
) -> None:
    """Record what one framework computes, layer by layer and step by step, for `rosetta
    compare`. Of a model of your own, python:FILE.py:NAME or a file that `identify` takes, its own
    layers.
    """
    from shared.cli import report_verify as report
    from shared.cli.live import check_only
    from shared.cli.report_checkpoints import print_remarks
    from shared.frameworks.registry import get_framework
    from shared.frameworks.targets import is_target
    from shared.frameworks.verify import take_trace
    from shared.verification.trace import Trace

    if is_target(preset):
        check_only(context, preset, ("preset", "output", "image_size", "batch", "seed"))
        _trace_target(preset, output, image_size, batch, seed)
        return
    checkpoint = (
        open_weights(weights, [preset], settings, mini, take, leave_out) if weights else None
    )
    spec = checkpoint.spec if checkpoint else spec_of(preset, settings, mini)
    chosen = get_framework(framework, exported=True).name
    check_outputs(None, output)
    canonical = canonical_weights(context, checkpoint) if checkpoint else None
    inputs = make_inputs(
        [spec], [preset], dtype, seed, batch, image_size, canonical, image, weights, check, training
    )
    errors = make_console(stderr=True)
    with report.VerifyProgress(errors, total=1) as progress:
        step = take_trace(spec, chosen, inputs, output)
        progress.step(step)
    found = Trace.load(output)
    print_remarks(make_console(), checkpoint)
    report.print_line(
        make_console(),
        f"{output}: {len(found.names)} tensors of {spec.name} in {found.framework}, {found.dtype} "
        f"on {found.about['device'].upper()}; "
        f"{step.seconds:.1f} s, {step.peak_bytes / 2**30:.1f} GiB",
    )


def _trace_target(
    target: str, output: Path, image_size: str | None, batch: int | None, seed: int
) -> None:
    """Record the layers of a user's own model."""
    from shared.cli import report_verify as report
    from shared.frameworks.inputs import BATCH
    from shared.frameworks.trace_target import trace_target

    side = square(parse_size(image_size), "for a model of your own: it is traced with squares")
    check_outputs(None, output)
    with make_console(stderr=True).status(f"reading {target}"):
        found = trace_target(target, side, batch=batch or BATCH, seed=seed)
    trace = found.trace
    trace.save(output)
    console = make_console()
    for remark in found.remarks:
        report.print_line(console, f"{target}: {remark}")
    count = f"{len(trace.names)} tensors of {trace.spec.name}"
    report.print_line(console, f"{output}: {count} from {target}, float64")


def compare(
    files: Annotated[list[Path], typer.Argument(help="Two traces or more.", metavar="FILE...")],
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer.", metavar="")] = False,
    alone: Alone = False,
    json_file: Json = None,
    html: HtmlFile = None,
    markdown: MarkdownFile = None,
    model_explorer: ModelExplorer = None,
) -> None:
    """Compare traces, each with every other one, and say why one differs from the reference."""
    from shared.cli import report_verify as report
    from shared.cli.report_diagnose import (
        causes_json,
        isolated_json,
        on_try,
        print_causes,
        print_instruments,
        print_isolated,
    )
    from shared.frameworks.diagnose import causes, isolated_layers
    from shared.verification.comparison import compare
    from shared.verification.instrument import examine
    from shared.verification.trace import Trace

    if len(files) < 2:
        raise SpecError("a comparison needs two traces; `rosetta trace` writes them")
    check_outputs(json_file, html, markdown, model_explorer)
    traces = [Trace.load(file) for file in files]
    started = time.perf_counter()
    frameworks = [trace.framework for trace in traces]
    for trace, file in zip(traces, files, strict=True):
        if frameworks.count(trace.framework) > 1:
            trace.framework += f" ({file})"
    comparisons = [
        compare(a, b, check=check)
        for a, b in itertools.combinations(traces, 2)
        for check in _common_checks(a, b)
    ]
    passed = all(c.passed for c in comparisons)
    instruments = [
        examine(traces[0], check) for check in dict.fromkeys(c.check for c in comparisons)
    ]
    why = {}
    if not passed:
        with make_console(stderr=True).status("looking for the cause") as status:
            why = causes(traces, comparisons, on_try=on_try(status))
    by_itself = isolated_layers(traces) if alone else []
    environment = {k: v for t in traces for k, v in t.versions.items()}
    write_json(
        json_file,
        {
            "passed": passed,
            "environment": environment,
            "comparisons": [c.to_dict() for c in comparisons],
            **({"isolated": isolated_json(by_itself)} if alone else {}),
            "instrument": [instrument.to_dict() for instrument in instruments],
            "causes": causes_json(why),
        },
    )
    if html or markdown:
        from shared.cli.pages import compare_page

        page = compare_page(comparisons, environment, command_line(), why)
        write_pages(page, html, markdown)
    write_node_data(model_explorer, comparisons)
    console = make_console(json_file)
    if layers:
        for comparison in comparisons:
            console.print(report.layer_table(comparison), soft_wrap=True)
            console.print()
    console.print(report.comparison_table(comparisons), soft_wrap=True)
    report.print_failures(console, comparisons)
    print_isolated(console, by_itself)
    print_causes(console, why, time.perf_counter() - started)
    print_instruments(console, instruments)
    raise typer.Exit(0 if passed else 1)


def _common_checks(a: Trace, b: Trace) -> list[str]:
    from shared.verification.comparison import checks_of

    common = [check for check in checks_of(a) if check in checks_of(b)]
    if not common:
        said = [
            f"{trace.framework} has {', '.join(checks_of(trace)) or 'nothing'}" for trace in (a, b)
        ]
        raise SpecError(f"the traces have no check in common: {' and '.join(said)}")
    return common
