"""One run from its settings to its records: the task, the
loop, validation, and masks for new images."""
