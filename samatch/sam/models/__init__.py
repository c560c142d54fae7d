"""One file a Segment Anything model: `build(...)`, and where weights exist `adapt(state, model)`.

`read(path)` -> state too where the weights are no torch checkpoint.
"""
