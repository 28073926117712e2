"""What `rosetta identify` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from shared.architecture.plan import make_plan
from shared.architecture.presets import get_spec, list_presets
from shared.architecture.spec import ResNetSpec
from shared.cli.tables import Column, Table
from shared.graphs.evidence import difference
from shared.graphs.near import fields_that_differ
from shared.graphs.verdict import NO_RESNET, SAME_FUNCTION, THIS_SIZE, listed
from shared.weights.canonical import Weights

MOST_ROWS = 30


def answer(
    target: str, found: Mapping[str, Any], against: str | None, good: bool
) -> RenderableType:
    """The verdict, what it rests on, and a table of departures."""
    lines: list[RenderableType] = [Text(target, style="bold"), verdict(found, against, good)]
    lines += [Text(f"  {line}") for line in details(found)]
    for title, departures in tables(found).items():
        lines += [Text(f"\n{title}" if len(tables(found)) > 1 or found["recognised"] else "")]
        lines.append(departure_table(departures))
    return Group(*lines)


def tables(found: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The departures by what they are from."""
    paper, preset = (found["paper"] or ["", ""])[::-1]
    whole = {
        "Where it departs": found["departures"],
        f"What {found['nearest']} has otherwise": found["from_nearest"],
        f"What it does otherwise than its paper, {paper} ({preset})": found["from_paper"],
    }
    return {title: departures for title, departures in whole.items() if departures}


def verdict(found: Mapping[str, Any], against: str | None, good: bool) -> Text:
    mark = "✓" if good else "✗"
    style = "green" if good else "red"
    count = len(found["departures"])
    evidence = found["evidence"]
    shows = evidence is None or evidence["shows"]
    name = found["preset"] or "a ResNet of its own"
    result = found["verdict"]
    if against:
        unknown = "not the same as" if shows or count else "not shown to be the same as"
        by_effects = result == SAME_FUNCTION or found.get("by_effects")
        alike = "the same function as" if by_effects else "the same as"
        is_it = alike if good else unknown
        text = f"{is_it} {against}"
    elif result == NO_RESNET:
        text = "no ResNet"
    elif result == THIS_SIZE:
        first, *others = (f"{size} x {size}" for size in found["image_sizes"])
        otherwise = f"it departs at {others[0]}" if others else "it could not be read at another"
        text = f"{name} at {first} pixels only: {otherwise}"
    elif found["recognised"] and not count:
        text = f"{name}: the {result}"
    elif not count:
        why = "its numbers are others" if evidence and shows else "no numbers show it"
        text = f"{name} by its operators, but {why}"
    else:
        text = f"departs in {count} place{'s' if count > 1 else ''} from {_near(found)}"
    return Text(f"{mark} {text}", style=style)


def _near(found: Mapping[str, Any]) -> str:
    """The network that the departures are from."""
    spec = ResNetSpec.from_dict(found["spec"]) if found["spec"] else None
    nearest = found["nearest"]
    if spec is None or nearest is None:
        return nearest or "every ResNet"
    differ = fields_that_differ(spec, get_spec(nearest)) if nearest in list_presets() else {}
    shown = [f"{name}={_value(a)}" for name, (a, _) in differ.items() if name != "norm.groups"]
    return nearest + (f" with {', '.join(shown[:4])}" if shown else "")


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def details(found: Mapping[str, Any]) -> list[str]:
    rows = []
    spec = ResNetSpec.from_dict(found["spec"]) if found["spec"] else None
    if spec is not None:
        plan = make_plan(spec)
        rows.append(
            f"network    {list(spec.depths)} {spec.block.kind} blocks of widths "
            f"{list(spec.widths)}, {spec.num_classes} classes; {plan.params:,} parameters"
        )
    others = found["presets"][1:]
    if others:
        rows.append(f"as well    {listed(others, most=4)}")
    unnamed = spec is not None and not found["preset"] and not found["departures"]
    if unnamed and found["nearest"] and not found.get("against"):
        rows.append(f"nearest    {_near(found)}")
    if found["paper"] and not found["from_paper"]:
        preset, paper = found["paper"]
        if preset in found["presets"]:
            rows.append(f"paper      as in {paper} ({preset})")
    sizes = " and ".join(f"{n} x {n}" for n in found["image_sizes"])
    rows.append(f"compared   operator by operator at {sizes} pixels")
    evidence = found["evidence"]
    if evidence:
        mark = "✓" if evidence["passed"] else "✗"
        rows.append(
            f"numbers    {mark} {evidence['images']} in {evidence['dtype']}: "
            f"{evidence['error']:.1e} {'from the reference' if spec else 'apart'}, "
            f"limit {evidence['limit']:.0e}"
        )
    rows += [f"around     {text}" for text in found["surroundings"]]
    rows += [f"note       {text}" for text in found["notes"]]
    if found["assumed"]:
        rows.append(f"assumed    {', '.join(found['assumed'])}: no inference shows them")
    return rows


def departure_table(departures: list[dict[str, Any]]) -> Table:
    """Equal departures in one row."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for one in departures:
        groups.setdefault((one["what"], one["theirs"], one["ours"]), []).append(one)
    table = Table(Column("where"), Column("what"), Column("yours"), Column("there"), Column("line"))
    for (what, theirs, ours), same in list(groups.items())[:MOST_ROWS]:
        count = f" ({len(same)} places)" if len(same) > 1 else ""
        places = listed((one["where"] for one in same), most=2)
        table.row(places, what + count, theirs, ours, same[0].get("line") or "")
    return table


def unequal_tensors(
    found: Weights, other: Weights, names: Mapping[str, str | None]
) -> list[dict[str, Any]]:
    """A departure for every tensor that is another than the other side's."""
    rows = []
    for name in sorted(set(found) & set(other)):
        error = difference(found[name], other[name])
        if error is None:
            continue
        rows.append(
            {
                "where": names.get(name) or name,
                "what": "weights",
                "theirs": f"differs by {error:.1e}",
                "ours": name,
                "line": None,
                "layer": name.rpartition(".")[0],
            }
        )
    return rows
