"""One file per method: predict -> propose -> loss, and SAM's refine between the last two."""
