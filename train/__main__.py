"""``python -m laconic.train CONFIG [key=value ...]``: ``laconic train``, for ``accelerate launch -m`` and the like."""

import runpy
import sys

sys.argv[1:1] = ["train"]
runpy.run_module("laconic", run_name="__main__")
