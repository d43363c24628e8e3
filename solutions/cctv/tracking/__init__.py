"""From detections to tracks."""

from solutions.cctv.tracking.tracker import Tracker

__all__ = ["Tracker"]
