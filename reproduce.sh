#!/usr/bin/env bash
# Usage: ./reproduce.sh [SUITE|test] [OPTION] ...
#
#   ./reproduce.sh                           set up, then the suite demo: what an attack sees, on embedded images
#   ./reproduce.sh cifar100 --device cuda:1  the same path on CIFAR-100 at the published settings, on the second GPU
#   ./reproduce.sh test                      set up, then the tests
#
# The options are those of the commands `run`, `report` and `diff`, and each command gets those that it knows: --where and
# --set choose and change cells, --device and --cells-per-gpu say where they run, --compare how they are reported.
# `--plugin FILE` loads a defence, attack or data set of your own. Works from any directory and may be run again at any
# time: what is installed, prepared or computed is kept. BENCHMARK_DATA, BENCHMARK_RESULTS, BENCHMARK_TABLES and
# BENCHMARK_DEVICE override the defaults.
set -euo pipefail
# what the user's environment says of other work: where a relative cd leads, where pip installs, which Python's library
unset CDPATH PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PYTHONHOME
export PIP_USER=0 # against a pip.conf
# pip compiles nothing here, so Python has to keep what it compiles: without that each start takes twice as long
unset PYTHONDONTWRITEBYTECODE
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf '== %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 2; }

# -- set up: conda, mamba or micromamba where found, else a venv with the pip section of environment.yml
set_up() {
  local tool wanted
  wanted=$(cksum environment.yml pyproject.toml requirements.lock)
  for tool in micromamba mamba conda; do
    if command -v "$tool" >/dev/null; then
      python=$PWD/.conda/bin/python
      [ "$(cat .conda/.installed 2>/dev/null)" = "$wanted" ] && return
      say "setting up the environment .conda with $tool"
      if { [ -e .conda ] || [ -L .conda ]; } && [ ! -f .conda/.installed ] && [ ! -f .conda.unfinished ]; then
        die "$PWD/.conda was not made by reproduce.sh; move it away and run again"
      fi
      : > .conda.unfinished # beside it: conda makes an environment only where nothing is yet
      rm -rf .conda # an update of a half-made environment fails
      CONDA_ALWAYS_YES=true MAMBA_ALWAYS_YES=true "$tool" env create -p "$PWD/.conda" -f environment.yml
      "$python" -m pip install --quiet --no-deps --editable .
      printf '%s' "$wanted" > .conda/.installed
      rm .conda.unfinished
      return
    fi
  done
  python=$PWD/.venv/bin/python
  [ "$(cat .venv/.installed 2>/dev/null)" = "$wanted" ] && return
  say "setting up the environment .venv (a few minutes the first time)"
  command -v python3 >/dev/null || die "python3 is not installed; install Python 3.10 or newer"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "python3 is $(python3 -V 2>&1); install Python 3.10 or newer"
  if ! "$python" -m pip --version >/dev/null 2>&1; then
    if [ -e .venv ] || [ -L .venv ]; then # one half-made here is made anew, nobody else's
      [ -f .venv/.made-by-reproduce ] ||
        die "$PWD/.venv has no pip and was not made by reproduce.sh; install pip into it or move it away, and run again"
      rm -rf .venv
    fi
    mkdir .venv
    : > .venv/.made-by-reproduce
    python3 -m venv .venv || die "python3 -m venv failed; install Python's venv package"
  fi
  # the pip section: the items below the line '- pip:'
  sed -n '/- pip:/,$ s/^ *- \([A-Za-z].*[^:]\)$/\1/p' environment.yml > .venv/requirements.txt
  # under Python 3.11, the reference, every version is the one of the lock file
  : > .venv/constraints.txt
  "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' && cp requirements.lock .venv/constraints.txt
  # not compiled: that would take as long as the rest, and Python compiles what it loads
  "$python" -m pip install --quiet --no-compile --requirement .venv/requirements.txt --constraint .venv/constraints.txt
  "$python" -m pip install --quiet --no-deps --editable .
  printf '%s' "$wanted" > .venv/.installed
}

suite=demo
case ${1:-} in -h | --help) sed -n '2,12s/^# \{0,1\}//p' reproduce.sh; exit 0 ;; '' | -*) ;; *) suite=$1; shift ;; esac

if [ "$suite" = test ]; then
  set_up
  say "running the tests"
  # a file of tests at a time in each of a few processes, which leave the other cores alone
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  exec "$python" -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
fi
prepare=("$suite") run=("$suite") report=("$suite") diff=("$suite") benchmark=(-m benchmark)
compare=yes # with the published tables
case $suite in demo | smoke) compare= ;; esac # they have nothing in common with those
while [ $# -gt 0 ]; do # every option to the commands that know it
  name=${1%%=*} words=("$1")
  case $1 in
    *=* | --wait | --compare | --plots | --no-plots) ;;
    *)
      [ $# -gt 1 ] || die "$1 needs a value, or is unknown; see ./reproduce.sh --help"
      words+=("$2")
      shift
      ;;
  esac
  shift
  case $name in
    --where | --set | --matrix | --data)
      prepare+=("${words[@]}") run+=("${words[@]}") report+=("${words[@]}") diff+=("${words[@]}")
      ;;
    --results) run+=("${words[@]}") report+=("${words[@]}") diff+=("${words[@]}") ;;
    --device | --cells-per-gpu | --tensorboard | --engine | --address) run+=("${words[@]}") ;;
    --partition | --time | --max-jobs | --sbatch | --wait) run+=("${words[@]}") ;;
    --tables | --compare | --metric | --plots | --no-plots) report+=("${words[@]}") ;;
    --against | --tolerance | --markdown) diff+=("${words[@]}") compare=yes ;;
    --plugin) benchmark+=("${words[@]}") ;;
    *) die "unknown option $name; see ./reproduce.sh --help" ;;
  esac
done

set_up
say "preparing the data of the suite $suite"
"$python" "${benchmark[@]}" data prepare "${prepare[@]}"
say "running the suite $suite"
status=0
"$python" "${benchmark[@]}" run "${run[@]}" || status=$?
[ "$status" -le 1 ] || exit "$status" # 1: some cells failed, which the tables will say
if [ -n "$compare" ]; then
  say "comparing with other numbers"
  compared=0
  "$python" "${benchmark[@]}" diff "${diff[@]}" || compared=$?
  [ "$compared" -le 1 ] || status=$compared # 1: beyond tolerance, which is a finding and no error
fi
say "writing the tables of the suite $suite"
"$python" "${benchmark[@]}" report "${report[@]}"
exit "$status"
