"""One self-contained page: every table, pictures, and where the numbers come from."""

import base64
from collections.abc import Sequence

from benchmark.errors import UserError
from benchmark.report.render import environment
from benchmark.report.tables import Table

_PNG = b"\x89PNG\r\n\x1a\n"


def render_page(
    tables: Sequence[Table],
    provenance: Sequence[dict] = (),
    images: Sequence[tuple[str, bytes]] = (),
    title: str = "Model inversion benchmark",
) -> str:
    """The page's HTML; it loads nothing from outside and runs no script.

    provenance: one dict a line, printed as a table whose columns are the keys in the order they first come;
    images: (caption, PNG file content). Raises UserError for image data that is not a PNG.
    """
    for caption, data in images:
        if not data.startswith(_PNG):
            raise UserError(f"the picture '{caption}' is not a PNG file; make it again with the report command")
    return (
        environment("html")
        .get_template("report.html.j2")
        .render(
            title=title,
            tables=tables,
            provenance=provenance,
            provenance_keys=list(dict.fromkeys(key for line in provenance for key in line)),
            images=[(caption, base64.b64encode(data).decode("ascii")) for caption, data in images],
        )
    )
