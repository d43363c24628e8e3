"""Collect, validate, synthesise and convert data. Imports the core only."""
