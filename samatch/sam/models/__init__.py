"""One file per Segment Anything model: `build(...)`, and `adapt(state)` where pretrained weights exist."""
