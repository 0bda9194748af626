"""The suite `dmlab`, DeepMind Lab: each stream has an engine in a process of its own."""

from r2ac.envs.dmlab.dmlab_suite import SUITE, engine_settings, level_seeds
from r2ac.envs.dmlab.options import DmlabOptions

__all__ = ["SUITE", "DmlabOptions", "engine_settings", "level_seeds"]
