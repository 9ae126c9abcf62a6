#!/usr/bin/env bash
# Fills .venv with a pinned set: `make setup`. Run again, it returns at once unless a pinned file changed.
#
# Which set: the newest Python that works and for which requirements/lock has a file. To choose instead:
#
#     PYTHON=python3.11    this Python
#     LOCK=py311-forks     requirements/lock/py311-forks.txt, not the one named after the Python
#     TORCH=newest         the newest torch that installs, not the one in torch.txt
#     VENV=folder          another folder than .venv
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-$PWD/.venv}
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
die() { printf '\033[1;31m[setup]\033[0m %s\n' "$@" >&2; exit 1; }

# --- a Python: each thing that it lacks is named with the command that installs it ------------------------------------
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }  # fails for a shim of pyenv that is not active
has_lock() { [ -f "requirements/lock/py${1/./}.txt" ]; }
lacks() {  # prints what is missing and the command that installs it, or nothing
    if ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "Python $2's venv module is missing."; echo "Install it:  sudo apt-get install python$2-venv"
    elif [ ! -f "$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; then
        echo "Python $2's headers are missing; mmcv's ops need them."; echo "Install them:  sudo apt-get install python$2-dev"
    fi
}

choose_python() {  # sets python and version
    local candidate missing=
    local install="Install one:  sudo apt-get install python3-venv python3-dev   (or set PYTHON=/path/to/python)"
    if [ -n "${PYTHON-}" ]; then
        python=$PYTHON
        version=$(version_of "$python") || die "'$python' is no Python that runs." "$install"
        has_lock "$version" || die "'$python' is $version; Python ${versions[*]} have a pinned set." "$install"
        missing=$(lacks "$python" "$version")
        [ -z "$missing" ] || die "$missing"
        return
    fi
    # an environment keeps its Python, though a newer one has come
    python=$("$venv/bin/python" -c 'import sys; print(sys._base_executable)' 2>/dev/null) || python=
    version=$(version_of "$python") && has_lock "$version" && return
    for candidate in "${versions[@]/#/python}" python3 python; do
        version=$(version_of "$candidate") && has_lock "$version" || continue
        python=$(type -P "$candidate")
        if [ -z "$(lacks "$python" "$version")" ]; then return; fi
        missing=${missing:-$(lacks "$python" "$version")}
    done
    [ -z "$missing" ] || die "$missing"
    die "No Python of ${versions[*]} is on the PATH." "$install"
}

# --- mmcv: no wheel exists for this torch, so it is compiled once -----------------------------------------------------
mmcv_works() { "$venv/bin/python" -c 'from mmcv.ops import nms' 2>/dev/null; }
build_mmcv() {
    local tmp; tmp=$(mktemp -d); trap 'rm -rf "$tmp"; trap - RETURN' RETURN
    # -O2 -g0 and a precompiled torch/types.h: about 4 minutes on 2 cores where the plain build takes 10.
    local flags="-DNDEBUG -g0 -fwrapv -O2"
    local includes; includes=$("$venv/bin/python" - 2>/dev/null <<'PY'
import sysconfig
from torch.utils.cpp_extension import include_paths
print(*(f'-I{path}' for path in [*include_paths(), sysconfig.get_path('include')]))
PY
)
    echo '#include <torch/types.h>' > "$tmp/types.h"
    # shellcheck disable=SC2086
    "${CXX:-g++}" $flags -w -fPIC -std=c++17 $includes -DTORCH_API_INCLUDE_EXTENSION_H -x c++-header "$tmp/types.h" || true
    CFLAGS="$flags -include $tmp/types.h" pip install "$@" --no-deps --no-build-isolation "$mmcv"
}
install_mmcv() {
    local gpu cuda
    gpu=$("$venv/bin/python" -c 'import torch; print(torch.cuda.is_available() and torch.version.cuda.split(".")[0] or "")')
    cuda=$(nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
    if [ -n "$gpu" ] && [ "$cuda" = "$gpu" ]; then
        export FORCE_CUDA=1
    elif [ -n "$gpu" ]; then
        say "A GPU is here, but no nvcc of CUDA $gpu: mmcv's ops (RoIAlign, NMS) are built for the CPU only."
        say "Install the CUDA $gpu toolkit, remove .venv and run this again for the GPU ones."
        export CUDA_VISIBLE_DEVICES=
    fi
    say "mmcv: compiling its ops, once (minutes; pip keeps the wheel)"
    build_mmcv
    # A wheel that pip kept from another torch installs and does not load.
    mmcv_works || { say "the cached mmcv was built for another torch: compiling again"; build_mmcv --no-cache-dir --force-reinstall; }
    mmcv_works || die "mmcv was built but does not load:" "$("$venv/bin/python" -c 'from mmcv.ops import nms' 2>&1 | tail -n 1)"
}

pip() { "$venv/bin/python" -m pip --quiet "$@"; }

main() {
    local versions python version lock set mmcv stamp site
    mapfile -t versions < <(ls requirements/lock | sed -n 's/^py3\([0-9]*\)\.txt$/3.\1/p' | sort -Vr)
    choose_python
    set=${LOCK:-py${version/./}}
    lock=requirements/lock/$set.txt
    [ -f "$lock" ] || die "There is no $lock."
    set+=${TORCH:+-torch-$TORCH}

    stamp="$set $( (echo "$PWD"; "$python" -VV; cat requirements/*.* "$lock" setup.py pyproject.toml slak_mm/compat/torchvision_cpu.py) | sha256sum)"
    [ "$(cat "$venv/.setup-stamp" 2>/dev/null)" != "$stamp" ] || return 0
    [ ! -L "$venv" ] || die "$venv is a link: nothing is changed in an environment that is another's." \
        "Remove the link for one of this checkout's own:  rm $venv"
    command -v "${CXX:-g++}" >/dev/null || die "A C++ compiler is needed to build mmcv's ops." \
        "Install it:  sudo apt-get install g++"

    if ! grep -qs "^$set " "$venv/.setup-stamp" || ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        say "new $(basename "$venv"): $("$python" -V)"
        "$python" -m venv --clear "$venv"
        echo "$set unfinished" > "$venv/.setup-stamp"
    fi
    if grep -q '^onedl-' "$lock"; then
        say "OpenMMLab: the maintained forks, onedl-* (same import names), since its last releases end at Python 3.12"
    fi

    say "torch"
    if [ "${TORCH-}" = newest ]; then
        pip install --upgrade -c "$lock" -r <(sed 's/==.*//' requirements/torch.txt)
    else
        pip install -c "$lock" -r requirements/torch.txt
    fi
    say "OpenMMLab, and runtime and developers' packages"
    mmcv=$(grep -oE '^(onedl-)?mmcv==[^ ]+' "$lock")
    pip install --no-deps -r <(grep -v "^$mmcv" "$lock")

    # torchvision's compiled part is linked to CUDA: beside a CPU build of torch it cannot load, and importing it fails.
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    cp slak_mm/compat/torchvision_cpu.py "$site/_torchvision_cpu.py"
    echo 'import _torchvision_cpu; _torchvision_cpu.install()' > "$site/torchvision_cpu.pth"

    mmcv_works || install_mmcv
    say "slak_mm"
    pip install --no-deps --no-build-isolation -e .
    echo "$stamp" > "$venv/.setup-stamp"
    say "done"
}

main  # on the last line, so that bash has read the whole file, should it change meanwhile
