# What people do here; `just` lists it. Each line works by hand as well.

# set up, then every table of the default suite
default *words:
    ./reproduce.sh {{words}}

# the tests, or some of them
test *words:
    python -m pytest {{words}}

# format and lint, imports by layer and types included
lint:
    ruff format .
    ruff check .
    lint-imports
    pyright

# the tests of Ray and Slurm, on real ones of this machine
engines:
    python -m pytest -m engines --durations=5

# how fast the steps are on this machine
speed *words:
    python -m benchmark measure speed {{words}}

# what a change has to pass, from nothing
ci:
    .ci/run
