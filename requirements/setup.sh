#!/usr/bin/env bash
# Fills .venv with the pinned set: `make setup`. Run again, it returns at once unless a pinned file changed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$PWD/.venv
python=${PYTHON:-python3.11}
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
die() { printf '\033[1;31m[setup]\033[0m %s\n' "$@" >&2; exit 1; }

# --- prerequisites: each missing one is named with the command that installs it ---------------------------------------
command -v "$python" >/dev/null || die "Python 3.11 is needed and '$python' is not on the PATH." \
    "Install it:  sudo apt-get install python3.11 python3.11-venv python3.11-dev   (or set PYTHON=/path/to/python3.11)"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = 3.11 ] || die "Python 3.11 is needed (the pinned packages are for it); '$python' is $version." \
    "Install it:  sudo apt-get install python3.11 python3.11-venv python3.11-dev   (or set PYTHON=/path/to/python3.11)"

stamp=$( (echo "$PWD"; "$python" -VV; cat requirements/* setup.py pyproject.toml slak_mm/compat/torchvision_cpu.py) | sha256sum)
if [ "$(cat "$venv/.setup-stamp" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi

command -v "${CXX:-g++}" >/dev/null || die "A C++ compiler is needed to build mmcv's ops." \
    "Install it:  sudo apt-get install g++"
"$python" -c 'import ensurepip, venv' 2>/dev/null || die "Python's venv module is missing." \
    "Install it:  sudo apt-get install python3.11-venv"
[ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || die \
    "Python's headers are missing; mmcv's ops need them." "Install them:  sudo apt-get install python3.11-dev"

# --- packages ---------------------------------------------------------------------------------------------------------
[ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import pip' 2>/dev/null || { say "new .venv"; "$python" -m venv --clear "$venv"; }
pip() { "$venv/bin/python" -m pip --quiet "$@"; }

say "torch"
pip install -c requirements/runtime.txt -r requirements/torch.txt -r requirements/build.txt
say "runtime and developers' packages"
pip install -r requirements/runtime.txt -r requirements/dev.txt
say "OpenMMLab"
pip install --no-deps -r requirements/openmmlab.txt
# Both OpenCV builds own the folder cv2: with the libGL one gone, the headless one must be laid down again.
if pip show opencv-python >/dev/null 2>&1; then
    pip uninstall -y opencv-python
    pip install --no-deps --force-reinstall "$(grep opencv-python-headless requirements/runtime.txt)"
fi

# torchvision's compiled part is linked to CUDA: beside a CPU build of torch it cannot load, and importing it fails.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp slak_mm/compat/torchvision_cpu.py "$site/_torchvision_cpu.py"
echo 'import _torchvision_cpu; _torchvision_cpu.install()' > "$site/torchvision_cpu.pth"

# --- mmcv: no wheel exists for this torch, so it is compiled once -----------------------------------------------------
mmcv_works() { "$venv/bin/python" -c 'from mmcv.ops import nms' 2>/dev/null; }
build_mmcv() {
    local tmp; tmp=$(mktemp -d); trap 'rm -rf "$tmp"' RETURN
    # -O2 -g0 and a precompiled torch/types.h: about 4 minutes on 2 cores where the plain build takes 10.
    local flags="-DNDEBUG -g0 -fwrapv -O2"
    local includes; includes=$("$venv/bin/python" - <<'PY'
import sysconfig
from torch.utils.cpp_extension import include_paths
print(*(f'-I{path}' for path in [*include_paths(), sysconfig.get_path('include')]))
PY
)
    echo '#include <torch/types.h>' > "$tmp/types.h"
    # shellcheck disable=SC2086
    "${CXX:-g++}" $flags -w -fPIC -std=c++17 $includes -DTORCH_API_INCLUDE_EXTENSION_H -x c++-header "$tmp/types.h" || true
    CFLAGS="$flags -include $tmp/types.h" pip install "$@" --no-deps --no-build-isolation -r requirements/mmcv.txt
}
if ! mmcv_works; then
    gpu=$("$venv/bin/python" -c 'import torch; print(torch.cuda.is_available() and torch.version.cuda.split(".")[0] or "")')
    if [ -n "$gpu" ]; then
        if [ "$(nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\..*/\1/p')" = "$gpu" ]; then
            export FORCE_CUDA=1
        else
            say "A GPU is here, but no nvcc of CUDA $gpu: mmcv's ops (RoIAlign, NMS) are built for the CPU only."
            say "Install the CUDA $gpu toolkit, remove .venv and run this again for the GPU ones."
            export CUDA_VISIBLE_DEVICES=
        fi
    fi
    say "mmcv: compiling its ops, once (minutes; pip keeps the wheel)"
    build_mmcv
    # A wheel that pip kept from another torch installs and does not load.
    mmcv_works || { say "the cached mmcv was built for another torch: compiling again"; build_mmcv --no-cache-dir --force-reinstall; }
    mmcv_works || die "mmcv was built but does not load:" "$("$venv/bin/python" -c 'from mmcv.ops import nms' 2>&1 | tail -n 1)"
fi

say "slak_mm"
pip install --no-deps --no-build-isolation -e .
echo "$stamp" > "$venv/.setup-stamp"
say "done"
