"""The CPU form's inner loops in C (src/), where they were compiled and the processor is one of theirs."""
