#!/usr/bin/env bash
# The tests beside other versions of Python, torch and OpenMMLab, each set in an environment of its own:
#
#     tests/versions.sh [--keep DIR] [oldest] [torch2] [forks]      by default all of them; DIR keeps the environments
#
# A set downloads gigabytes (torch comes with CUDA) and `forks` compiles mmcv's ops, hence this is no part of `make test`.
# Each set's Python must be on the PATH. Options of pytest: PYTEST_ADDOPTS='-n 2'.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
pytest="pytest pytest-xdist hypothesis"
plain="tests/sparsity tests/models tests/test_compat.py $(echo tests/test_checkpoint*.py)"

# python, base (all that is there before OpenMMLab is built), openmmlab, tests
define() {
    case $1 in
    oldest)  # mmcv-lite has no ops, so mmdet and mmsegmentation cannot run
        python=python3.8
        base="torch==1.13.1 torchvision==0.14.1 numpy<2 setuptools==69.5.1 wheel $pytest"
        openmmlab="mmengine==0.10.0 mmcv-lite==2.0.0 mmpretrain==1.2.0"
        tests=$plain ;;
    torch2)  # the hooks too; mmengine 0.10.0 forgets the place in the data when it resumes
        python=python3.8
        base="torch==2.0.0 torchvision==0.15.1 numpy<2 setuptools==69.5.1 wheel $pytest"
        openmmlab="mmengine==0.10.7 mmcv-lite==2.1.0 mmpretrain==1.2.0"
        tests="$plain tests/engine/test_sparsity_hook.py tests/engine/test_sparse_ema.py tests/engine/test_layer_decay.py
            tests/engine/test_checkpoint_hook.py tests/engine/test_exact_resume_hook.py tests/engine/test_invalid_loss_hook.py" ;;
    forks)
        python=python3.11
        base="torch==2.13.0 torchvision==0.28.0 -r requirements/build.txt -r requirements/dev.txt"
        openmmlab="onedl-mmengine onedl-mmcv onedl-mmdetection onedl-mmsegmentation onedl-mmpretrain"
        # the first is about .venv; in the second the forks' own tool and mmengine do not find the base config 'mmseg::...'
        stock=tests/tools/test_train_and_test.py::test_stock_tools_of_mmsegmentation
        tests="tests --deselect tests/test_setup.py --deselect $stock" ;;
    *)  echo "unknown set '$1': choose from oldest, torch2, forks" >&2; exit 2 ;;
    esac
}

folder=
if [ "${1-}" = --keep ]; then folder=${2:?--keep needs a folder}; shift 2; fi
if [ $# = 0 ]; then set -- oldest torch2 forks; fi
for name; do  # before hours of work
    define "$name"
    "$python" -c '' 2>/dev/null || { echo "$name needs $python, which is not on the PATH" >&2; exit 2; }
done
if [ -z "$folder" ]; then folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; fi
mkdir -p "$folder"

install() {  # venv
    "$python" -m venv --clear "$1"
    pip() { "$1/bin/python" -m pip --quiet "${@:2}"; }
    # shellcheck disable=SC2086  # lists of words
    pip "$1" install $base
    # shellcheck disable=SC2086
    pip "$1" install --no-build-isolation $openmmlab
    # the build without libGL, as in requirements/setup.sh
    pip "$1" uninstall -y opencv-python
    pip "$1" install --force-reinstall --no-deps opencv-python-headless
    site=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    cp slak_mm/compat/torchvision_cpu.py "$site/_torchvision_cpu.py"
    echo 'import _torchvision_cpu; _torchvision_cpu.install()' > "$site/torchvision_cpu.pth"
    pip "$1" install --no-deps --no-build-isolation -e .
}

table="set|versions|result" failed=0
for name; do
    define "$name"
    venv=$folder/$name
    [ -e "$venv/done" ] || { install "$venv" && touch "$venv/done"; }
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pytest $tests 2>&1 | tee "$venv/pytest.log" || failed=1
    versions=$("$venv/bin/python" -V; "$venv/bin/python" -m pip list --format freeze | grep -E '^(torch|numpy|mm|onedl-mm)[a-z-]*==')
    table+=$'\n'"$name|"${versions//$'\n'/, }"|$(tail -n 1 "$venv/pytest.log")"
done
echo; column -t -s '|' <<< "$table"
exit $failed
