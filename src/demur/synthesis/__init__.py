"""New seemingly harmful but benign prompts for a user's own policy, as steps that can be interrupted anywhere.

Seeds or templates, then prompts, then an audit by several judges, then duplicates and diversity, then a person's
review, then a suite with its card; the same for requests for text and for pictures. Everything a model said is in a
journal, and every step is computed from it again: that is what makes it resumable.
"""
