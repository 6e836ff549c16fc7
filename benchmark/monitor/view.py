"""The view of a running suite: one picture for a terminal, from its jobs' reports; elsewhere the same as lines."""

from dataclasses import dataclass, field

from rich.console import Group
from rich.text import Text

from benchmark.monitor.heartbeat import Heartbeat
from benchmark.output import Console

BAR = 24  # characters
STATES = {"done": "green", "running": "cyan", "waiting": "", "diverged": "yellow", "failed": "bold red"}


@dataclass(frozen=True)
class Snapshot:
    """A suite at one moment.

    counts: jobs by state; fraction: of its work that is done; running: title and heartbeat; failed: title and reason.
    """

    counts: dict[str, int]
    fraction: float
    seconds_left: float | None
    running: list[tuple[str, Heartbeat]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


def picture(snapshot: Snapshot, console: Console) -> Group:
    """The suite, then each running job on three lines, or on one if the terminal has too few lines."""
    head = Text.assemble(("suite ", "bold"), _bar(snapshot.fraction), f"  {clock(snapshot.seconds_left)} left")
    counts = {state: snapshot.counts.get(state, 0) for state in STATES}
    seen = [
        Text(f"{count} {state}", STATES[state] if count else "")
        for state, count in counts.items()
        if count or state != "diverged"
    ]
    lines = [head, Text("  ").join(seen)]
    failed = snapshot.failed[-3:]
    roomy = 3 * len(snapshot.running) + len(lines) + len(failed) < console.height
    for title, beat in snapshot.running:
        if roomy:
            lines.append(Text(title, "bold"))
            lines.append(Text.assemble("  ", _bar(beat.fraction), "  ", "  ".join(_pace(beat))))
            lines.append(Text("  " + "  ".join(_metrics(beat)), "dim"))
        else:
            lines.append(Text.assemble(_bar(beat.fraction, 8), "  ", (title, "bold"), "  ", "  ".join(_pace(beat))))
    lines += [Text(f"failed: {title}: {reason}", "red") for title, reason in failed]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def lines(snapshot: Snapshot) -> list[str]:
    """The same without a terminal."""
    counts = ", ".join(f"{count} {state}" for state, count in snapshot.counts.items() if count)
    suite = f"{counts}; {100 * snapshot.fraction:.0f} %, {clock(snapshot.seconds_left)} left"
    return [suite, *(f"  {title}: {told(beat)}" for title, beat in snapshot.running)]


def told(beat: Heartbeat) -> str:
    """`epoch 3/240  12,345 images/s  1 min 20 s left  loss 2.31  lr 0.05`."""
    return "  ".join([*_pace(beat), *_metrics(beat)])


def clock(seconds: float | None) -> str:
    """`1 h 05 min`, `3 min 20 s`, `12 s`, or `?`."""
    if seconds is None:
        return "?"
    seconds = int(seconds + 0.5)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"


def _pace(beat: Heartbeat) -> list[str]:
    parts = [beat.stage]
    if beat.images_per_second is not None:
        parts.append(f"{beat.images_per_second:,.0f} images/s")
    if beat.seconds_left is not None:
        parts.append(f"{clock(beat.seconds_left)} left")
    return parts


def _metrics(beat: Heartbeat) -> list[str]:
    parts = []
    for name, value in beat.metrics.items():
        if value is not None:
            unit = " %" if name.endswith("_percent") else ""
            parts.append(f"{name.removesuffix('_percent').replace('_', ' ')} {value:.4g}{unit}")
    return parts


def _bar(fraction: float, width: int = BAR) -> Text:
    full = int(fraction * width)
    return Text.assemble(("━" * full, "green"), ("━" * (width - full), "bright_black"), f" {int(100 * fraction):3d} %")
