"""One file a Segment Anything model: `build(...)`, and `adapt(state)` where weights exist."""
