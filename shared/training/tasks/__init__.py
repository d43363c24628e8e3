"""The kinds of model that the engine trains; `shared.training.task` tells what each must say for itself."""
