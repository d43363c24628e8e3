"""Text for models: tokens for transformers, hashed n-grams for linear models, labelled sentences. No torch."""
