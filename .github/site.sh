#!/usr/bin/env bash
# The pages of the committed suites as a static site: made anew from the shipped results, with a list of them in front.
# Usage: .github/site.sh FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
site=$1
mkdir -p "$site"
for about in $(git ls-files 'tables/*/about.json'); do
  suite=$(basename "$(dirname "$about")")
  python -m benchmark report "$suite" --tables "$site"
done
python - "$site" <<'PYTHON'
import html, json, pathlib, sys

site = pathlib.Path(sys.argv[1])
items = []
for path in sorted(site.glob("*/about.json")):
    about = json.loads(path.read_text())
    texts = (about["suite"], about["description"], about["answer"])
    name, what, answer = (html.escape(text) for text in texts)
    items.append(f'<li><a href="{path.parent.name}/report.html">{name}</a>: {what}. {answer}</li>')
if (site / "leaderboard.html").exists():
    items.insert(0, '<li><a href="leaderboard.html">Leaderboard</a>: all rows, ranked.</li>')
listed = "\n".join(items) or "<li>No suite is committed yet.</li>"
site.joinpath("index.html").write_text(
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>Split-inversion benchmark</title><body style='font-family: sans-serif; max-width: 50em; margin: 2em auto'>"
    f"<h1>Split-inversion benchmark</h1><ul>{listed}</ul></body></html>"
)
PYTHON
