"""Estimators: a script with the packages that it needs, said in one call."""
