"""What a labeling page is made of. A page is a function that is given these parts and puts them where it wants them."""

from annotate.app.components.page_part import PagePart
from annotate.app.components.ranking_board import RankingBoard


class Parts:
    """The parts of one labeling page in one language; each method puts its part where it is called."""

    def __init__(self, language: str) -> None:
        self.language = language

    def board(self) -> RankingBoard:
        """The next task with its answers; `submit` follows each answer that is stored, `select` each change."""
        return RankingBoard(tasks_from="work", elem_id="board")

    def batch(self) -> PagePart:
        """Which batch this is, and the way to the others."""
        return PagePart("batch")

    def progress(self) -> PagePart:
        """How far the batch is, and the labeler's own answers in it."""
        return PagePart("progress")

    def history(self) -> PagePart:
        """The labeler's last answers, each of which can be opened and changed."""
        return PagePart("history")


def default_page(parts: Parts) -> None:
    """The page of `rlhf label` where no other is named."""
    import gradio as gr

    with gr.Row(elem_classes="above"):
        parts.batch()
        parts.progress()
    parts.board()
