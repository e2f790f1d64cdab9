"""How far a model's refusals carry: requests in other tenses, codes and frames, and replies begun for it."""
