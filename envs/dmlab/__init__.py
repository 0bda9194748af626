"""The suite `dmlab`, DeepMind Lab: each stream has an engine in a process of its own."""

from r2ac.envs.dmlab.dmlab_suite import SUITE, DmlabOptions, engine_settings, level_seeds

__all__ = ["SUITE", "DmlabOptions", "engine_settings", "level_seeds"]
