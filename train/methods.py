"""The methods that exist, as ``laconic methods`` lists them.

Formula and source stand in the method's own file and are printed from there; defaults are read from its dataclass.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass
from importlib import import_module
from typing import Any

from ..errors import ConfigError
from .settings_io import field_docs, own_fields, plain, resolve

# Shapes of the story: method -> stage -> table -> dataclass

STAGES = {
    "rollout.driver": ("laconic.rollout.drivers", "DRIVERS"),
    "sampler": ("laconic.train.samplers", "SAMPLERS"),
    "truncation": ("laconic.train.truncation", "TRUNCATIONS"),
    "reward.shaping": ("laconic.rewards.shaping", "SHAPINGS"),
    "reward.selection": ("laconic.rewards.selection", "SELECTIONS"),
    "credit": ("laconic.train.credit", "CREDITS"),
    "objective": ("laconic.train.objectives", "OBJECTIVES"),
}
"""Section of the settings -> module and name of its table. Imported when a method is shown, not when it is listed."""


@dataclass(frozen=True)
class Method:
    """One published method."""

    id: str
    """Its name in configurations."""
    title: str
    paper: str
    """arXiv id; empty where there is none."""
    stage: str
    """A key of ``STAGES``: the section that chooses it."""
    config: str
    line: str
    """What it does, in one line."""
    traps: tuple[str, ...]
    """What goes wrong when it is used without thought."""
    status: str = "tested"
    """``tested``: worked numbers of the paper or its code are asserted."""


METHODS = (
    Method(
        "grpo",
        "Group Relative Policy Optimization",
        "2402.03300",
        "credit",
        "configs/methods/grpo.yaml",
        "advantage = z-score of the reward within the prompt's group",
        (
            "Dividing by the group's standard deviation cancels the weight of a length reward where all are right.",
            "A group of equal rewards gives no gradient; with group_size 1 there is none at all.",
            "objective.normalizer row_mean punishes long wrong answers less per token than short ones.",
        ),
    ),
    Method(
        "dr_grpo",
        "GRPO done right",
        "2503.20783",
        "credit",
        "configs/methods/dr_grpo.yaml",
        "advantage = reward minus the group's mean, no division",
        ("Complete only together with objective.normalizer=constant: the row mean brings the length bias back.",),
    ),
    Method(
        "rloo",
        "REINFORCE leave-one-out",
        "2402.14740",
        "credit",
        "configs/methods/rloo.yaml",
        "advantage = reward minus the mean reward of the others in the group",
        (
            "Equals dr_grpo times G / (G - 1): comparing the two needs the same effective learning rate.",
            "The paper's sequence-level ratio and KL inside the reward are not part of this entry, only its baseline.",
        ),
    ),
    Method(
        "reinforce_pp",
        "REINFORCE++ with a group baseline",
        "2501.03262",
        "credit",
        "configs/methods/reinforce_pp.yaml",
        "advantage = reward minus the group's mean, whitened over the tokens of the whole batch",
        (
            "Counted by tokens the mean over a group is not 0: where wrong answers are long, right ones get more.",
            "A batch of few groups makes a noisy deviation; the scale of every advantage moves with it.",
            "baseline none compares answers to easy and hard prompts with each other.",
        ),
    ),
    Method(
        "brpo",
        "Budget Relative Policy Optimization",
        "2505.13438",
        "credit",
        "configs/methods/brpo.yaml",
        "each stretch of a thought against what the group, and the thought itself, had scored up to there",
        (
            "Needs rollout.driver anytime with unit summary, and objective.normalizer constant; others are refused.",
            "A length reward prices length twice: the prior over budgets already does.",
            "No filter on the final outcome: traces of equal profiles still learn from their own progress.",
        ),
    ),
    Method(
        "tree_adv",
        "Tree advantage (TreePO)",
        "2508.17445",
        "credit",
        "configs/methods/tree_adv.yaml",
        "a leaf's reward against the means of all subtrees it is in, whitened over the batch's tokens",
        (
            "Tokens that leaves share are trained once for each leaf, so early tokens weigh most.",
            "Leaves of weight 0 count like all others unless leaf_weights is baseline or full.",
            "On flat answers this is reinforce_pp; it needs a driver that branches.",
        ),
    ),
    Method(
        "treerl",
        "Global and local advantage (TreeRL)",
        "2506.11902",
        "credit",
        "configs/methods/treerl.yaml",
        "a stretch's value against the prompt's and against the stretch before, over the root of its leaves",
        (
            "Branches stand where answers were surprising, so values are those of the sample, not of the policy.",
            "Both terms count what the first stretch after the prompt gains: it gets twice its gain.",
        ),
    ),
    Method(
        "spo",
        "Segment Policy Optimization",
        "2505.23564",
        "credit",
        "configs/methods/spo.yaml",
        "each segment gets what it adds to the value of its path; likely tokens are left out",
        (
            "Where a path does not branch its segments get 0: deep trees with few leaves teach little.",
            "A segment is trained once only where rows weigh the same: objective.normalizer constant or token_mean.",
        ),
    ),
    Method(
        "tree_grpo",
        "Tree-GRPO",
        "2509.21240",
        "credit",
        "configs/methods/tree_grpo.yaml",
        "z-score of the reward in the prompt plus its z-score in the answer's own tree",
        (
            "Small trees have few different rewards: one wrong answer among four gets -1.5 within its tree.",
            "lone reward, as published, gives a tree of one answer its reward: never below 0, whatever others did.",
        ),
    ),
    Method(
        "dot",
        "Dynamic Outlier Truncation",
        "2601.03969",
        "truncation",
        "configs/methods/dot.yaml",
        "in groups that are all right, cut answers longer than mean + alpha * std and judge them again",
        (
            "One outlier in G equal answers has z = (G - 1) / sqrt(G): with alpha 3 nothing is ever cut for G <= 10.",
            "Must come before a filter on outcomes: the groups it works on are those a filter drops.",
            "Excludes mask_truncated_completions, which takes the cut answers out of the loss.",
            "Learns from how outcomes change: as the policy gets brief, alpha and margin decide where it stops.",
        ),
    ),
    Method(
        "kl_cov",
        "KL-Cov regularisation",
        "2505.22617",
        "objective",
        "configs/methods/kl_cov.yaml",
        "penalise drift from the sampling policy on the few tokens with the highest covariance",
        (
            "No effect with one update per generation: the penalty is zero until the first update.",
            "There is no ratio clipping in this loss; keep learning rate and updates_per_batch small.",
        ),
    ),
    Method(
        "dapo",
        "Decoupled clip, token mean (DAPO)",
        "2503.14476",
        "objective",
        "configs/methods/dapo.yaml",
        "the clipped loss with a higher upper bound and a mean over all tokens of the update",
        (
            "Only the loss: sampler dynamic or filter signal, and reward.shaping overlong_soft, are chosen besides.",
            "Token mean pushes harder on long answers: a length reward acts on their many tokens.",
        ),
    ),
    Method(
        "gppo",
        "Gradient-preserving clipping (Klear-Reasoner)",
        "2508.07629",
        "objective",
        "configs/methods/gppo.yaml",
        "clip the value of a token's loss but keep its gradient; imitate right answers a little",
        (
            "With one update per generation nothing is clipped, and only the imitation term differs from clip.",
            "The gradient on the low side can take away exploration: beta_low 0.75 is the authors' later choice.",
            "The imitation term acts where all answers are right, too, and has no price on length.",
        ),
    ),
    Method(
        "cispo",
        "Clipped importance weights (MiniMax-M1)",
        "2506.13585",
        "objective",
        "configs/methods/cispo.yaml",
        "policy gradient weighted by the ratio, capped as a constant: no token loses its gradient",
        (
            "cap is the largest weight itself: trl's default of 0.2 would shrink every step to a fifth.",
            "There is no trust region on the low side; keep updates_per_batch small.",
        ),
    ),
    Method(
        "sapo",
        "Soft Adaptive Policy Optimization",
        "2511.20347",
        "objective",
        "configs/methods/sapo.yaml",
        "a sigmoid of the ratio in place of the clip: gradients fade instead of stopping",
        ("Values are 2 / tau at a ratio of 1, so the loss is not comparable with that of clip.",),
    ),
    Method(
        "gspo",
        "Group Sequence Policy Optimization",
        "2507.18071",
        "objective",
        "configs/methods/gspo.yaml",
        "one ratio per answer, the geometric mean of its tokens' ratios, clipped as a whole",
        (
            "Its bounds are a thousandth of clip's: in 16 bits a difference between engine and trainer fills them, "
            "so set objective.old=recompute there.",
            "A clipped answer loses all its tokens at once.",
            "token_credit=false spreads the advantages of tokens evenly over their answer.",
        ),
    ),
    Method(
        "ppo",
        "Proximal Policy Optimization with a critic",
        "1707.06347",
        "objective",
        "configs/methods/ppo.yaml",
        "advantages of tokens from a value head inside the policy, no comparison within groups",
        (
            "lambda_actor below 1 hides the outcome from early tokens: 0.95 leaves 0.6 % of it after 100 tokens.",
            "A critic that is new is wrong: value/explained_variance below 0.2 means advantages are mostly noise.",
            "credit has no effect, and a length reward comes in as part of the terminal reward.",
            "Needs whole weights: adapter lora is refused, because its checkpoints would not hold the critic.",
        ),
    ),
    Method(
        "vcppo",
        "Value-calibrated PPO",
        "2503.01491",
        "objective",
        "configs/methods/vcppo.yaml",
        "train the critic alone first, then use a lambda of 1 for it and of 0.95 for the policy",
        (
            "value_warmup generations teach the policy nothing; look at value/explained_variance for their number.",
            "lambda_actor stays 0.95 however long answers get; vapo lets it grow.",
        ),
    ),
    Method(
        "vapo",
        "PPO with a lambda by length",
        "2504.05118",
        "objective",
        "configs/methods/vapo.yaml",
        "PPO whose lambda is 1 - 1 / (0.05 n) for answers of n tokens, with clip-higher and imitation",
        (
            "Answers of up to 20 tokens have lambda 0: they learn from the critic alone.",
            "value_warmup generations teach the policy nothing.",
            "A shorter answer gets a smaller lambda, and so leans more on the critic.",
        ),
    ),
    Method(
        "pds",
        "Predictive Dynamic Sampling",
        "2601.03969",
        "sampler",
        "configs/methods/pds.yaml",
        "ask for as many prompts as recent pass rates predict are needed to fill the batch, in one round",
        (
            "Needs sampler.filter=signal: without a filter every group passes.",
            "Up to max_factor times the rollouts of a step; the dry run counts them.",
        ),
    ),
    Method(
        "dynamic",
        "Dynamic sampling of DAPO",
        "2503.14476",
        "sampler",
        "configs/methods/dynamic.yaml",
        "sample round after round until the batch is full of groups with right and wrong answers",
        (
            "Rounds wait for each other's longest answer: with long answers pds fills a batch in less time.",
            "Up to max_rounds times the rollouts of a step; the dry run counts them.",
            "Without shaping an all-right group is dropped; a length reward or dot works on just those groups.",
        ),
    ),
    Method(
        "gvm",
        "Gradient variance minimization (GVM)",
        "2505.02391",
        "sampler",
        "configs/methods/gvm.yaml",
        "share a step's answers out by the gradient norm and the solve rate of each prompt",
        (
            "The pilot's answers cost tokens and are not trained; estimate history needs none.",
            "Made for RAFT, which learns from every right answer: under grpo set filter_threshold below 1, "
            "or prompts that are always solved get answers that teach nothing.",
            "Fractions in the log, accuracy too, are those of a sample in which hard prompts weigh more.",
            "A prompt that the pilot never solves gets nothing in that step, however much it could teach.",
        ),
    ),
    Method(
        "curriculum",
        "Difficulty curriculum",
        "2504.05185",
        "sampler",
        "configs/methods/curriculum.yaml",
        "draw the problems whose solve rate so far lies in a band, which may move during training",
        (
            "Rates are learned on the way: in the first epoch every problem is unknown, and drawn.",
            "Fractions in the log are those of the band, not of the task.",
        ),
    ),
    Method(
        "context_curriculum",
        "Staged context (DeepScaleR)",
        "",
        "sampler",
        "configs/methods/context_curriculum.yaml",
        "raise (or lower) the longest answer, and the group size, at given steps",
        (
            "A cap far below the usual length makes every group wrong, and nothing is learned.",
            "trl.mask_truncated_completions takes away what a low cap teaches.",
            "Lengths in the log jump where a stage ends; compare runs at the same cap.",
        ),
    ),
    Method(
        "kimi_length",
        "Length reward of Kimi k1.5",
        "2501.12599",
        "reward.shaping",
        "configs/methods/kimi_length.yaml",
        "reward falls linearly from the shortest to the longest answer of the group",
        (
            "The published gate (sign_split) gives all-wrong groups a length gradient: giving up early pays.",
            "One answer at the completion cap sets the scale for all; max_quantile below 1 mends it.",
            "With credit grpo the weight cancels in groups of right answers; dr_grpo keeps it.",
        ),
    ),
    Method(
        "hapo",
        "History-Aware Policy Optimization",
        "2505.11225",
        "reward.shaping",
        "configs/methods/hapo.yaml",
        "reward right answers shorter than the shortest right one that training has seen for their problem",
        (
            "No effect before a problem's second visit: steps * prompts_per_step must exceed the number of problems.",
            "The shortest length only falls, so one lucky guess sets it for good; mode mean forgets it.",
            "The published gate (sign_split) punishes long wrong answers, in all-wrong groups as well.",
        ),
    ),
    Method(
        "o1_pruner",
        "Length-harmonizing weights (O1-Pruner)",
        "2501.12570",
        "reward.shaping",
        "configs/methods/o1_pruner.yaml",
        "reward right answers shorter than the start policy's mean for their problem",
        (
            "Ungated, as published, a short wrong answer scores above a right one.",
            "Published training is offline on two pre-samples per problem; here the weight is an online reward.",
            "Credit that subtracts the group's mean removes the reference accuracy.",
        ),
    ),
    Method(
        "adaptive_lagrangian",
        "Adaptive price per token (A-DLP)",
        "2505.18298",
        "reward.shaping",
        "configs/methods/adaptive_lagrangian.yaml",
        "charge right answers a price per token that rises while accuracy is above its target",
        (
            "The published price of 0.001 takes all of a right answer's reward at 1,000 tokens; max_penalty bounds it.",
            "Five points above the target double the published price in twenty generations; it rises while they last.",
            "With credit grpo the price cancels in groups of right answers; dr_grpo keeps it.",
        ),
    ),
    Method(
        "adaptthink",
        "Bonus for not thinking (AdaptThink)",
        "2505.13417",
        "reward.shaping",
        "configs/methods/adaptthink.yaml",
        "a bonus for right answers given without a thought",
        (
            "A policy that never answers at once gets no bonus; the paper forces half of each group to.",
            "The reference accuracy cancels under credit that subtracts the group's mean.",
            "The published gate (none) makes all-wrong groups stop thinking.",
        ),
    ),
    Method(
        "thinkless",
        "Two modes by reward (Thinkless)",
        "2505.13379",
        "reward.shaping",
        "configs/methods/thinkless.yaml",
        "right without a thought 1, right after a thought 0.5, wrong -1",
        (
            "Only the reward: control tokens, their warm-up and the split loss are not part of this entry.",
            "With objective.normalizer row_mean the mode's token weighs 1/L, so short answers move it most.",
        ),
    ),
    Method(
        "autothink",
        "Learning when to think (AutoThink)",
        "2505.10832",
        "reward.shaping",
        "configs/methods/autothink.yaml",
        "rewards by outcome and mode in three stages: balance the modes, reward accuracy, shorten",
        (
            "Each stage is a run of its own, from the weights of the one before.",
            "Stage 1 balances what is there: a policy that always thinks needs a prompt or a warm-up with both modes.",
            "As published, groups without a right answer prefer thoughts; by default they get equal rewards.",
        ),
    ),
    Method(
        "arora_sigmoid",
        "Sigmoid length reward (Training LMs to Reason Efficiently)",
        "2502.04463",
        "reward.shaping",
        "configs/methods/arora_sigmoid.yaml",
        "take up to alpha off right answers, by their length's z-score among the right ones of the group",
        (
            "With credit grpo alpha cancels in groups of right answers; rloo, as published, keeps it.",
            "Three tokens of difference in a group of right answers count like three thousand.",
        ),
    ),
    Method(
        "alp",
        "Adaptive Length Penalty",
        "2506.05256",
        "reward.shaping",
        "configs/methods/alp.yaml",
        "charge every answer for its tokens, in proportion to how often the prompt is solved",
        (
            "As published (all_wrong_groups) unsolved prompts have a price too: giving up early pays.",
            "With a norm of its own a long right answer can score below a wrong one.",
            "With credit grpo the price cancels in groups of right answers; dr_grpo keeps it.",
        ),
    ),
    Method(
        "shorterbetter",
        "ShorterBetter",
        "2504.21370",
        "reward.shaping",
        "configs/methods/shorterbetter.yaml",
        "draw right answers to the length of the shortest right one of the group",
        (
            "One lucky guess sets the length for its whole group; a quantile above 0 needs more than one.",
            "As published right answers far from that length score below wrong ones.",
            "beta is a price per token: at the published 0.001, 2,000 tokens outweigh the published alpha of 2.",
        ),
    ),
    Method(
        "gfpo",
        "Group Filtered Policy Optimization",
        "2508.09726",
        "reward.selection",
        "configs/methods/gfpo.yaml",
        "sample many answers, train only the shortest, or those with the most reward per token",
        (
            "With rewards of 0 and 1 the kept answers are often equal, and as published (stats kept) teach nothing.",
            "keep / rollout.group_size is the control: 6 of 8 hardly shortens, 4 of 16 does.",
            "Being right is no condition; short wrong answers are kept and get a negative advantage.",
        ),
    ),
    Method(
        "s_grpo",
        "Serial groups of early exits (S-GRPO)",
        "2505.07686",
        "reward.shaping",
        "configs/methods/s_grpo.yaml",
        "answer one thought from several exits; the first right one earns 1, each later one half",
        (
            "Needs rollout.driver anytime with unit summary; without exits it is the outcome alone.",
            "Exits share the thought before them, and each trains it: early tokens get the sum of their advantages.",
            "A base that never saw a cut thought answers badly from one: all exits wrong teach nothing.",
        ),
    ),
    Method(
        "hgpo",
        "Hybrid Group Policy Optimization",
        "2505.14631",
        "reward.shaping",
        "configs/methods/hgpo.yaml",
        "reward the best answer of each mode, and the mode, thinking or not, that is right more often",
        (
            "A group with one mode only compares none; published groups force half of their answers into each.",
            "As published (gate none, share 1) the best of a mode may be wrong: all-wrong groups learn to be short.",
            "The published credit of the mode acts on its token alone; here on all tokens of the answer.",
        ),
    ),
    Method(
        "short_rl",
        "Lazy length penalties (Short-RL)",
        "2505.12284",
        "reward.shaping",
        "configs/methods/short_rl.yaml",
        "a length reward with a dead zone, only while the batch is about as accurate as the best one",
        (
            "The best accuracy never falls: one lucky batch of few prompts can switch length off for long.",
            "One token beyond the dead zone costs as much as the whole dead zone.",
            "With credit grpo the weight cancels in groups of right answers; dr_grpo keeps it.",
        ),
    ),
    Method(
        "grpo_lambda",
        "GRPO-lambda: length for the best solved groups",
        "2505.18086",
        "reward.shaping",
        "configs/methods/grpo_lambda.yaml",
        "the length reward of arora_sigmoid in the best solved share of the groups, the outcome elsewhere",
        (
            "share * rollout.prompts_per_step is rounded down; small steps may have no such group.",
            "sampler.filter signal takes away the all-right groups that it shortens.",
            "Not the GRPO-lambda of eligibility traces.",
        ),
    ),
    Method(
        "laser_d",
        "LASER-D: targets by difficulty",
        "2505.15612",
        "reward.shaping",
        "configs/methods/laser_d.yaml",
        "a bonus for right answers within a target length that follows what the policy needs in each difficulty band",
        (
            "Targets are multiples of interval: the defaults mean nothing for answers below 1,024 tokens.",
            "Hard prompts keep the longest answer as their target: nothing is shortened there.",
            "A step reward: without any right answer within the target nothing is learned about length.",
        ),
    ),
    Method(
        "laser_de",
        "LASER-DE: targets by difficulty, with exploration",
        "2505.15612",
        "reward.shaping",
        "configs/methods/laser_de.yaml",
        "LASER-D, and a bonus for wrong answers beyond the target that do not repeat themselves",
        (
            "As published (all_wrong_groups) hard groups learn to be long, whatever they answer.",
            "A model that checks its work in equal words repeats itself, and earns no bonus.",
        ),
    ),
    Method(
        "lcpo_exact",
        "Length-controlled policy optimization (L1-Exact)",
        "2503.04697",
        "reward.shaping",
        "configs/methods/lcpo_exact.yaml",
        "reward falls with the distance between the length and the tokens that the prompt asks for",
        (
            "Answers shorter than their budget lose, too: easy prompts get padded.",
            "As published, all-wrong groups are paid for length and max_penalty is unlimited: both must be asked for.",
            "Budgets that differ need rollout.budget.instruction; a policy cannot obey what its prompt does not say.",
            "No second length reward beside it: that would move every budget.",
        ),
    ),
    Method(
        "lcpo_max",
        "Length-controlled policy optimization (L1-Max)",
        "2503.04697",
        "reward.shaping",
        "configs/methods/lcpo_max.yaml",
        "right answers earn more the further they stay below the tokens that the prompt allows",
        (
            "A right answer delta / alpha tokens over its budget scores like a wrong one and teaches nothing.",
            "alpha is per token: 0.0003 fits answers of thousands, and does little on a hundred.",
            "Evaluated without the instruction that it was trained with, the model has no budget to keep to.",
        ),
    ),
    Method(
        "thinkprune",
        "Iterative length pruning (ThinkPrune)",
        "2504.01296",
        "reward.shaping",
        "configs/methods/thinkprune.yaml",
        "right answers beyond a cap count as wrong, and the cap gets tighter stage by stage",
        (
            "A cap far below the usual length makes every answer wrong, and nothing is learned.",
            "sampler.filter=signal looks at outcomes: it drops all-right groups that the cap would tell apart.",
            "The published stages are runs of their own, each with its cap as rollout.max_completion.",
        ),
    ),
    Method(
        "laser",
        "Length-based step reward (LASER)",
        "2505.15612",
        "reward.shaping",
        "configs/methods/laser.yaml",
        "a fixed bonus for right answers within a target length",
        (
            "No pressure below the target, and none on answers so long that no sample reaches it.",
            "With credit grpo the bonus cancels in groups of right answers; dr_grpo keeps it.",
        ),
    ),
    Method(
        "overlong_soft",
        "Soft overlong punishment (DAPO)",
        "2503.14476",
        "reward.shaping",
        "configs/methods/overlong_soft.yaml",
        "rewards fall along a ramp over the last tokens before the completion cap",
        (
            "A stabiliser, not a way to shorten: nothing moves below cap - buffer.",
            "factor 1 belongs to outcomes +1 and -1; with 1 and 0 a right answer at the cap would equal a wrong one.",
        ),
    ),
    Method(
        "cosine",
        "Cosine length reward",
        "2502.03373",
        "reward.shaping",
        "configs/methods/cosine.yaml",
        "right answers earn less the longer they are, wrong ones lose less, along half a cosine",
        (
            "Wrong rewards span 10, right ones 1: under group statistics the wrong side rules mixed groups.",
            "Long wrong answers pay, so they get padded with repetition; add ngram_rep under reward.more.",
            "exceed_right, as published, puts right answers next to the cap below wrong ones.",
        ),
    ),
    Method(
        "ngram_rep",
        "N-gram repetition penalty",
        "2502.03373",
        "reward.shaping",
        "configs/methods/ngram_rep.yaml",
        "wrong answers lose in proportion to the n-grams they repeat",
        (
            "Meant beside a reward that makes wrong answers long (cosine, phi4_length); alone it has little to do.",
            "Work that is written down twice in equal words counts: choose ngram above the length of a step.",
        ),
    ),
    Method(
        "phi4_length",
        "Length reward of Phi-4-reasoning-plus",
        "2504.21318",
        "reward.shaping",
        "configs/methods/phi4_length.yaml",
        "right answers lose beyond a free zone, wrong ones lose less the longer they are",
        (
            "Weak by design: nothing below 25,600 tokens, and GFPO's authors report that lengths kept growing.",
            "The free zone must end well below rollout.max_completion, or only wrong answers are moved.",
            "require_thought, as published, puts right answers without a thought below wrong ones.",
        ),
    ),
    Method(
        "dler",
        "Doing Length pEnalty Right (DLER)",
        "2510.15110",
        "reward.shaping",
        "configs/methods/dler.yaml",
        "right answers beyond a fixed cap count as wrong; batch-whitened credit does the rest",
        (
            "The reward is a part only: credit reinforce_pp, epsilon_high 0.28 and the filter belong to the method.",
            "sampler.filter=signal looks at outcomes: let rollout.max_completion end just beyond the cap.",
            "A cap far below the usual length makes every answer wrong, and nothing is learned.",
        ),
    ),
    Method(
        "tldr",
        "Length levels in the prompt (TLDR)",
        "2505.07961",
        "reward.shaping",
        "configs/methods/tldr.yaml",
        "the prompt names a length level, and right answers within its target get a bonus",
        (
            "The paper's formula was not available; the form is that of laser with a target for each level.",
            "Evaluate with the words of a level in the prompt: without them the model has no target.",
        ),
    ),
    Method(
        "parallel_accel",
        "Acceleration bonus of ThreadWeaver",
        "2512.07843",
        "reward.shaping",
        "configs/methods/parallel_accel.yaml",
        "right answers earn a capped bonus for the share of tokens decoded beside each other",
        (
            "Needs a driver with threads; where an answer is one thread the bonus is zero.",
            "Use credit dr_grpo: the group's standard deviation would blow a bonus of at most 0.1 up to full size.",
            "Length penalties fight it: threads cost tokens and save steps.",
        ),
    ),
    Method(
        "treepo",
        "Segment trees (TreePO)",
        "2508.17445",
        "rollout.driver",
        "configs/methods/treepo.yaml",
        "decode in segments, branch live paths at their ends, share what comes before",
        (
            "Deep trees with few leaves save little: the branching is used up in the first log2(group_size) segments.",
            "finished_first_strict takes the worst endings first, as published.",
            "Repetition looks at text across segments; a model that checks its work in equal words needs it off.",
        ),
    ),
    Method(
        "eptree",
        "Entropy-guided trees (TreeRL)",
        "2506.11902",
        "rollout.driver",
        "configs/methods/eptree.yaml",
        "split whole answers at their most surprising tokens and decode them to the end again",
        (
            "rollout.group_size counts whole answers; leaves are group_size * (1 + splits * rounds * branches).",
            "Where answers split depends on what was sampled, so a plain mean over leaves is biased.",
        ),
    ),
    Method(
        "delethink",
        "Markovian thinking in chunks",
        "2510.06557",
        "rollout.driver",
        "configs/methods/delethink.yaml",
        "think in chunks of a fixed size that see only the end of what was thought before: cost linear in thought",
        (
            "A model that does not repeat what matters near a chunk's end loses it; look at accuracy before training.",
            "All chunks of a trace share one advantage and its length, never a chunk's own.",
        ),
    ),
    Method(
        "summary",
        "InftyThink: rounds joined by summaries",
        "2503.06692",
        "rollout.driver",
        "configs/methods/summary.yaml",
        "a round ends with a summary, and the next one sees the problem and that summary only",
        (
            "The model must write the summary marks; one that never does samples flat answers of one round.",
            "The copied summary is context; it is trained where it was sampled.",
        ),
    ),
    Method(
        "anytime",
        "Anytime reasoning over sampled budgets",
        "2505.13438",
        "rollout.driver",
        "configs/methods/anytime.yaml",
        "cut each thought at several budgets and answer from every prefix",
        (
            "A base that has never seen a cut thought answers badly from one: its first steps only learn the format.",
            "unit trace judges the largest budget alone; unit summary gives every answer an advantage of its own.",
        ),
    ),
    Method(
        "fork_join",
        "Parallel threads with joins",
        "2512.07843",
        "rollout.driver",
        "configs/methods/fork_join.yaml",
        "decode independent parts side by side and go on from a copy of all of them",
        (
            "A join reads the threads in again: cheap in decode steps, not in prefill.",
            "Without fork marks in its training data a model never forks, and this is flat sampling.",
        ),
    ),
    Method(
        "budget_force",
        "Budget forcing of s1",
        "2501.19393",
        "rollout.driver",
        "configs/methods/budget_force.yaml",
        "cap the thought, and put a word such as Wait in place of its first ends",
        (
            "Made for evaluation: forced tokens are not trained, so a policy does not learn to go on by itself.",
            "The word must be one after which the model goes on thinking.",
        ),
    ),
)


def find(method: str) -> Method:
    """The method with an id; ``ConfigError`` names the known ones."""
    table = {entry.id: entry for entry in METHODS}
    if method not in table:
        close = difflib.get_close_matches(method, table, n=1)
        hint = f"did you mean {close[0]!r}?; " if close else ""
        raise ConfigError(f"unknown method {method!r}; {hint}known: {', '.join(table)}")
    return table[method]


def method_class(method: Method) -> type:
    """The dataclass behind a method."""
    module, name = STAGES[method.stage]
    table: Mapping[str, type] = getattr(import_module(module), name)
    return resolve(method.id, table, method.stage)


def as_dict(method: Method) -> dict[str, Any]:
    """Everything about a method, ready for JSON."""
    cls = method_class(method)
    docs = field_docs(cls)
    return {
        **{key: value for key, value in vars(method).items() if key != "traps"},
        "defaults": {f.name: {"value": plain(_default(f)), "meaning": docs.get(f.name, "")} for f in own_fields(cls)},
        "traps": list(method.traps),
        "description": description(cls),
    }


def description(cls: type) -> str:
    """The docstring of the method's file: what it does, formula, source."""
    return (sys.modules[cls.__module__].__doc__ or "").strip()


def print_table() -> None:
    """The list for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("id", "stage", "arXiv", "status"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it does")
    for method in METHODS:
        table.add_row(method.id, method.stage, method.paper, method.status, method.line)
    console = Console(highlight=False)
    console.print(table)
    console.print("\nconfigurations: configs/methods/<id>.yaml\nmore about one: laconic methods show dot", markup=False)


def print_method(method: Method) -> None:
    """One method for people."""
    from rich.console import Console

    facts = as_dict(method)
    console = Console(highlight=False, soft_wrap=True)
    paper = f"arXiv {method.paper}" if method.paper else "no paper"
    console.print(f"[bold]{method.id}[/bold]: {method.title} ({paper}), {method.status}")
    console.print(f"\n{facts['description']}\n", markup=False)
    console.print(f"settings, in section {method.stage} (name: {method.id})", style="bold")
    for name, option in facts["defaults"].items():
        console.print(f"  {name}: {_in_yaml(option['value'])}", markup=False)
        console.print(f"      {option['meaning']}", markup=False, style="dim")
    if not facts["defaults"]:
        console.print("  (no options)")
    console.print("\ntraps", style="bold")
    for trap in method.traps:
        console.print(f"  - {trap}", markup=False)
    console.print(f"\ntry it: laconic train {method.config} --dry-run", markup=False)


def _in_yaml(value: Any) -> str:
    """A default as a configuration would have it; a plain word needs no quotes."""
    if isinstance(value, str) and value and "\n" not in value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else "(required)"
