#!/usr/bin/env bash
# Renews the lock files in requirements/lock: `make lock`. Each pins all that `make setup` installs for one Python, but torch.
#
#     requirements/lock.sh [name of uv's option ...]     e.g. --upgrade-package onnx; without any, everything is renewed
#
# What is asked for by name: runtime.txt, build.txt, dev.txt, and releases.txt or forks.txt. uv resolves it for Linux.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# != 0 ] || set -- --upgrade
export UV_CUSTOM_COMPILE_COMMAND='make lock'

lock() {  # name of the set, Python, OpenMMLab's packages
    # mmengine asks for the OpenCV build that needs libGL; torch.txt says why torch is in no lock
    uv pip compile --quiet --python-version "$2" --python-platform linux --annotation-style line \
        --excludes <(echo opencv-python; sed 's/[=#].*//' requirements/torch.txt) --build-constraints requirements/build.txt \
        requirements/{runtime,build,dev,"$3"}.txt --output-file "requirements/lock/$1.txt" "${@:4}"
}

lock py310 3.10 releases "$@"
lock py311 3.11 releases "$@"
lock py312 3.12 releases "$@"
lock py313 3.13 forks "$@"
lock py311-forks 3.11 forks "$@"
