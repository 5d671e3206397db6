"""One module per stage of InstructGPT, and the command line that runs them."""
