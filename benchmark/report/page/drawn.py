"""The figures of plots/ within the page: the same SVG with unique ids."""

import re

from markupsafe import Markup, escape

from benchmark.report.plots.drawings import FIGURES, Drawing

OPEN = 2  # figures that stand open; the rest are folded, to keep the page short


def ordered(drawings: list[Drawing]) -> list[Drawing]:
    """Every figure of the suite, most important first (accuracy against MSE, then published against produced)."""
    order = ["tradeoff", "published", *FIGURES]
    return sorted(drawings, key=lambda drawing: order.index(drawing.name))


def inline(svg: str, name: str, label: str) -> Markup:
    """An SVG file as an element of a page. name: goes before its ids, so that several can stand in one page."""
    ((box, body),) = re.findall(r'<svg [^>]*viewBox="([^"]*)"[^>]*>(.*)</svg>', svg, re.DOTALL)
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return Markup(f'<svg {spaces} role="img" aria-label="{escape(label)}" viewBox="{box}">{body}</svg>')
