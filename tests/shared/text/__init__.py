"""Text without torch: n-grams, tokens, labelled sentences."""
