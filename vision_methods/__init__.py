"""Comparison models: one method, one file, one test file, one page; what they share is in files named after what it is.

``lcl methods`` lists them; :data:`vision_methods.methods.METHODS` is the dict behind it. May import :mod:`lcl`,
:mod:`neural_fits` and :mod:`stimuli`; none of them may import it.
"""
