"""The solutions, each with the same rooms, and the command line that composes them."""
