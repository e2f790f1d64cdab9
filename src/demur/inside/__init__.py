"""Where a model holds harm and refusal: directions, separation, guard, cliff, and the controls beside each."""
