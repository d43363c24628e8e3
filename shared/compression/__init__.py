"""Smaller and faster packages, with proof of what that cost."""
