"""The levels of DeepMind Lab that are tasks here (from its folder of levels and README), and the published scores of
DMLab-30 (`dmlab30.py` of scalable_agent: random play and a human)."""

from __future__ import annotations

from r2ac.envs.suite import ReferenceScores, Split

# fmt: off
DMLAB30_RANDOM_HUMAN: dict[str, tuple[float, float]] = {
    "rooms_collect_good_objects": (0.073, 10.0), "rooms_exploit_deferred_effects": (8.501, 85.65),
    "rooms_select_nonmatching_object": (0.312, 65.9), "rooms_watermaze": (4.065, 54.0),
    "rooms_keys_doors_puzzle": (4.135, 53.8), "language_select_described_object": (-0.07, 389.5),
    "language_select_located_object": (1.929, 280.7), "language_execute_random_task": (-5.913, 254.05),
    "language_answer_quantitative_question": (-0.33, 184.5), "lasertag_one_opponent_small": (-0.224, 12.65),
    "lasertag_three_opponents_small": (-0.214, 18.55), "lasertag_one_opponent_large": (-0.083, 18.6),
    "lasertag_three_opponents_large": (-0.102, 31.5), "natlab_fixed_large_map": (2.173, 36.9),
    "natlab_varying_map_regrowth": (2.989, 24.45), "natlab_varying_map_randomized": (7.346, 42.35),
    "skymaze_irreversible_path_hard": (0.1, 100.0), "skymaze_irreversible_path_varied": (14.4, 100.0),
    "psychlab_arbitrary_visuomotor_mapping": (0.163, 58.75), "psychlab_continuous_recognition": (0.224, 58.3),
    "psychlab_sequential_comparison": (0.129, 39.5), "psychlab_visual_search": (0.085, 78.5),
    "explore_object_locations_small": (3.575, 74.45), "explore_object_locations_large": (4.673, 65.65),
    "explore_obstructed_goals_small": (6.76, 206.0), "explore_obstructed_goals_large": (2.61, 119.5),
    "explore_goal_locations_small": (7.66, 267.5), "explore_goal_locations_large": (3.14, 194.5),
    "explore_object_rewards_few": (2.073, 77.7), "explore_object_rewards_many": (2.438, 106.7),
}
"""(random, human) of the 30 tasks; those of the two with hold-out levels were measured on the hold-out level."""

BASIC_LEVELS = (
    "lt_chasm", "lt_hallway_slope", "lt_horseshoe_color", "lt_space_bounce_hard", "nav_maze_random_goal_01",
    "nav_maze_random_goal_02", "nav_maze_random_goal_03", "nav_maze_static_01", "nav_maze_static_02",
    "nav_maze_static_03", "seekavoid_arena_01", "stairway_to_melon",
)
"""The levels that come with the engine outside DMLab-30; they have no published scores."""
# fmt: on

TASKS = (*DMLAB30_RANDOM_HUMAN, *BASIC_LEVELS)

HAS_HOLD_OUT = ("rooms_collect_good_objects", "rooms_exploit_deferred_effects")
"""Tasks of two levels: `<task>_train` for the split train, the hold-out level `<task>_test` for the split test."""

NEEDS_DATASET = ("psychlab_arbitrary_visuomotor_mapping", "psychlab_continuous_recognition")
"""Tasks that show the pictures of a data set (Brady, Konkle et al. 2008), which the engine does not come with."""


def level_of(task: str, split: Split) -> str:
    """The engine's name of the level that a task plays in a split."""
    if task in BASIC_LEVELS:
        return task
    return f"contributed/dmlab30/{task}_{split}" if task in HAS_HOLD_OUT else f"contributed/dmlab30/{task}"


def reference_scores(task: str) -> ReferenceScores | None:
    """Random play and a human; None for the basic levels."""
    scores = DMLAB30_RANDOM_HUMAN.get(task)
    return None if scores is None else ReferenceScores(*scores, "random", "human")
