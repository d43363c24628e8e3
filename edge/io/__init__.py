"""Cameras and controllers."""
