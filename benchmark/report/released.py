"""The list of the models that the authors published, as Markdown."""

from pathlib import Path

from benchmark.report.render import markdown_table, write_text

HEADINGS = ["row", "folder", "strengths", "accuracy %", "printed", "doubt", "sha256"]


def write_released(lines: list[list[str]], out: Path) -> Path:
    """released.md below `out`: `lines` under HEADINGS."""
    text = (
        "# Released models\n\nTrained by the paper's authors; read, not trained here. The strengths are those that the "
        "folder's path or the command's options say. A dash: the server's files are not there, or nothing is "
        "printed.\n\n"
    )
    return write_text(out / "released.md", text + markdown_table(lines, HEADINGS) + "\n")
