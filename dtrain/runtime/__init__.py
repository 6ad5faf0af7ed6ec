"""From a step to numbers: device, plan, memory, session."""
