# Everything a developer types. `just` without a recipe lists them.

set shell := ["bash", "-euo", "pipefail", "-c"]

venv := justfile_directory() / ".venv"
bin := venv / "bin"
plugins := "plugins/kserve plugins/mlflow plugins/s3"
installed := venv / "installed-from"

_list:
    @{{ bin }}/just --list --unsorted

# Install the project, its plugins and the developers' tools into .venv, from the lock file, unless that is done.
setup:
    @sha256sum --check --status {{ installed }} 2> /dev/null && test -x {{ bin }}/python || {{ just_executable() }} _install

_install:
    @rm -f {{ installed }}
    @test -x {{ bin }}/python || python3 -m venv {{ venv }}
    @test -x {{ bin }}/uv || {{ bin }}/python -m pip install --quiet --disable-pip-version-check uv
    @VIRTUAL_ENV={{ venv }} {{ bin }}/uv pip install --quiet --compile-bytecode --require-hashes --requirement requirements.lock
    @VIRTUAL_ENV={{ venv }} {{ bin }}/uv pip install --quiet --no-deps --editable . $(printf -- '--editable %s ' {{ plugins }})
    @sha256sum justfile requirements.lock pyproject.toml $(printf '%s/pyproject.toml ' {{ plugins }}) > {{ installed }}

# Resolve the lock file anew.
lock:
    {{ bin }}/uv lock --quiet --upgrade
    {{ bin }}/uv export --quiet --frozen --all-packages --all-extras --all-groups --no-emit-workspace --no-header --format requirements-txt --output-file requirements.lock

# Rewrite the sources in the project's format.
format:
    {{ bin }}/ruff format .
    {{ bin }}/ruff check --fix .

# Formatting, lint, types and import layers.
check: setup
    {{ bin }}/ruff format --check .
    {{ bin }}/ruff check .
    {{ bin }}/mypy
    {{ bin }}/lint-imports --no-cache

# Programs start faster from byte code than from sources, wherever this is run.
unexport PYTHONDONTWRITEBYTECODE

# What the tests' environments are built from is downloaded once.
export FUSEMLD_TEST_CACHE := env("FUSEMLD_TEST_CACHE", venv / "test-cache")

control_plane := path_exists(env("KUBEBUILDER_ASSETS", "/usr/local/kubebuilder/bin") / "kube-apiserver")

# Every test, those of the plugins included, but for what `test-cluster` runs where there is a control plane; in two processes (`-n 0`: in one, which `--pdb` needs).
test *args: setup
    {{ bin }}/pytest -n 2 {{ if control_plane == "true" { "-m 'not cluster'" } else { "" } }} {{ args }}

# Every test on a real Kubernetes cluster, which is started on this machine; fails where there is no control plane.
test-cluster *args: setup
    FUSEMLD_TEST_CLUSTER_REQUIRED=1 {{ bin }}/pytest -m cluster --timeout 600 {{ args }}

# What the README says about the service, on a machine with systemd that is built and booted for it (root, Debian).
test-service *args: setup
    FUSEMLD_TEST_SERVICE_REQUIRED=1 {{ bin }}/pytest tests/acceptance/test_service.py {{ args }}

# The whole chain on this machine: build, train, track, store, serve, predict (`--keep` leaves it running).
demo *args: setup
    {{ bin }}/python examples/demo.py {{ args }}

# What things cost, as ratios to floors measured in the same run.
bench: setup
    PYTHONPATH=. {{ bin }}/python -m tests.bench.daemon
    PYTHONPATH=. {{ bin }}/python tests/bench/keeper.py
    PYTHONPATH=. {{ bin }}/python -m tests.bench.scale

# What bad neighbours cost the others, alone and beside them in turns (`floods`, `forks`...: only these).
bench-neighbours *args: setup
    PYTHONPATH=. {{ bin }}/python -m tests.bench.neighbours {{ args }}

# What steps as pods cost, on an API server and a node of this machine.
bench-cluster: setup
    PYTHONPATH=. {{ bin }}/python -m tests.bench.cluster

# What a step costs in other systems, each in an environment of its own, measured in the same run.
bench-peers: setup
    PYTHONPATH=. {{ bin }}/python -m tests.bench.peers

# Kill the daemon and its keeper under load, fill the disk, set the clock and the like, and count what ran twice, was lost or stuck (`--kills N --runs N --seed N`; `--points` lists the fault points with their tests).
torture *args: setup
    PYTHONPATH=. {{ bin }}/python -m tests.torture.campaign {{ args }}

# Look for files that break the reader, guided by the code that they reach (`-max_total_time=SECONDS`).
fuzz *args: setup
    @test -d .fuzz/atheris || {{ bin }}/uv pip install --quiet --only-binary :all: --target .fuzz/atheris 'atheris>=3'
    PYTHONPATH=.:.fuzz/atheris {{ bin }}/python -m tests.spec.fuzz .fuzz/corpus {{ args }}

# Look for histories of runs, of databases and for files that break a promise, elsewhere than the tests do each time.
search *args: setup
    {{ bin }}/pytest --hypothesis-profile search --timeout 3600 tests/engine tests/store tests/spec {{ args }}
