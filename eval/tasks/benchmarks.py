r"""The benchmarks and training sets known by name: where they are, how they are asked, how answers are judged.

    problem + newline + "Please reason step by step, and put your final answer within \boxed{}."        BOXED
    question + lettered options + "... end with a line 'Answer: X'"                                     CHOICE

The instruction stands in the user's turn; there is no system prompt and no example. Answers are read from the text
after the thought only. Columns are those of the Hub's data set; a local file may also use the plain names ``id``,
``problem``, ``answer``, ``level`` and ``subject``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .problem import Split

BOXED = "{prompt}\nPlease reason step by step, and put your final answer within \\boxed{}."
CHOICE = (
    "{prompt}\nPlease reason step by step, and end with a line of the form 'Answer: X', where X is the letter of the "
    "right option."
)


@dataclass(frozen=True)
class Benchmark:
    """One named set of problems."""

    name: str
    size: int
    """Problems in the Hub's copy; a local file may hold a few less."""
    hub: str
    """Id of the data set on the Hub."""
    split: str
    """Of the Hub's data set; many test sets have a single split that is called ``train``."""
    licence: str
    configs: tuple[str | None, ...] = (None,)
    """Configurations of the Hub's data set, one after another."""
    role: Split = "test"
    """What it is for."""
    problem: str = "problem"
    answer: str = "answer"
    """Holds the final answer, or a solution with it in ``\\boxed{}`` or after ``####``."""
    id: str | None = None
    """Without one, problems are numbered."""
    level: str | None = None
    """Column of the difficulty; ``#`` takes the number of the configuration, from 1."""
    subject: str | None = None
    levels: str = ""
    """The levels and subjects in words, for the list."""
    file: str = ""
    """Name of the local file without its ending, if it is not ``name``."""
    style: Literal["boxed", "choice"] = "boxed"
    verifier: str = "math_eval"
    """Id of the verifier that judges the answers."""
    k: int = 4
    """Samples per problem that are usually taken."""
    within: float = 0.1
    """Mean p(1-p) of a problem's answers, assumed where a detectable difference is computed."""
    held_out: str | None = None
    """For training sets: the test set that a run on it is evaluated on, and must not overlap with."""
    gated: bool = False
    """Whether the Hub wants a login and an agreement first."""

    @property
    def template(self) -> str:
        """Text around each problem."""
        return BOXED if self.style == "boxed" else CHOICE

    @property
    def stem(self) -> str:
        """Name of the local file without its ending."""
        return self.file or self.name


_SUBJECTS = ("algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra")
_MATH = (*_SUBJECTS, "precalculus")
_MAA = "MAA texts"
"""Texts of the competitions of the Mathematical Association of America."""

_ROWS = (
    Benchmark(
        "gsm8k", 1319, "openai/gsm8k", "test", "MIT", configs=("main",), problem="question", file="gsm8k_test",
        verifier="number", k=1, within=0.05,
    ),
    Benchmark(
        "math", 5000, "EleutherAI/hendrycks_math", "test", "MIT", configs=_MATH, answer="solution", level="level",
        subject="type", levels="1-5, subjects", file="math_test", k=1, within=0.05,
    ),
    Benchmark(
        "math500", 500, "HuggingFaceH4/MATH-500", "test", "MIT", id="unique_id", level="level", subject="subject",
        levels="1-5, subjects", within=0.05,
    ),
    Benchmark("aime24", 30, "HuggingFaceH4/aime_2024", "train", _MAA, id="id", k=32),
    Benchmark("aime25", 30, "yentinglin/aime_2025", "train", _MAA, id="id", k=32),
    Benchmark("amc23", 40, "knoveleng/AMC-23", "train", _MAA, k=32),
    Benchmark(
        "olympiadbench", 675, "knoveleng/OlympiadBench", "train", "MIT", problem="question", id="id",
        subject="subfield", levels="subjects",
    ),
    Benchmark(
        "olymmath", 200, "RUC-AIBOX/OlymMATH", "test", "MIT", configs=("en-easy", "en-hard"), id="unique_id",
        level="#", subject="subject", levels="1-2, subjects", k=8,
    ),
    Benchmark("minerva", 272, "knoveleng/Minerva-Math", "train", "CC BY-NC-SA", answer="solution"),
    Benchmark(
        "gpqa_diamond", 198, "Idavidrein/gpqa", "train", "CC BY", configs=("gpqa_diamond",), problem="Question",
        answer="Correct Answer", id="Record ID", subject="High-level domain", levels="subjects", style="choice",
        verifier="choice", k=8, gated=True,
    ),
    Benchmark(
        "gsm8k_train", 7473, "openai/gsm8k", "train", "MIT", configs=("main",), role="train", problem="question",
        verifier="number", k=1, within=0.05, held_out="gsm8k",
    ),
    Benchmark(
        "math_train", 7500, "EleutherAI/hendrycks_math", "train", "MIT", configs=_MATH, role="train",
        answer="solution", level="level", subject="type", levels="1-5, subjects", verifier="math", k=1, within=0.05,
        held_out="math500",
    ),
)  # fmt: skip

WRONG_OPTIONS = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
"""Columns of the other options of a multiple-choice question."""

BENCHMARKS: dict[str, Benchmark] = {row.name: row for row in _ROWS}
"""Every named set, by name."""
