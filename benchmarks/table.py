"""The findings as Markdown."""

import math

from tabulate import tabulate

from benchmark.report.render import escape_markdown
from benchmarks import cases
from benchmarks.measure import Case

ESTIMATORS = ("scalar", "diagonal", "full")


def markdown(found) -> str:
    """All tables of `Findings`, with how they were measured."""
    parts = [
        "# Speed",
        *(
            ["**A quick run: small sizes, to show that everything runs. Its times say nothing.**"]
            if found.quick
            else []
        ),
        _how(found),
    ]
    for heading, write, there in (
        ("Steps", _steps, _here(found)),
        ("Roofline", _roofline, _here(found)),
        ("Pieces", _pieces, found.groups(cases.PIECES)),
        ("The refit of CEM", _refit, found.groups(cases.PIECES)),
        ("Each feature off alone", _features, found.groups(cases.FEATURES)),
        ("How cost grows", _scaling, found.groups(cases.SCALING)),
        ("Several cells at once", _cells, found.cells),
        ("Company", _company, found.company),
    ):
        if there:  # otherwise not measured, or not yet
            parts += [f"## {heading}", write(found)]
    return "\n\n".join(parts) + "\n"


def _how(found) -> str:
    record, plan = found.record, found.plan
    lines = [
        f"Device: {record['device']}; {record['cores']} cores; arithmetic of the steps: {plan.precision}; "
        f"CUDA graphs: {'on' if plan.graphs else 'none on this device'}.",
        f"torch {record['torch']}, Python {record['python']}, {record['platform']}, "
        f"commit {record['commit'][:12] or '?'}, {record['finished']}.",
        f"Load (processes that want a core, mean of the last minute) before and after: {record['load_before']} and "
        f"{record['load_after']}.",
        f"Every case of a group is timed once a round, in turns; {found.rounds} rounds (slow cases fewer, 3 at least). "
        "Times are the fastest of the rounds, medians in parentheses; ratios are of the fastest. Images are random.",
    ]
    return "\n".join(f"* {escape_markdown(line)}" for line in lines)


def _table(rows: list[list[str]], headings: list[str]) -> str:
    escaped = [[escape_markdown(item) for item in row] for row in rows]
    return tabulate(escaped, headers=headings, tablefmt="pipe", disable_numparse=True)


def _here(found) -> list[Case]:
    steps = found.groups(cases.TRAINING) + found.groups(cases.ATTACKS)
    return [case for case in steps if case.variant == cases.HERE]


def _steps(found) -> str:
    rows = []
    for case in _here(found):
        base = found.find(case.group, case.what, case.base) if case.base else None
        plain = [f"{base.rate:,.0f}", _time(base)] if base else ["–", "–"]
        rows.append([case.what, f"{case.rate:,.0f}", _time(case), *plain, _times(found.ratio(case))])
    text = (
        f"One call of each is a step of {found.plan.size.batch} images (decoder attack {found.plan.size.attack_batch}; "
        f"GAN attack: as many steps of {found.plan.size.gan_batch} as the critic takes for one of the generator). "
        "The plain script loads every image through PIL, computes eagerly in fp32 on contiguous memory, and loops over "
        "classes and clusters in Python; an attack's script runs the encoder on each batch."
    )
    return f"{text}\n\n{_table(rows, ['step', 'images/s', 'time', 'plain script, images/s', 'time', 'faster'])}"


def _roofline(found) -> str:
    peaks = ", ".join(f"{name} {peak / 1e9:,.0f} GFLOP/s" for name, peak in found.peaks.items())
    rows = []
    for case in found.timed:
        if not math.isnan(case.flop):
            rows.append(
                [case.what, f"{case.flop / 1e9:,.1f}", f"{case.traffic / 1e9:,.2f}", f"{case.flop / case.traffic:,.0f}"]
                + [f"{case.flop / case.fastest / 1e9:,.0f}", f"{100 * found.share_of_peak(case):.0f} %"]
                + [f"{100 * found.share_of_bandwidth(case):.0f} %"]
            )
    headings = ["step", "GFLOP", "GB", "FLOP/byte", "GFLOP/s", "of the matrix peak", "of the bandwidth"]
    text = (
        f"Measured peaks: product of two {found.plan.peak} x {found.plan.peak} matrices {peaks}; sum of two arrays of "
        f"{found.plan.stream} MiB {found.bandwidth / 1e9:,.1f} GB/s. FLOP are those of convolutions and matrix "
        "products. Bytes are what the operators read and write, as if no cache held anything from one to the next, so "
        "the share of the bandwidth is too high by what caches save. Both are counted for one eager step."
    )
    return f"{text}\n\n{_table(rows, headings)}"


def _pieces(found) -> str:
    rows = []
    for case in found.groups(cases.PIECES):
        if case.variant == cases.HERE and not case.what.startswith("refit"):
            base = found.find(case.group, case.what, case.base) if case.base else None
            rows.append([case.what, _time(case), _time(base) if base else "–", _times(found.ratio(case))])
    return _table(rows, ["piece", "time", "one by one, or by loops", "faster"])


def _refit(found) -> str:
    size, rows = found.plan.size, []
    for estimator in ESTIMATORS:
        refit = found.find(cases.PIECES, f"refit, CEM {estimator}")
        rows.append([estimator, _time(refit), _percent(found.refit_share(estimator), 2)])
    text = (
        f"Clustering from moved centres and statistics of {size.clustered:,} features of {size.dims} in {size.classes} "
        "classes, beside the steps of an epoch of as many images with that form of CEM. The refit's pass of all images "
        "through the encoder is not in it."
    )
    return f"{text}\n\n{_table(rows, ['form', 'refit', 'share of an epoch'])}"


def _features(found) -> str:
    rows = []
    for case in found.groups(cases.FEATURES):
        if case.variant != cases.HERE:
            whole = found.find(case.group, case.what)
            rows.append([case.what, case.variant, _time(case), _time(whole), f"{case.fastest / whole.fastest:.2f}"])
    if len(found.cells) > 1:
        count, rate = max(found.cells.items(), key=lambda item: item[1])
        step, one = count / rate, 1 / found.cells[1]
        rows.append(["training", f"concurrency off ({count} cells at once are best)", _seconds(one)])
        rows[-1] += [f"{_seconds(step / count)} a step", f"{one * rate:.2f}"]
    text = "Time of a step relative to the step with everything on: above 1, the feature helps."
    return f"{text}\n\n{_table(rows, ['step', 'feature', 'time', 'with everything on', 'relative'])}"


def _scaling(found) -> str:
    rows, first = [], {}
    for case in sorted(found.groups(cases.SCALING), key=lambda case: case.what):  # sizes stay in their order
        base = first.setdefault(case.what, case)
        grown = f"{int(case.variant) / int(base.variant):g}"
        rows.append([case.what, case.variant, _time(case), grown, f"{case.fastest / base.fastest:.2f}"])
    return _table(rows, ["what", "size", "time", "size, relative", "time, relative"])


def _cells(found) -> str:
    rows = [
        [str(count), f"{rate * found.plan.size.batch:,.0f}", f"{rate / found.cells[1]:.2f}"]
        for count, rate in found.cells.items()
    ]
    rows += [
        [f"{count}, one thread each", f"{rate * found.plan.size.batch:,.0f}", f"{rate / found.cells[1]:.2f}"]
        for count, rate in found.single.items()
    ]
    text = (
        "Training steps in processes of their own, at the same time on the one device. `--cells-per-gpu auto` takes "
        "two jobs of one thread on 2 cores, a job of 4 threads for every 4 cores of a larger CPU, and on a GPU doubles "
        "their number as long as the jobs' own speed says so."
    )
    return f"{text}\n\n{_table(rows, ['cells at once', 'images/s of all', 'relative'])}"


def _company(found) -> str:
    rows = [
        [what, _seconds(1 / alone), _seconds(1 / beside), _percent(beside / alone)]
        for what, (alone, beside) in found.company.items()
    ]
    text = (
        "The step alone, and with one process more on the same cores than they can hold, which does nothing but keep a "
        "core busy. A fair share of two cores for two threads would be 50 to 67 % of the rate alone."
    )
    return f"{text}\n\n{_table(rows, ['step', 'time alone', 'beside a busy process', 'rate kept'])}"


def _percent(share: float, places: int = 0) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.{places}f} %"


def _time(case: Case) -> str:
    return f"{_seconds(case.fastest)} ({_seconds(case.median)})"


def _seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1e3 * seconds:.0f} ms" if seconds >= 0.1 else f"{1e3 * seconds:.2g} ms"


def _times(ratio: float) -> str:
    return "–" if math.isnan(ratio) else f"{ratio:.1f}x"
