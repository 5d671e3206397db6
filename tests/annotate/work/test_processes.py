"""Eight processes on one label store, of each kind: nobody is refused because others are at work."""

import shutil

import pytest

from annotate.labels import LabelStore, NewTask
from annotate.store.backup import check
from tests.annotate import many
from tests.annotate.many import NUM_PROCESSES, Processes
from tests.conftest import quick_folder


@pytest.fixture(scope="module")
def processes():
    with (running := Processes()).pool:
        yield running


@pytest.fixture
def team(url):
    """A store with a person for each process."""
    with LabelStore(url) as store:
        for number in range(NUM_PROCESSES):
            store.add_labeler(f"person {number}")
        yield store


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_eight_processes_open_a_new_database_at_once(processes, kind, request):
    folder = quick_folder()
    for number in range(3):
        url = (
            request.getfixturevalue("postgres").create() if kind == "postgresql" else f"{folder}/{number}.db"
        )
        assert processes.at_once(many.opened, url) == [[]] * NUM_PROCESSES
    shutil.rmtree(folder)


def test_feedback_of_everybody_at_once_is_all_kept(processes, team, url):
    assert processes.at_once(many.feedback, url, 4) == [12] * NUM_PROCESSES
    assert sum(row["answers"] for row in team.labelers()) == 12 * NUM_PROCESSES
    assert check(team.database) == []


def test_imports_and_feedback_on_the_same_prompts_by_the_same_people(processes, team, url):
    done = processes.at_once(many.importing, url, 3)
    assert done == [90, 9] * (NUM_PROCESSES // 2)
    assert sum(row["answers"] for row in team.labelers()) == sum(done)
    assert check(team.database) == []


def test_of_one_name_one_is_made_and_the_others_are_told(processes, team, url):
    made = processes.at_once(many.same_names, url)
    assert all(isinstance(one, list) for one in made), made
    for what in ("account", "batch"):
        assert sum(what in one for one in made) == 1
    for what in ("labeler", "local"):
        assert sum(what in one for one in made) == NUM_PROCESSES


def test_exports_of_the_same_answers_at_once_name_one_snapshot(processes, team, url, tmp_path):
    processes.at_once(many.feedback, url, 1)
    (name,) = set(processes.at_once(many.exported, url, str(tmp_path)))
    assert len(name) == 16 and len({path.read_text() for path in tmp_path.iterdir()}) == 1


def test_a_batch_is_changed_while_people_work_in_it(processes, team, url):
    tasks = [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(20)]
    team.add_batch("busy", tasks, overlap=3)
    done = processes.at_once(many.changing, url)
    assert all(isinstance(number, int) for number in done), done
    assert team.progress("busy").answers == sum(done) and check(team.database) == []


def test_a_reader_sees_one_state_while_others_answer(processes, team, url):
    tasks = [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(20)]
    team.add_batch("busy", tasks, overlap=4)
    seen, *answers = processes.at_once(many.counted_twice, url)
    assert len(set(seen)) == 1 and sum(answers) > 0
