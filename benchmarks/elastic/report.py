"""Figures of the recipes: errors against trained-alone, the area under the front, rank correlation, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from .._figures import Figure
from .alone import Errors
from .members import Members
from .runs import Row, Trial

BEYOND, TAU = 0.3, 0.7  # points beyond trained alone (mean over members), and Kendall's tau, that the default must keep

Found = Mapping[Trial, Sequence[Row]]


def figures(found: Found, alone: Errors, members: Members) -> list[Figure]:
    """Return the figures of each recipe, the best front first."""
    rows = []
    for trial, runs in sorted(found.items(), key=lambda item: float(np.mean(areas(item[1], members)))):
        facts: dict[str, object] = {"setting": str(trial), "steps": runs[0]["steps"], "seeds": len(runs)}
        area, spread = interval(areas(runs, members))
        rows.append(Figure(f"{trial.name}: area under the front", area, "", None, spread, facts))
        for name in members.sized:
            value, spread = interval(errors(runs, name))
            single = interval([pair[0] for pair in alone[name]]) if name in alone else (np.nan, np.nan)
            facts = {"alone": round(single[0], 3), "alone ±": round(single[1], 3)}
            rows.append(Figure(f"{trial.name}: {name}, error", value, "", None, spread, facts))
        gaps = beyond(runs, alone, members)
        if gaps:
            value, spread = interval(gaps)
            rows.append(Figure(f"{trial.name}: beyond alone, mean over members", value, "", BEYOND, spread))
        correlations = taus(runs, alone, members)
        if correlations:
            value, spread = interval(correlations)
            rows.append(Figure(f"{trial.name}: 1 - Kendall's tau, each seed", 1 - value, "", None, spread))
            value = tau_of_means(runs, alone, members)
            rows.append(Figure(f"{trial.name}: 1 - Kendall's tau, means over seeds", 1 - value, "", 1 - TAU))
    if ceiling := tau_of_halves(alone, members):
        value, spread = interval(ceiling)
        rows.append(
            Figure("alone: 1 - Kendall's tau of one seed with the mean of the others", 1 - value, "", None, spread)
        )
    return rows


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half of the 95 % confidence interval (Student's t)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, 0.0
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return mean, float(half)


def errors(runs: Sequence[Row], name: str) -> list[float]:
    """Return the test errors of one member, by seed."""
    return [run["errors"][name][0] for run in runs]


def areas(runs: Sequence[Row], members: Members) -> list[float]:
    """Return for each seed the mean over the range of MACs of the least error within them.

    The members of the front are chosen by their validation errors, and counted by their test errors.
    """
    order = sorted(members.configs, key=members.shares.__getitem__)
    found = []
    for run in runs:
        best, total = (np.inf, np.inf), 0.0
        for name, after in zip(order, [*order[1:], None], strict=True):
            test, validation = run["errors"][name]
            best = min(best, (validation, test))
            total += best[1] * ((members.shares[after] if after else members.shares[name]) - members.shares[name])
        found.append(total / (members.shares[order[-1]] - members.shares[order[0]]))
    return found


def beyond(runs: Sequence[Row], alone: Errors, members: Members) -> list[float]:
    """Return for each seed the errors beyond those of the same networks trained alone, averaged over all members."""
    single = {name: float(np.mean([pair[0] for pair in rows])) for name, rows in alone.items()}
    if set(single) < set(members.configs):
        return []
    return [float(np.mean([run["errors"][name][0] - single[name] for name in single])) for run in runs]


def taus(runs: Sequence[Row], alone: Errors, members: Members) -> list[float]:
    """Return for each seed Kendall's tau-b of the random members' errors with those when trained alone (means)."""
    if len(members.random) < 3 or any(name not in alone for name in members.random):
        return []
    single = [np.mean([pair[0] for pair in alone[name]]) for name in members.random]
    return [float(stats.kendalltau([run["errors"][n][0] for n in members.random], single).statistic) for run in runs]


def tau_of_means(runs: Sequence[Row], alone: Errors, members: Members) -> float:
    """Return Kendall's tau-b of the random members' errors with those when trained alone, both means over the seeds."""
    own = [np.mean([run["errors"][name][0] for run in runs]) for name in members.random]
    single = [np.mean([pair[0] for pair in alone[name]]) for name in members.random]
    return float(stats.kendalltau(own, single).statistic)


def tau_of_halves(alone: Errors, members: Members) -> list[float]:
    """Return Kendall's tau-b of what was trained alone from each seed with the means of the other seeds.

    No family can be expected to agree with one seed better than that: the rest is chance of training and test split.
    """
    rows = np.array([[pair[0] for pair in alone[name]] for name in members.random if name in alone])
    if len(rows) < 3 or len(rows) < len(members.random) or rows.shape[1] < 2:
        return []
    return [
        float(stats.kendalltau(rows[:, seed], np.delete(rows, seed, axis=1).mean(axis=1)).statistic)
        for seed in range(rows.shape[1])
    ]


def table(found: Found, alone: Errors, members: Members) -> str:
    """Return the figures as a Markdown table."""
    sized = members.sized
    head = (
        f"| recipe | steps | {' | '.join(f'{name} ({members.shares[name]:.0%})' for name in sized)} "
        "| area | beyond alone | tau, each seed | tau of means | s |"
    )
    lines = [head, "| --- |" + " ---: |" * (len(sized) + 6)]
    for trial, runs in sorted(found.items(), key=lambda item: float(np.mean(areas(item[1], members)))):
        cells = [_cell(errors(runs, name)) for name in sized]
        gaps, tau = beyond(runs, alone, members), taus(runs, alone, members)
        cells += [_cell(areas(runs, members)), _cell(gaps) if gaps else "", _cell(tau) if tau else ""]
        cells.append(f"{tau_of_means(runs, alone, members):.2f}" if tau else "")
        seconds = np.median([run["seconds"] for run in runs])
        lines.append(f"| {trial} | {runs[0]['steps']} | {' | '.join(cells)} | {seconds:.0f} |")
    if all(name in alone for name in sized):
        cells = [_cell([pair[0] for pair in alone[name]]) for name in sized]
        lines.append(f"| trained alone | | {' | '.join(cells)} | | | | | |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{mean:.2f} ± {half:.2f}" if half == half else f"{mean:.2f}"
