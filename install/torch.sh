#!/usr/bin/env bash
# Installs the tested torch: `install/torch.sh PYTHON cpu|cuda`.
#
# On Linux the default index serves the CUDA build, gigabytes that a machine without an NVIDIA GPU cannot use, so the
# CPU build is asked for at PyTorch's own index first. A machine that cannot reach that index finds out within seconds.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$1
build=$2
cpu_index=https://download.pytorch.org/whl/cpu
torch=$(grep '^torch==' constraints.txt)

main() {
    if [ "$build" = cpu ] && [ "$(uname)" = Linux ] && answers "$cpu_index/torch/"; then
        if install --index-url "$cpu_index"; then return; fi
        echo "PyTorch's CPU index has no $torch for this Python; trying the default index" >&2
    fi
    install
}

install() { "$python" -m pip install --quiet --quiet --progress-bar off --disable-pip-version-check "$@" "$torch"; }

# A look-up of a name can hang longer than the socket's limit, hence the second limit around it.
answers() {
    timeout 10 "$python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "$1" \
        >/dev/null 2>&1
}

main
