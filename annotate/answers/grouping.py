"""Which rows of a file are of one task, in a few dozen bytes a row: files hold millions."""

from array import array


class RowsByTask:
    """Row numbers by task. `tasks[n]` are the rows of task n; tasks stand in the order of their first rows.

    Rows of the same answers are of one task, but of one labeler's the second opens another, the third a third.
    """

    def __init__(self) -> None:
        self._answers = bytearray()
        self._labelers = array("q")
        self._numbers: dict[str, int] = {}

    def append(self, answers_sha256: str, labeler: str) -> None:
        """The next row. answers_sha256: in hexadecimal, of what is ranked."""
        self._answers += bytes.fromhex(answers_sha256[:32])
        self._labelers.append(self._numbers.setdefault(labeler, len(self._numbers)))

    def close(self) -> None:
        """No more rows; from now on there are tasks."""
        import numpy as np

        _, answers = np.unique(np.frombuffer(bytes(self._answers), dtype="S16"), return_inverse=True)
        labelers = np.asarray(self._labelers)
        time = _times_before(answers * (len(self._numbers) + 1) + labelers)
        _, first, task = np.unique(
            answers * (int(time.max(initial=0)) + 1) + time, return_index=True, return_inverse=True
        )
        place = np.empty_like(first)
        place[np.argsort(first)] = np.arange(len(first))
        self._rows = np.argsort(place[task], kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(place[task], minlength=len(first)))])
        del self._answers

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> list[int]:
        found: list[int] = self._rows[self._starts[number] : self._starts[number + 1]].tolist()
        return found


def _times_before(keys):  # type: ignore[no-untyped-def]
    """How many times each key stood before its place."""
    import numpy as np

    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(keys)]
    run_start = np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0))
    times = np.empty_like(order)
    times[order] = np.arange(len(keys)) - run_start
    return times
