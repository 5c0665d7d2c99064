"""The registry's decisions, all pure: environments, models, keys."""
