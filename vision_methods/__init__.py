"""Comparison models: one method, one file, one test file, one page.

No method has landed yet; this package fixes the name and the place in the import order
(it may import :mod:`lcl`, :mod:`neural_fits` and :mod:`stimuli`; none of them may import it).
"""
