"""Over-refusal of image systems: what became of each requested image, pairs, rewriting, synthesis of prompts."""
