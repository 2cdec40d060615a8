"""Behaviour: pictures named by people and models, read-outs of models without a classifier, and measures of both."""
