"""The labelers' pages: Gradio in our shell, with the parts that a lead puts together in Python."""
