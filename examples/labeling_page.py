"""A labeling page of one's own, with two fields: rlhf label --page examples.labeling_page:my_page"""

import gradio as gr

from annotate.app import labeling


def my_page(parts):
    with gr.Row():
        parts.batch()
        parts.progress()
    gr.Markdown("## How to judge\nFacts first, then tone.")
    parts.board()
    with gr.Row():
        parts.field(gr.Radio(["code", "prose"], label="Domain"), name="domain", required=True)
        parts.field(gr.Textbox(label="What would you have needed to know?"), name="missing")
    parts.history()


if __name__ == "__main__":
    labeling("labels.db", page=my_page).launch()
