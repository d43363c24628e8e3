"""Fitting models. torch lives here and in modules named `training.py`; what is fitted runs without it."""
