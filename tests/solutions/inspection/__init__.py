"""Tests of manufacturing inspection."""
