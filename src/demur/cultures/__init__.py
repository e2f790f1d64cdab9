"""Values across languages: statements, answers by log-probability and long-form, refusal by language."""
