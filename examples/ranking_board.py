"""A ranking board in a page of one's own: python examples/ranking_board.py"""

import gradio as gr

from annotate.app.components.ranking_board import RankingBoard

ANSWERS = ["Mars, the *red* planet.", "The Moon.", "Mars or Venus.", "I do not know."]

with gr.Blocks(title="Which answer is best?") as page:
    board = RankingBoard({"prompt": "Name a planet.", "completions": ANSWERS})
    said = gr.JSON(label="What the person said")
    board.submit(lambda answer: answer, board, said)

if __name__ == "__main__":
    page.launch()
