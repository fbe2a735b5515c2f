"""Makes the helpers beside the tests, and the random trees of the rollout tests, importable."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "rollout")]
