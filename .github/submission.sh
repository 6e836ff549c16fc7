#!/usr/bin/env bash
# Archives of results that are new since a commit: imported into a folder of their own, checked, and scored again.
# Usage: .github/submission.sh COMMIT
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$(mktemp -d)
git diff -z --name-only --diff-filter=AM "$1...HEAD" -- 'results/shipped/*/*.tar.gz' >"$folder/list"
status=0 number=0
while IFS= read -r -d '' archive; do
  number=$((number + 1))
  echo "== $archive"
  python -m benchmark data prepare "$(basename "$(dirname "$archive")")"
  python -m benchmark store import "$archive" --results "$folder/$number" || status=1
  python -m benchmark store verify --rescore 2 --results "$folder/$number" || status=1
done <"$folder/list"
echo "$number archives"
exit $status
