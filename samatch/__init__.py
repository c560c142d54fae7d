"""samatch: the reproducible companion of SAM-Match (Xu et al., Medical Physics 2025).

A match method in four words: predict -> propose -> refine -> loss.
"""

__version__ = "0.1.0"
