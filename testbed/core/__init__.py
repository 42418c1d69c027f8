"""Pure decisions: no clock, no dice of its own, no input or output. Imports numpy and nothing of this project."""
