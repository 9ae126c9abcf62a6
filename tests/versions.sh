#!/usr/bin/env bash
# The tests beside other versions of Python, torch and OpenMMLab, each set in an environment of its own:
#
#     tests/versions.sh [--keep DIR] [SET ...]      by default all of them; DIR keeps the environments
#
#     py310 py311 py312 py313    what `make setup` installs for that Python
#     newest                     the newest torch that installs
#     forks                      OpenMMLab's maintained forks on Python 3.11
#     torch2 oldest              torch 2.0 and 1.13 on Python 3.8: what a user's own environment may hold
#
# A set downloads gigabytes (torch comes with CUDA) and compiles mmcv's ops, hence this is no part of `make test`.
# Each set's Python must be on the PATH (with pyenv: PYENV_VERSION=3.13.0:3.12.1:...). Options of pytest: PYTEST_ADDOPTS='-n 2'.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
all="py310 py311 py312 py313 newest forks torch2 oldest"
pytest="pytest pytest-xdist hypothesis"
plain="tests/sparsity tests/models tests/compat tests/checkpoints"

# python and tests; setup (the variables of requirements/setup.sh), or base (all that is there before OpenMMLab is built) and openmmlab
define() {
    setup= tests=tests
    case $1 in
    py3*)
        python=python3.${1#py3}; setup="PYTHON=$python" ;;
    newest)
        python=python3.13; setup="PYTHON=$python TORCH=newest" ;;
    forks)
        python=python3.11; setup="PYTHON=$python LOCK=py311-forks" ;;
    torch2)  # the hooks too; mmengine 0.10.0 forgets the place in the data when it resumes
        python=python3.8
        base="torch==2.0.0 torchvision==0.15.1 numpy<2 setuptools==69.5.1 wheel $pytest"
        openmmlab="mmengine==0.10.7 mmcv-lite==2.1.0 mmpretrain==1.2.0"
        tests="$plain tests/training/test_sparsity_hook.py tests/training/test_sparse_ema.py tests/training/test_layer_decay.py
            tests/reliability/test_checkpoint_hook.py tests/reliability/test_exact_resume_hook.py
            tests/reliability/test_invalid_loss_hook.py" ;;
    oldest)  # mmcv-lite has no ops, so mmdet and mmsegmentation cannot run
        python=python3.8
        base="torch==1.13.1 torchvision==0.14.1 numpy<2 setuptools==69.5.1 wheel $pytest"
        openmmlab="mmengine==0.10.0 mmcv-lite==2.0.0 mmpretrain==1.2.0"
        tests=$plain ;;
    esac
}

folder=
if [ "${1-}" = --keep ]; then folder=${2:?--keep needs a folder}; shift 2; fi
# shellcheck disable=SC2086  # a list of words
if [ $# = 0 ]; then set -- $all; fi
for name; do  # before hours of work
    [[ " $all " = *" $name "* ]] || { echo "unknown set '$name': choose from $all" >&2; exit 2; }
    define "$name"
    "$python" -c '' 2>/dev/null || { echo "$name needs $python, which is not on the PATH" >&2; exit 2; }
done
if [ -z "$folder" ]; then folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

install() {  # venv
    # shellcheck disable=SC2086  # lists of words, here and below
    if [ -n "$setup" ]; then env VENV="$1" $setup requirements/setup.sh; return; fi
    pip() { "$venv/bin/python" -m pip --quiet "$@"; }
    "$python" -m venv --clear "$1"
    pip install $base
    pip install --no-build-isolation $openmmlab
    # the build without libGL, as in the lock files
    pip uninstall -y opencv-python
    pip install --force-reinstall --no-deps opencv-python-headless
    pip install --no-deps --no-build-isolation -e .
}

table="set|versions|result" failed=0
for name; do
    define "$name"
    venv=$folder/$name
    [ -e "$venv/done" ] || { install "$venv" && touch "$venv/done"; }
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pytest $tests 2>&1 | tee "$venv/pytest.log" || failed=1
    versions=$("$venv/bin/python" -V; "$venv/bin/python" -m pip list --format freeze | grep -E '^(torch|numpy|mm|onedl-mm)[a-z-]*==')
    table+=$'\n'"$name|${versions//$'\n'/, }"|$(tail -n 1 "$venv/pytest.log")"
done
echo; column -t -s '|' <<< "$table"
exit $failed
