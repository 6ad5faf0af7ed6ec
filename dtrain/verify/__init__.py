"""`dtrain verify`: whether a training has the same bits on several numbers of ranks, and where not.

`run` starts fresh processes for each number of ranks, `record` is what they do, `compare` finds the first
difference and what made it.
"""
