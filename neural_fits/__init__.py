"""How models are compared with brains and people; works with any torch model and knows nothing of :mod:`lcl`."""
