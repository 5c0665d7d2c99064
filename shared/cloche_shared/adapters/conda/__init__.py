"""Conda packages by py-rattler, which runs in processes of its own and is loaded nowhere else."""
