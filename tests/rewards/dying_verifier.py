"""A verifier whose module takes the process down when it is imported."""

from __future__ import annotations

import os

os._exit(5)
