"""Where a model holds 'harmful' and 'I will refuse': directions, separation, guard, cliff, and the controls beside each."""
